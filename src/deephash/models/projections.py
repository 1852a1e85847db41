"""Projections of features onto principal components, and random rotations.

Used by closed-form methods, and for the reference in reports, PCA with random rotations.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from deephash.types import generator

BLOCK = 1 << 14
"""Rows of features converted to float64 at a time; `ROWS` for D > `FULL`."""

FULL = 1024
"""The largest D for which all eigenvectors of the scatter matrix are computed (D^3)."""

ROWS, COLUMNS = 1 << 12, 1 << 9
"""Rows of features, and columns of the scatter matrix, in one product, for D > `FULL`."""


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Compute mean and first principal axes of features (N, D), in float64.

    The signs of the axes are chosen so that the entry with the largest magnitude is positive.

    Returns:
        mean (D,), and orthonormal axes (count, D) in the order of decreasing variance.

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
    """Compute the mean (D,) of features (N, D) in float64, without a float64 copy of them.

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
    """Draw a random orthogonal matrix (K, K) in float64: U of the SVD of a Gaussian matrix.

    Args:
        nbit: K.
        seed: seed of the draw.
        draw: number of the matrix; the same seed gives a different matrix for each.

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
        rotation: R, (K, K): the components V are rotated to V R; None: no rotation.

    Returns:
        weight (K, D) and bias (K,): the codes are features @ weight.T + bias.

    Example:
        PCA with ten random rotations; the axes are computed only once.

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
    """Yield blocks of centered rows in float64."""
    for rows in torch.split(features, BLOCK if len(mean) <= FULL else ROWS):
        yield rows.double() - mean


def _scatter(features: Tensor, mean: Tensor) -> Tensor:
    """Compute the scatter matrix (D, D) of features (N, D), in float64.

    For D > `FULL`, products of `ROWS` rows are computed in float32 and added in float64 (error:
    1e-6 of the largest variance), and only one half of the symmetric matrix is computed. For
    D = 4,096 this takes a third of the time.
    """
    width = len(mean)
    scatter = mean.new_zeros(width, width)
    if width <= FULL:
        for centered in _centered(features, mean):
            scatter.addmm_(centered.T, centered)
        return scatter
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    for rows in torch.split(features, ROWS):
        centered = rows.to(dtype) - mean.to(dtype)
        for at in range(0, width, COLUMNS):
            part = centered[:, at:].T @ centered[:, at : at + COLUMNS]
            scatter[at:, at : at + COLUMNS] += part
    for at in range(0, width, COLUMNS):  # copy the other half in place
        scatter[at : at + COLUMNS, at:] = scatter[at:, at : at + COLUMNS].T.clone()
    return scatter


def _eigenvectors(scatter: Tensor, count: int) -> Tensor:
    """Return orthonormal eigenvectors (count, D) in the order of decreasing eigenvalues.

    A small part is computed by the Lanczos method: 64 of 4,096 take a ninth of the time of all.
    If it does not converge, LAPACK is used.
    """
    width = len(scatter)
    if width > FULL and 8 * count <= width:
        vectors = _lanczos(scatter, count)
        if vectors is not None:
            return vectors
    if width <= FULL:
        ascending: Tensor = torch.linalg.eigh(scatter).eigenvectors
        return ascending.T.flip(0)[:count]
    from scipy.linalg import eigh

    largest = (width - count, width - 1)
    columns = eigh(scatter.cpu().numpy(), subset_by_index=largest, driver="evr")[1]
    return _descending(columns, scatter)


def _descending(columns: np.ndarray, scatter: Tensor) -> Tensor:
    """Return eigenvectors in ascending order (D, count) as rows in descending order (count, D)."""
    return torch.from_numpy(np.ascontiguousarray(columns.T[::-1])).to(scatter.device)


def _lanczos(scatter: Tensor, count: int) -> Tensor | None:
    """Return the first eigenvectors (count, D) in full precision; None without convergence."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    width = len(scatter)
    if scatter.diagonal().max().item() == 0:  # all features are constant
        return None

    def times(vector: np.ndarray) -> np.ndarray:
        product = scatter @ torch.from_numpy(vector).reshape(-1).to(scatter.device)
        result: np.ndarray = product.cpu().numpy()
        return result

    operator = LinearOperator(scatter.shape, matvec=times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(width)
    try:
        values, columns = eigsh(operator, count, which="LA", v0=start)
    except ArpackError:  # includes ArpackNoConvergence
        return None
    vectors = _descending(columns, scatter)
    eigenvalues = torch.from_numpy(values[::-1].copy()).to(scatter.device)
    identity = torch.eye(count, dtype=vectors.dtype, device=vectors.device)
    residual = (vectors @ scatter - eigenvalues[:, None] * vectors).norm(dim=1).max()
    skew = (vectors @ vectors.T - identity).abs().max()
    return vectors if residual <= 1e-9 * eigenvalues[0] and skew <= 1e-9 else None
