"""Worked example of the methods without labels, and reference implementations in loops."""

import math

import torch

from deephash.types import Batch, Output
from tests.methods.loops import cosine

X = [[1.0, 0], [1, 1], [0, 1], [1, 2]]
"""Features; the pairs (0, 2) and (1, 3) have cosines 0 and 0.9487."""

V = [[2.0, 1], [1, -1], [1, -2], [3, 1]]
"""Codes; their pairs have cosines 0 and 0.4472."""


def random_rows(rows, seed=0, width=6):
    """Random rows in float64."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=draw, dtype=torch.float64)


def output_of(z, x, relaxation=None):
    """The input of a loss."""
    z, x = (torch.as_tensor(rows, dtype=torch.float64) for rows in (z, x))
    return Output.of(z, None if relaxation is None else relaxation(z), features=x)


def terms_of(loss, z, x, relaxation=None, views=1):
    """The terms of a loss as numbers."""
    result = loss(output_of(z, x, relaxation), Batch.of(None, num_views=views))
    return {key: term.item() for key, term in result.items()}


def gradient_of(loss, z, x, relaxation=None, views=1):
    """The gradient with respect to the codes: (N, K)."""
    z = torch.as_tensor(z, dtype=torch.float64).clone().requires_grad_()
    u = None if relaxation is None else relaxation(z)
    features = torch.as_tensor(x, dtype=torch.float64).clone().requires_grad_()
    output = Output.of(z, u, features=features)
    sum(loss(output, Batch.of(None, num_views=views)).values()).backward()
    assert features.grad is None or not features.grad.any()  # features are targets
    return z.grad


def train_on(method, batch, optimizer, steps):
    """Take steps on one batch, and return the loss of each."""
    losses = []
    for _ in range(steps):
        loss = sum(method(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def distances_of_views(method, batch):
    """The fraction of different bits between view 1 and view 2 of all images: (B, B)."""
    view1, view2 = (method.encode(batch)[1] >= 0).chunk(2)
    return (view1[:, None] != view2).double().mean(dim=2)


def pairs(rows, parts=2):
    """Pairs of positions: the first part with the second, the third with the fourth."""
    size = rows // parts
    return [(part * size + i, (part + 1) * size + i)
            for part in range(0, parts, 2) for i in range(size)]  # fmt: skip


def contrast(rows, temperature):
    """NT-Xent: the mean cross-entropy of the other view of a row among all other rows."""
    total, half = 0.0, len(rows) // 2
    for i, row in enumerate(rows):
        other = (i + half) % len(rows)
        weights = [math.exp(cosine(row, rows[j]) / temperature) for j in range(len(rows)) if j != i]
        total -= math.log(math.exp(cosine(row, rows[other]) / temperature) / sum(weights))
    return total / len(rows)
