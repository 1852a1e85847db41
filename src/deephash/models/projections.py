"""Linear projections of features onto principal components, and their rotations.

Closed-form methods use them, and the reference row of reports: principal components turned by a
random orthogonal matrix.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from deephash.types import generator

BLOCK = 1 << 14
"""Rows of features that are in float64 at a time (`ROWS` of wide ones), never all of them."""

FULL = 1024
"""The largest D for which all eigenvectors of the scatter matrix are computed (D^3)."""

ROWS, COLUMNS = 1 << 12, 1 << 9
"""Rows of wide features at a time, and columns in one product of the scatter matrix."""


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute mean and first principal axes of features (N, D), in float64.

    The sign of an axis is free; here its largest entry is positive.

    Returns:
        mean (D,), and orthonormal axes (count, D), those of the largest variance first.

    Example:
        >>> features = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
        >>> mean, axes = principal_axes(features, count=1)
        >>> mean.tolist(), axes.tolist()
        ([1.0, 1.0], [[1.0, 0.0]])
    """
    mean = mean_of(features)
    axes = _eigenvectors(_scatter(features, mean), count)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return mean, axes * torch.where(largest >= 0, 1.0, -1.0)


def mean_of(features: Tensor) -> Tensor:
    """Compute the mean (D,) of features (N, D) in float64, without a copy of them in float64.

    Example:
        >>> mean_of(torch.tensor([[3.0, 1.0], [-1.0, 1.0]])).tolist()
        [1.0, 1.0]
    """
    if features.numel() <= BLOCK * FULL:
        return features.mean(dim=0, dtype=torch.float64)
    total = features.new_zeros(features.shape[1], dtype=torch.float64)
    for rows in torch.split(features, ROWS):
        total += rows.sum(dim=0, dtype=torch.float64)
    return total / len(features)


def components(features: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Compute the principal components of features (N, D): (N, K), in float64.

    Example:
        >>> features = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
        >>> components(features, *principal_axes(features, count=1)).tolist()
        [[2.0], [-2.0]]
    """
    return torch.cat([centered @ axes.T for centered in _centered(features, mean)])


def random_rotation(nbit: int, seed: int, draw: int = 0) -> Tensor:
    """Draw a random orthogonal matrix (K, K), in float64: U of the SVD of a Gaussian one.

    Args:
        nbit: K.
        seed: of the matrix.
        draw: which of the matrices of this seed.

    Example:
        >>> rotation = random_rotation(nbit=8, seed=0)
        >>> torch.allclose(rotation @ rotation.T, torch.eye(8, dtype=torch.float64))
        True
    """
    names = ("rotation", draw) if draw else ("rotation",)
    gaussian = torch.randn(nbit, nbit, generator=generator(seed, *names), dtype=torch.float64)
    rotation: Tensor = torch.linalg.svd(gaussian).U
    return rotation


def projection(mean: Tensor, axes: Tensor, rotation: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Write the projection of centered features as one affine layer.

    Args:
        mean: (D,).
        axes: (K, D).
        rotation: R, (K, K): the components V become V R; None: they stay V.

    Returns:
        weight (K, D) and bias (K,): features @ weight.T + bias are the codes.

    Example:
        PCA with ten random rotations; the axes are computed once.

        >>> features = torch.randn(100, 16, generator=torch.manual_seed(0))
        >>> mean, axes = principal_axes(features, count=8)
        >>> for draw in range(10):
        ...     weight, bias = projection(mean, axes, random_rotation(8, seed=0, draw=draw))
        >>> codes = features.double() @ weight.T + bias
        >>> codes.shape
        torch.Size([100, 8])
    """
    weight = axes if rotation is None else rotation.T @ axes
    return weight, -weight @ mean


def _centered(features: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """Return blocks of rows, in float64, without their mean."""
    for rows in torch.split(features, BLOCK if len(mean) <= FULL else ROWS):
        yield rows.double() - mean


def _scatter(features: Tensor, mean: Tensor) -> Tensor:
    """Compute the scatter matrix (D, D) of features (N, D), in float64.

    For wide features, the products of some thousand rows are in float32 (their relative error is
    1e-6 of the largest variance, and sums are in float64), and only one half of the symmetric
    matrix is computed: for D = 4,096 in a third of the time.
    """
    width = len(mean)
    scatter = mean.new_zeros(width, width)
    if width <= FULL:
        for centered in _centered(features, mean):
            scatter.addmm_(centered.T, centered)
        return scatter
    kind = features.dtype if features.dtype == torch.float64 else torch.float32
    for rows in torch.split(features, ROWS):
        short = rows.to(kind) - mean.to(kind)
        for at in range(0, width, COLUMNS):
            part = short[:, at:].T @ short[:, at : at + COLUMNS]
            scatter[at:, at : at + COLUMNS] += part
    for at in range(0, width, COLUMNS):  # the other half, without a second matrix
        scatter[at : at + COLUMNS, at:] = scatter[at:, at : at + COLUMNS].T.clone()
    return scatter


def _eigenvectors(scatter: Tensor, count: int) -> Tensor:
    """Return orthonormal eigenvectors (count, D), those of the largest eigenvalues first.

    Few of many are computed by the Lanczos method: for 64 of 4,096 this takes a ninth of the time
    of all of them. What it does not solve is left to LAPACK.
    """
    width = len(scatter)
    if width > FULL and 8 * count <= width:
        first = _lanczos(scatter, count)
        if first is not None:
            return first
    if width <= FULL:
        every: Tensor = torch.linalg.eigh(scatter).eigenvectors
        return every.T.flip(0)[:count]
    from scipy.linalg import eigh

    chosen = (width - count, width - 1)
    vectors = eigh(scatter.cpu().numpy(), subset_by_index=chosen, driver="evr")[1]
    return torch.from_numpy(np.ascontiguousarray(vectors.T[::-1])).to(scatter.device)


def _lanczos(scatter: Tensor, count: int) -> Tensor | None:
    """Return the first eigenvectors (count, D) to the last digits; None without convergence."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    width, largest = len(scatter), scatter.diagonal().max().item()
    if largest == 0:  # all features are constant
        return None

    def times(vector: np.ndarray) -> np.ndarray:
        product = scatter @ torch.from_numpy(vector).reshape(-1).to(scatter.device)
        result: np.ndarray = product.cpu().numpy()
        return result

    operator = LinearOperator(scatter.shape, matvec=times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(width)
    try:
        values, vectors = eigsh(operator, count, which="LA", v0=start)
    except ArpackError:  # no convergence is one of them
        return None
    first = torch.from_numpy(np.ascontiguousarray(vectors.T[::-1])).to(scatter.device)
    level = torch.from_numpy(values[::-1].copy()).to(scatter.device)
    wrong = (first @ scatter - level[:, None] * first).norm(dim=1).max()
    turned = (
        (first @ first.T - torch.eye(count, dtype=first.dtype, device=first.device)).abs().max()
    )
    return first if wrong <= 1e-9 * level[0] and turned <= 1e-9 else None
