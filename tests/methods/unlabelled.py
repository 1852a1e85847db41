"""The worked example that the methods without labels share, and plain loops of their parts."""

import math

import torch

from deephash.types import Batch, Output

X = [[1.0, 0], [1, 1], [0, 1], [1, 2]]
"""Features; the pairs (0, 2) and (1, 3) have cosines 0 and 0.9487."""

V = [[2.0, 1], [1, -1], [1, -2], [3, 1]]
"""Codes; their pairs have cosines 0 and 0.4472."""


def drawn(rows, seed=0, width=6):
    """Random rows in float64."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=draw, dtype=torch.float64)


def output_of(z, x, relaxation=None):
    """The input of a loss."""
    z, x = (torch.as_tensor(some, dtype=torch.float64) for some in (z, x))
    return Output.of(z, None if relaxation is None else relaxation(z), features=x)


def terms_of(loss, z, x, relaxation=None, views=1):
    """The terms of a loss as numbers."""
    result = loss(output_of(z, x, relaxation), Batch.of(None, num_views=views))
    return {key: term.item() for key, term in result.items()}


def gradient_of(loss, z, x, relaxation=None, views=1):
    """The gradient by the codes: (N, K)."""
    z = torch.as_tensor(z, dtype=torch.float64).clone().requires_grad_()
    u = None if relaxation is None else relaxation(z)
    features = torch.as_tensor(x, dtype=torch.float64).clone().requires_grad_()
    output = Output.of(z, u, features=features)
    sum(loss(output, Batch.of(None, num_views=views)).values()).backward()
    assert features.grad is None or not features.grad.any()  # a target
    return z.grad


def train_on(method, batch, optimizer, steps):
    """Take steps on one batch: the loss of each."""
    losses = []
    for _ in range(steps):
        loss = sum(method(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def distances_of_views(method, batch):
    """The share of bits in which each image's one view and each image's other differ: (B, B)."""
    one, other = (method.encode(batch)[1] >= 0).chunk(2)
    return (one[:, None] != other).double().mean(dim=2)


def cosine(a, b):
    """The cosine of two lists; 0 with zeros."""
    size = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / size if size else 0.0


def pairs(rows, parts=2):
    """Positions that are paired: the first part with the second, the third with the fourth."""
    size = rows // parts
    return [(at * size + i, (at + 1) * size + i)
            for at in range(0, parts, 2) for i in range(size)]  # fmt: skip


def sign(x):
    """As in retrieval."""
    return 1.0 if x >= 0 else -1.0


def contrast(rows, temperature):
    """For each row, how surely its other view is found among all other rows."""
    total, half = 0.0, len(rows) // 2
    for i, row in enumerate(rows):
        other = (i + half) % len(rows)
        weights = [math.exp(cosine(row, rows[j]) / temperature) for j in range(len(rows)) if j != i]
        total -= math.log(math.exp(cosine(row, rows[other]) / temperature) / sum(weights))
    return total / len(rows)
