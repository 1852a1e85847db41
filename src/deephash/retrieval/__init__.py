"""Evaluate retrieval by Hamming distance, and search codes.

It needs no other part of deephash, and evaluates codes from any model:

>>> import numpy as np
>>> query = np.array([[0.3, -1.2, 0.0, 0.7]])
>>> database = np.array([[1.0, -1, 1, 1], [1, -1, -1, 1], [1, -1, 1, -1], [-1, 1, -1, -1]])
>>> report = evaluate_codes(query, database, np.array([5]), np.array([5, 5, 2, 2]))

The relevant items are at distances 0 and 1, another item is also at 1, and the last at 4: half of
the orders give an average precision of 1, half of them (1 + 2/3) / 2.

>>> round(report["map"], 4)
0.9167
>>> {ties: round(value, 4) for ties, value in report["ties"].items()}
{'expected': 0.9167, 'stable': 1.0, 'best': 1.0, 'worst': 0.8333}
>>> report["conventions"]["metric"]
'mAP@all'

Single metrics are computed from a ranking of packed codes, with labels in any form:

>>> codes, labels = pack(binarize(database)), np.array([[1, 1], [1, 0], [0, 1], [0, 0]])
>>> ranking = Ranking(pack(binarize(query)), codes, np.array([[1, 1]]), labels, nbit=4)
>>> precision_at(Histograms.of(ranking), [2])
{2: 1.0}
>>> {k: round(value, 4) for k, value in ndcg_at(GradedHistograms.of(ranking), [3]).items()}
{3: 1.0}

Relevant items, and ignored ones (junk), may also be given as lists, as in Revisited Oxford and
Paris:

>>> truth = GroundTruth.of(size=4, relevant={"hard": [[1, 3]]}, junk={"hard": [[0]]})
>>> report = evaluate_instances(query, database, truth, "revisited")

Without item 0, items 1 and 2 are tied at the top; by trapezoids, half of the orders give 19/24,
half 5/12.

>>> round(report["setups"]["hard"]["map"], 4)
0.6042
"""

from deephash.retrieval.agreement import Agreement, FeatureNeighbours, feature_agreement
from deephash.retrieval.backends import ENGINES, Engine
from deephash.retrieval.bootstrap import PairedDifference, paired_difference
from deephash.retrieval.code_quality import (
    BitStatistics,
    DistanceHistograms,
    Orthogonality,
    PairDistances,
    QuantizationError,
    Separability,
    UndefinedError,
    bit_correlation,
    bit_statistics,
    distance_histograms,
    orthogonality,
    pair_distances,
    quantization_error,
    separability,
)
from deephash.retrieval.codes import (
    binarize,
    check_threshold,
    hamming,
    pack,
    pack_ternary,
    recentre,
    undecided,
    unpack,
)
from deephash.retrieval.codes_file import StoredCodes, StoredSide
from deephash.retrieval.conventions import DENOMINATORS, EMPTY, NAMED, TIES, Convention
from deephash.retrieval.distance_counts import Histograms, histograms
from deephash.retrieval.evaluate import (
    NO_LABELS,
    PROTOCOLS,
    describe_codes,
    evaluate_codes,
    evaluate_instances,
    rank_codes,
)
from deephash.retrieval.index import Index, Within
from deephash.retrieval.instances import InstanceRanking, gldv2
from deephash.retrieval.metrics import (
    MapResult,
    WithinRadius,
    average_precision,
    average_precision_within_radius,
    counted_precision,
    map_under,
    mean_average_precision,
    mean_average_precisions,
)
from deephash.retrieval.ndcg import (
    GAINS,
    GradedHistograms,
    acg_at,
    dcg_at,
    ndcg_at,
    wmap_at,
)
from deephash.retrieval.per_class import ByClass, by_class, class_means
from deephash.retrieval.precision_recall import (
    PrecisionRecall,
    PrecisionRecallByRank,
    hit_rate_at,
    pr_curve_by_radius,
    pr_curve_by_rank,
    precision_at,
    precision_within_radius,
    recall_at,
    recall_within_radius,
)
from deephash.retrieval.ranking import Ranking
from deephash.retrieval.revisited import RevisitedResult, revisited, trapezoid_precision
from deephash.utils.ground_truth import GroundTruth, IndexLists, Setup

__all__ = [
    "DENOMINATORS",
    "EMPTY",
    "ENGINES",
    "GAINS",
    "NAMED",
    "NO_LABELS",
    "PROTOCOLS",
    "TIES",
    "Agreement",
    "BitStatistics",
    "ByClass",
    "Convention",
    "DistanceHistograms",
    "Engine",
    "FeatureNeighbours",
    "GradedHistograms",
    "GroundTruth",
    "Histograms",
    "Index",
    "IndexLists",
    "InstanceRanking",
    "MapResult",
    "Orthogonality",
    "PairDistances",
    "PairedDifference",
    "PrecisionRecall",
    "PrecisionRecallByRank",
    "QuantizationError",
    "Ranking",
    "RevisitedResult",
    "Separability",
    "Setup",
    "StoredCodes",
    "StoredSide",
    "UndefinedError",
    "Within",
    "WithinRadius",
    "acg_at",
    "average_precision",
    "average_precision_within_radius",
    "binarize",
    "bit_correlation",
    "bit_statistics",
    "by_class",
    "check_threshold",
    "class_means",
    "counted_precision",
    "dcg_at",
    "describe_codes",
    "distance_histograms",
    "evaluate_codes",
    "evaluate_instances",
    "feature_agreement",
    "gldv2",
    "hamming",
    "histograms",
    "hit_rate_at",
    "map_under",
    "mean_average_precision",
    "mean_average_precisions",
    "ndcg_at",
    "orthogonality",
    "pack",
    "pack_ternary",
    "pair_distances",
    "paired_difference",
    "pr_curve_by_radius",
    "pr_curve_by_rank",
    "precision_at",
    "precision_within_radius",
    "quantization_error",
    "rank_codes",
    "recall_at",
    "recall_within_radius",
    "recentre",
    "revisited",
    "separability",
    "trapezoid_precision",
    "undecided",
    "unpack",
    "wmap_at",
]
