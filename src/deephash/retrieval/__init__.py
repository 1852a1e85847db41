"""Retrieval by Hamming distance, measured: codes in, numbers out.

Needs nothing of the rest of deephash, so it also judges codes that were trained elsewhere:

>>> import numpy as np
>>> query = np.array([[0.3, -1.2, 0.0, 0.7]])
>>> database = np.array([[1.0, -1, 1, 1], [1, -1, -1, 1], [1, -1, 1, -1], [-1, 1, -1, -1]])
>>> report = evaluate_codes(query, database, np.array([5]), np.array([5, 5, 2, 2]))

The relevant items are at distances 0 and 1, another one at 1 as well, and the last at 4: half of
the orders give an average precision of 1, half of them (1 + 2/3) / 2.

>>> round(report["map"], 4)
0.9167
>>> {ties: round(value, 4) for ties, value in report["ties"].items()}
{'expected': 0.9167, 'stable': 1.0, 'best': 1.0, 'worst': 0.8333}
>>> report["conventions"]["metric"]
'mAP@all'
"""

from deephash.retrieval.codes import (
    binarize,
    check_threshold,
    hamming,
    pack,
    pack_ternary,
    undecided,
    unpack,
)
from deephash.retrieval.diagnostics import (
    BitStatistics,
    DistanceHistograms,
    Orthogonality,
    QuantizationError,
    Separability,
    bit_correlation,
    bit_statistics,
    distance_histograms,
    orthogonality,
    quantization_error,
    separability,
)
from deephash.retrieval.histograms import Histograms, histograms
from deephash.retrieval.metrics import (
    DENOMINATORS,
    EMPTY,
    TIES,
    Convention,
    MapResult,
    PrecisionRecall,
    WithinRadius,
    average_precision,
    mean_average_precision,
    pr_curve_by_radius,
    precision_at,
    precision_within_radius,
    recall_at,
)
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.report import evaluate_codes

__all__ = [
    "DENOMINATORS",
    "EMPTY",
    "TIES",
    "BitStatistics",
    "Convention",
    "DistanceHistograms",
    "Histograms",
    "MapResult",
    "Orthogonality",
    "PrecisionRecall",
    "QuantizationError",
    "Ranking",
    "Separability",
    "WithinRadius",
    "average_precision",
    "binarize",
    "bit_correlation",
    "bit_statistics",
    "check_threshold",
    "distance_histograms",
    "evaluate_codes",
    "hamming",
    "histograms",
    "mean_average_precision",
    "orthogonality",
    "pack",
    "pack_ternary",
    "pr_curve_by_radius",
    "precision_at",
    "precision_within_radius",
    "quantization_error",
    "recall_at",
    "separability",
    "undecided",
    "unpack",
]
