"""Losses used by several papers, and the types for using any loss in your own training loop.

A loss is a module ``(Output, Batch) -> Terms``: named, weighted scalars, whose sum is the loss.
`Output.of` and `Batch.of` make its arguments from codes and labels. Losses of a single paper are in
`deephash.methods`, quantization terms in `deephash.losses.quantization`.

>>> import torch
>>> loss = LMCL(num_classes=2, nbit=4, scale=1, margin=0)
>>> logits = torch.zeros(1, 2)  # equally similar to both centers
>>> terms = loss(Output.of(torch.ones(1, 4), logits=logits), Batch.of(torch.tensor([[0, 1]])))
>>> {name: round(term.item(), 4) for name, term in terms.items()}  # log 2
{'lmcl': 0.6931}
"""

from deephash.losses.contrastive import nt_xent, position_pairs
from deephash.losses.cross_entropy import CrossEntropy
from deephash.losses.labels import even_target, first_label, labelled, similar, tie_vector, vote
from deephash.losses.lmcl import LMCL
from deephash.losses.matching import CosineMatching
from deephash.losses.memory_bank import PairMemory
from deephash.losses.pairwise import PairwiseLikelihood
from deephash.types import Batch, Output, Terms

__all__ = [
    "LMCL",
    "Batch",
    "CosineMatching",
    "CrossEntropy",
    "Output",
    "PairMemory",
    "PairwiseLikelihood",
    "Terms",
    "even_target",
    "first_label",
    "labelled",
    "nt_xent",
    "position_pairs",
    "similar",
    "tie_vector",
    "vote",
]
