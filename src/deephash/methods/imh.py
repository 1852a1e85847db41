"""IMH, CVPR 2013.

Shen, Shen, Shi, van den Hengel and Tang, "Inductive Hashing on Manifolds".
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from deephash.errors import ConfigError
from deephash.methods.closed_form import ClosedForm, full_precision, require_components
from deephash.models.encoder import Encoder
from deephash.types import derive, generator
from deephash.utils.bounds import Count, Interval, Positive

BLOCK = 1 << 13
"""Number of rows of features for which distances to the anchors are computed at a time."""


class Anchors(nn.Module):
    r"""Head of IMH: the weighted mean of the embeddings of the nearest anchors.

    .. math:: z = \sum_{j \in \mathrm{NN}_k(f)} w_j y_j, \qquad
              w_j \propto \exp(-\lVert f - a_j \rVert^2 / \sigma)

    Args:
        in_features: number of features D.
        nbit: number of bits K.
        anchors: m, the number of anchors a.
        neighbors: k, the number of nearest anchors.
        bandwidth: sigma. A number is in squared units of the features; 512 is FIRe's value, for
            AlexNet and VGG16 (fc7). ``mean``: the square of the mean distance between a training
            image and its k-th nearest anchor.

    Raises:
        ValueError: K is not below m, or k exceeds m.

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
                f"{nbit} bits need more than {nbit} anchors, but there are {anchors}: type"
                f" method.head.anchors={nbit + 1} at least"
            )
        if neighbors > anchors:
            raise ValueError(
                f"there are {anchors} anchors, fewer than {neighbors} neighbors: type"
                f" method.head.neighbors={anchors} at most"
            )
        self.neighbors = neighbors
        self.bandwidth = bandwidth
        self.register_buffer("center", torch.zeros(in_features))
        self.register_buffer("anchors", torch.zeros(anchors, in_features))  # minus the center
        self.register_buffer("embedding", torch.zeros(anchors, nbit))
        self.register_buffer("sigma", torch.tensor(1.0 if bandwidth == "mean" else bandwidth))

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Find the k nearest anchors of features (N, D).

        Returns:
            squared distances (N, k), minus the squared distance of the features from the center;
            and the indices of the anchors (N, k), the nearest first.
        """
        inner = (features - self.center) @ self.anchors.T
        distances = self.anchors.square().sum(dim=1) - 2 * inner
        return distances.topk(self.neighbors, largest=False)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features, self.anchors.dtype) as full:
            distances, indices = self.nearest(full)
            weight = torch.softmax(-distances / self.sigma, dim=1)  # the common term cancels
            z: Tensor = (weight[:, :, None] * self.embedding[indices]).sum(dim=1)
        return z


class IMH(ClosedForm):
    r"""Signs of a t-SNE embedding of anchors, interpolated from the nearest anchors of each image.

    The anchors are the centers of k-means. Exact t-SNE, initialized with the first principal
    components of the anchors, embeds them in K dimensions; the bits are the signs of weighted means
    of their embeddings (see `Anchors`).

    Args:
        encoder: encoder whose head is `Anchors`.
        nbit: number of bits K.
        num_train: number of training images N.
        seed: seed of k-means and t-SNE.
        iterations: maximum number of iterations of k-means.
        images_per_anchor: k-means uses at most this many times m random images; None: all. FIRe
            uses 256, the default of faiss.
        perplexity: perplexity of t-SNE, about the number of neighbors of an anchor.
        center: whether to subtract the mean of the anchors' embeddings; false in FIRe.

    Raises:
        ConfigError: K exceeds D, m exceeds N, the perplexity is not below m, or the head is of
            another class. In `fit`: there are fewer than m distinct features.

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
        require_components(nbit, width)  # the initialization of t-SNE
        if count > num_train:
            raise ConfigError(
                f"method.head.anchors  is {count}, but there are {num_train} training images.\n"
                f"                     Type method.head.anchors={num_train} at most."
            )
        if perplexity >= count:
            raise ConfigError(
                f"method.perplexity  is {perplexity:g}, but must be smaller than the number of"
                f" anchors, {count}.\n                   Type for example"
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
        """Set the anchors, their embedding and the bandwidth from features (N, D)."""
        head = self.head
        points = kmeans(self._sample(features), len(head.anchors), self.iterations, self.seed)
        embedding = tsne(points, self.nbit, self.perplexity, self.seed)
        center = points.mean(dim=0, dtype=torch.float64)
        head.center.copy_(center)
        head.anchors.copy_(points - center)
        head.embedding.copy_(embedding - embedding.mean(dim=0) if self.center else embedding)
        if head.bandwidth == "mean":
            head.sigma.copy_(self._mean_bandwidth(features))

    def _sample(self, features: Tensor) -> np.ndarray:
        """Return a copy of the features that k-means uses."""
        count = len(features)
        if self.images_per_anchor is not None:
            count = min(count, self.images_per_anchor * len(self.head.anchors))
        if count == len(features):
            rows = features.clone()
        else:
            order = torch.randperm(len(features), generator=generator(self.seed, "sample"))
            rows = features[order[:count].sort().values]
        result: np.ndarray = rows.numpy()
        return result

    def _mean_bandwidth(self, features: Tensor) -> Tensor:
        """Compute the square of the mean distance to the k-th nearest anchor."""
        head, total = self.head, 0.0
        for block in torch.split(features, BLOCK):
            rows = block.to(head.anchors)
            squared = head.nearest(rows)[0][:, -1] + (rows - head.center).square().sum(dim=1)
            total += squared.clamp(min=0).sqrt().sum(dtype=torch.float64).item()
        smallest = torch.finfo(torch.float32).tiny  # if every image is an anchor
        return torch.tensor(max((total / len(features)) ** 2, smallest))


def kmeans(features: np.ndarray, count: int, iterations: int, seed: int) -> Tensor:
    """Compute the centers of k-means, initialized with random images: (m, D) float32.

    Args:
        features: (N, D); overwritten.
        count: number of centers m.
        iterations: maximum number of iterations.
        seed: seed of the initial centers.

    Raises:
        ConfigError: there are fewer than m distinct features.

    Example:
        >>> features = np.array([[0.0], [1.0], [10.0], [11.0]], dtype=np.float32)
        >>> sorted(kmeans(features, count=2, iterations=10, seed=0).flatten().tolist())
        [0.5, 10.5]
    """
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model = KMeans(
        count,
        init="random",
        n_init=1,
        max_iter=iterations,
        copy_x=False,
        random_state=_numpy_seed(seed, "kmeans"),
    )
    # with more than two threads, the order of summation depends on which thread finishes first
    threads = min(2, torch.get_num_threads())
    with warnings.catch_warnings(), threadpool_limits(threads, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features)
    if len(np.unique(model.labels_)) < count:
        distinct = len(np.unique(features, axis=0))
        if distinct < count:
            raise ConfigError(
                f"method.head.anchors  is {count}, but the training images of k-means have only"
                f" {distinct} distinct features.\n"
                f"                     Type method.head.anchors={distinct} at most."
            )
    return torch.from_numpy(model.cluster_centers_.astype(np.float32))


def tsne(points: Tensor, nbit: int, perplexity: float, seed: int) -> Tensor:
    """Embed points (m, D) in K dimensions by exact t-SNE: (m, K) float32."""
    from sklearn.manifold import TSNE

    random_state = _numpy_seed(seed, "tsne")
    model = TSNE(nbit, method="exact", init="pca", perplexity=perplexity, random_state=random_state)
    return torch.from_numpy(model.fit_transform(points.numpy()).astype(np.float32))


def _numpy_seed(seed: int, purpose: str) -> int:
    return derive(seed, purpose) % 2**32
