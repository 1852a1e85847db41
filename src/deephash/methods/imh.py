"""IMH, CVPR 2013.

Shen, Shen, Shi, van den Hengel and Tang, "Inductive Hashing on Manifolds".
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deephash.errors import ConfigError
from deephash.methods.closed_form import ClosedForm, full_precision
from deephash.models.encoder import Encoder
from deephash.types import derive, generator
from deephash.utils.bounds import Count, Interval, Positive

BLOCK = 1 << 13
"""Rows of features whose distances to all anchors are in memory at a time."""


class Anchors(nn.Module):
    r"""The weighted mean of the embeddings of the nearest anchors: the head of IMH.

    .. math:: z = \sum_{j \in \mathrm{NN}_k(f)} w_j y_j, \qquad
              w_j \propto \exp(-\lVert f - a_j \rVert^2 / \sigma)

    Args:
        in_features: D.
        nbit: K.
        anchors: m, the number of anchors a.
        neighbors: k, anchors that an image is embedded by.
        bandwidth: sigma. A number is in squared units of the features; 512 is FIRe's and suits
            those of AlexNet and VGG16 (fc7). ``mean``: the square of the mean distance between a
            training image and its k-th nearest anchor.

    Raises:
        ValueError: K is not below m, or k is above it.

    Example:
        >>> Anchors(in_features=8, nbit=4, anchors=10, neighbors=2)(torch.zeros(3, 8)).shape
        torch.Size([3, 4])
    """

    center: Tensor
    anchors: Tensor
    embedding: Tensor
    sigma: Tensor

    def __init__(
        self,
        in_features: int,
        nbit: int,
        anchors: Count = 400,
        neighbors: Count = 5,
        bandwidth: Positive | Literal["mean"] = 512.0,
    ) -> None:
        super().__init__()
        if nbit >= anchors:
            raise ValueError(
                f"{anchors} anchors are embedded in fewer than {anchors} dimensions, and there are"
                f" {nbit} bits: type method.head.anchors={nbit + 1} at least"
            )
        if neighbors > anchors:
            raise ValueError(
                f"{neighbors} nearest anchors of {anchors}: type"
                f" method.head.neighbors={anchors} at most"
            )
        self.neighbors = neighbors
        self.bandwidth = bandwidth
        self.register_buffer("center", torch.zeros(in_features))
        self.register_buffer("anchors", torch.zeros(anchors, in_features))  # less the center
        self.register_buffer("embedding", torch.zeros(anchors, nbit))
        self.register_buffer("sigma", torch.tensor(1.0 if bandwidth == "mean" else bandwidth))

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Find the k nearest anchors of features (N, D).

        Returns:
            squared distances, (N, k), less the squared distance of the features from the center;
            and which anchors, (N, k), the nearest first.
        """
        inner = (features - self.center) @ self.anchors.T
        less = self.anchors.square().sum(dim=1) - 2 * inner
        return less.topk(self.neighbors, largest=False)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features, self.anchors.dtype) as full:
            distances, chosen = self.nearest(full)
            weight = torch.softmax(-distances / self.sigma, dim=1)  # the common term cancels
            u: Tensor = (weight[:, :, None] * self.embedding[chosen]).sum(dim=1)
        return u


