"""Methods and losses that tests select by ``_target_``, under ``plugins=[tests]``."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from deephash.methods.base import Method
from deephash.methods.composed import Composed
from deephash.models.backbones import Tiny


class Blind(nn.Module):
    """A label-free loss for any number of views: codes of unit size, and balanced."""

    needs: ClassVar[frozenset[str]] = frozenset({"u"})
    labels: ClassVar[bool] = False

    def forward(self, output, batch):
        u = output.u
        return {"size": (u.square() - 1).square().mean(), "balance": u.mean(dim=0).square().mean()}


class Pairs(Blind):
    """A label-free loss of two views."""

    views: ClassVar[int] = 2

    def forward(self, output, batch):
        first, second = output.u.chunk(2)
        return {**super().forward(output, batch), "views": (first - second).square().mean()}


class Peeking(Blind):
    """A loss that reads labels although it declares that it does not."""

    def forward(self, output, batch):
        return {"size": (output.u * batch.targets.sum()).mean()}


class Looking(Blind):
    """A label-free loss that looks for labels before training."""

    def prepare(self, data):
        self.first = data.train_ids[0]
        data.labels(data.split.train)


class Misspelt(nn.Module):
    needs: ClassVar[frozenset[str]] = frozenset({"u", "code"})
    views: ClassVar[float] = 1.5

    def forward(self, output, batch):
        return {"size": output.u.square().mean()}


class Centered(Method):
    """Closed form: the head becomes a projection to random directions, less the mean."""

    learns: ClassVar[bool] = False
    labels: ClassVar[bool] = False

    def __init__(self, encoder, nbit, seed, gain: float = 1.0):
        super().__init__(encoder)
        self.nbit, self.seed, self.gain = nbit, seed, gain

    def fit(self, features: Tensor) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        weight = self.gain * torch.randn(self.nbit, features.shape[1], generator=draw)
        linear = self.encoder.head.linear
        linear.weight.copy_(weight)
        linear.bias.copy_(-weight @ features.mean(dim=0))


class Following(Composed):
    """The default method with a slow copy of its head."""

    def __init__(
        self, encoder, relaxation, loss, codebook=None, similarity=None, rate: float = 0.5
    ):
        super().__init__(encoder, relaxation, codebook, similarity, loss)
        self.rate = rate
        self.register_buffer("slow", torch.zeros(()))

    def after_step(self, step):
        self.slow.lerp_(self.encoder.head.linear.weight.mean(), self.rate)


class Frozen(Tiny):
    """A small backbone that does not learn, with random weights or those of a file."""

    def __init__(
        self,
        width: int = 4,
        frozen: bool = True,
        weights: str | None = "none",
        output: Literal["features", "tokens"] = "features",
    ) -> None:
        super().__init__(width=width, weights=weights, output=output)
        self.frozen = frozen
        self.requires_grad_(not frozen)

    def train(self, mode=True):
        return super().train(mode and not self.frozen)

    def forward(self, images):
        Frozen.seen += len(images)
        return super().forward(images)

    seen: ClassVar[int] = 0


class Fixed(nn.Module):
    """A head without parameters."""

    def __init__(self, in_features: int, nbit: int) -> None:
        super().__init__()
        self.nbit = nbit

    def forward(self, features):
        return features[:, : self.nbit]