class IMH(ClosedForm):
    r"""Embed anchors of the features by t-SNE, and each image as the mean of its nearest anchors.

    The anchors are the centers of k-means. Exact t-SNE, begun at the first principal components of
    the anchors, embeds them in K dimensions; the bits are the signs of the weighted means of their
    embeddings (see the head).

    Args:
        encoder: its head is `Anchors`, which is filled.
        nbit: K.
        num_train: N.
        seed: of k-means and t-SNE.
        iterations: of k-means at most; it stops before if the centers stay.
        images_per_anchor: k-means takes that many times m random images at most; None: all. FIRe
            takes 256, the default of faiss.
        perplexity: of t-SNE, about the number of neighbors of an anchor.
        center: subtract the mean of the anchors' embeddings. FIRe does not, and the sign is that of
            the embedding as t-SNE returns it.

    Raises:
        ConfigError: K exceeds D, m exceeds N, the perplexity is not below m, or the head is another
            one. In `fit`: there are fewer than m different features.

    Example:
        >>> features = torch.rand(60, 8, generator=torch.manual_seed(0))
        >>> encoder = Encoder(nn.Identity(), Anchors(in_features=8, nbit=2, anchors=20))
        >>> IMH(encoder, nbit=2, num_train=60, seed=0, perplexity=5).fit(features)
        >>> encoder.encode(features).shape
        torch.Size([60, 2])
    """

    head_class: ClassVar[type[nn.Module]] = Anchors

    def __init__(
        self,
        encoder: Encoder,
        nbit: int,
        num_train: int,
        seed: int,
        iterations: Count = 200,
        images_per_anchor: Count | None = 256,
        perplexity: Annotated[float, Interval(1)] = 30.0,
        center: bool = False,
    ) -> None:
        super().__init__(encoder)
        count, width = self.head.anchors.shape
        if nbit > width:
            raise ConfigError(
                f"model.nbit  is {nbit}, and the backbone has {width} features: t-SNE begins at"
                f" the principal components, of which there are no more.\n"
                f"            Type model.nbit={width} at most, or another backbone."
            )
        if count > num_train:
            raise ConfigError(
                f"method.head.anchors  is {count}, and there are {num_train} training images.\n"
                f"                     Type method.head.anchors={num_train} at most."
            )
        if perplexity >= count:
            raise ConfigError(
                f"method.perplexity  is {perplexity:g}, and there are {count} anchors: it must be"
                f" smaller.\n                   Type for example"
                f" method.perplexity={max(1, (count - 1) // 3)}, or more anchors."
            )
        self.nbit = nbit
        self.seed = seed
        self.iterations = iterations
        self.images_per_anchor = images_per_anchor
        self.perplexity = perplexity
        self.center = center

    @property
    def head(self) -> Anchors:
        """The head of the encoder."""
        head: Anchors = self.encoder.head  # type: ignore[assignment]
        return head

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fill the head: (N, D) features of the training images."""
        head = self.head
        points = centers(self._sample(features), len(head.anchors), self.iterations, self.seed)
        embedding = embedded(points, self.nbit, self.perplexity, self.seed)
        middle = points.mean(dim=0, dtype=torch.float64)
        head.center.copy_(middle)
        head.anchors.copy_(points - middle)
        head.embedding.copy_(embedding - embedding.mean(dim=0) if self.center else embedding)
        if head.bandwidth == "mean":
            head.sigma.copy_(self._spread(features))

    def _sample(self, features: Tensor) -> np.ndarray:
        """Return the features that k-means takes, as an array of its own."""
        most = len(features)
        if self.images_per_anchor is not None:
            most = min(most, self.images_per_anchor * len(self.head.anchors))
        if most == len(features):
            rows = features.clone()
        else:
            order = torch.randperm(len(features), generator=generator(self.seed, "sample"))
            rows = features[order[:most].sort().values]
        result: np.ndarray = rows.numpy()
        return result

    def _spread(self, features: Tensor) -> Tensor:
        """Compute the square of the mean distance to the k-th nearest anchor."""
        head, total = self.head, 0.0
        for rows in torch.split(features, BLOCK):
            here = rows.to(head.anchors)
            squared = head.nearest(here)[0][:, -1] + (here - head.center).square().sum(dim=1)
            total += squared.clamp(min=0).sqrt().sum(dtype=torch.float64).item()
        smallest = torch.finfo(torch.float32).tiny  # where every image is an anchor
        return torch.tensor(max((total / len(features)) ** 2, smallest))


def centers(features: np.ndarray, count: int, iterations: int, seed: int) -> Tensor:
    """Compute the centers of k-means, from random images on: (m, D) float32.

    Args:
        features: (N, D); the array is written to.
        count: m.
        iterations: at most.
        seed: of the first centers.

    Raises:
        ConfigError: there are fewer than m different features.

    Example:
        >>> features = np.array([[0.0], [1.0], [10.0], [11.0]], dtype=np.float32)
        >>> sorted(centers(features, count=2, iterations=10, seed=0).flatten().tolist())
        [0.5, 10.5]
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    means = KMeans(count, init="random", n_init=1, max_iter=iterations, copy_x=False,
                   random_state=_numpy_seed(seed, "kmeans"))  # fmt: skip
    # sums of more than two threads are added in the order in which the threads come to their end
    threads = min(2, torch.get_num_threads())
    with warnings.catch_warnings(), threadpool_limits(threads, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(features)
    if len(np.unique(means.labels_)) < count:
        different = len(np.unique(features, axis=0))
        if different < count:
            raise ConfigError(
                f"method.head.anchors  is {count}, and k-means takes {different} different"
                " features: many training images have the same.\n"
                f"                     Type method.head.anchors={different} at most."
            )
    return torch.from_numpy(means.cluster_centers_.astype(np.float32))


def embedded(points: Tensor, nbit: int, perplexity: float, seed: int) -> Tensor:
    """Embed points (m, D) by exact t-SNE in K dimensions: (m, K) float32."""
    from sklearn.manifold import TSNE

    tsne = TSNE(nbit, method="exact", init="pca", perplexity=perplexity,
                random_state=_numpy_seed(seed, "tsne"))  # fmt: skip
    return torch.from_numpy(tsne.fit_transform(points.numpy()).astype(np.float32))


def _numpy_seed(seed: int, purpose: str) -> int:
    return derive(seed, purpose) % 2**32
