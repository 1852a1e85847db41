"""The base class of methods: what is trained, and the hooks that the trainer calls."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from deephash.models.encoder import Encoder
from deephash.types import Batch, Terms


class Method(nn.Module):
    """Base class: an encoder and an objective that trains it.

    A subclass is selected by ``method._target_``. Its constructor takes `encoder` and, of what it
    asks for by name, the parts ``relaxation``, ``codebook``, ``similarity`` and ``loss`` and the
    values ``num_classes``, ``nbit``, ``num_train`` and ``seed``. All other arguments are its own
    options: keys of ``method``.

    The default implementation of each hook calls the hook of every part (submodule) that defines
    one. A subclass that overrides a hook calls ``super()`` if its parts still need it.

    Args:
        encoder: images to features and codes.

    Attributes:
        learns: False if nothing is optimized: no optimizer, no epoch; `fit` does all the work.
        views: how many views of each image the method needs; None for any number.
        labels: False if no label is read: training then uses all images, and no batch has labels.
            A class that does not say reads labels if its loss does, or if it has no loss.
        needs: the fields of `Output` that the method reads.
        tokens: True if it needs the tokens of each image, (N, T, D), and a head that takes them.
        cached_features: True if `forward` uses images only through `encode` or
            ``self.encoder(images)``: features of a frozen backbone may then be served in their
            place.
        passes: ``stacked``: one pass of all views through the encoder. ``separate``: one pass for
            each view; batch norm then normalizes each view by its own statistics. The program sets
            it.

    Example:
        >>> class Nearest(Method):
        ...     def __init__(self, encoder, weight: float = 1.0):
        ...         super().__init__(encoder)
        ...         self.weight = weight
        ...
        ...     def forward(self, batch):
        ...         features, z = self.encode(batch)
        ...         return {"size": self.weight * z.square().mean()}
        >>> method = Nearest(Encoder(nn.Flatten(), nn.Linear(4, 2)))
        >>> terms = method(Batch(torch.zeros(3, 1, 4), None, torch.arange(3)))
        >>> list(terms), list(method.param_groups())
        (['size'], ['head'])
    """

    learns: ClassVar[bool] = True
    views: ClassVar[int | None] = None
    labels: ClassVar[bool]
    needs: ClassVar[frozenset[str]] = frozenset()
    tokens: ClassVar[bool] = False
    cached_features: ClassVar[bool] = False

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.passes = "stacked"
        self._followers: list[nn.Module] | None = None  # parts with `after_step`

    def forward(self, batch: Batch) -> Terms:
        """Compute the named, weighted terms of the objective: scalars, means over the batch.

        Raises:
            NotImplementedError: the subclass does not define it. With ``learns = False`` it need
                not.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode all views of a batch, as `passes` says.

        Returns:
            features (N, D) and codes (N, K) with N = V * B: all images of the first view, then all
            of the second, ...
        """
        images = batch.flat()
        if self.passes == "stacked" or batch.num_views == 1:
            features, z = self.encoder(images)
            return features, z
        parts = [self.encoder(view) for view in images.chunk(batch.num_views)]
        return torch.cat([one[0] for one in parts]), torch.cat([one[1] for one in parts])

    def centers(self) -> Tensor | None:
        """Return the class centers in use, (C, K); None for a method without."""
        return None

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters by the name of the part that has them.

        Returns:
            ``backbone`` and ``head`` of the encoder, then each further part under the name of its
            attribute, and ``method`` for parameters of the method itself. Each parameter is in one
            group, the first of these; groups without parameters are left out.
        """
        owners: dict[str, nn.Module] = {"backbone": self.encoder.backbone}
        owners["head"] = self.encoder.head
        owners |= {name: part for name, part in self.named_children() if name != "encoder"}
        groups: dict[str, list[nn.Parameter]] = {}
        taken: set[int] = set()
        for name, part in [*owners.items(), ("method", self)]:
            own = [one for one in part.parameters() if id(one) not in taken]
            taken |= {id(one) for one in own}
            if trainable := [one for one in own if one.requires_grad]:
                groups[name] = trainable
        return groups

    def prepare(self, data: Any) -> None:
        """Look at the data, once, before the first epoch; not when a run is resumed.

        Args:
            data: the `DataModule`, set up; for a label-free method without its labels.
        """
        self._call("prepare", data)

    def fit(self, features: Tensor) -> None:
        """Fit in closed form, or initialize, once, before the first epoch; not on resume.

        Args:
            features: (N, D) float32 on the CPU, what the backbone makes of the training images
                under the test transform, in the order of the split. They are computed only if
                `wants_features`.
        """
        self._call("fit", features)

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare for an epoch.

        Args:
            epoch: counted from 0.
        """
        self._call("on_epoch_start", epoch)

    def after_step(self, step: int) -> None:
        """Update what follows the weights (a momentum encoder), after each optimizer step.

        It is called without autograd, and outside of a CUDA graph (``trainer.graph``): what it
        changes must be tensors, in place. A number of Python that the forward pass reads is a
        constant of the graph until the next epoch.

        Args:
            step: optimizer steps so far, this one included: from 1 on, over all epochs.
        """
        if self._followers is None:
            self._followers = self._with("after_step")
        for part in self._followers:
            part.after_step(step)  # type: ignore[operator]

    def train(self, mode: bool = True) -> Self:
        """Switch to training or evaluation mode; parts may have been replaced since."""
        self._followers = None
        return super().train(mode)

    @property
    def wants_features(self) -> bool:
        """Whether `fit` has something to do: the method overrides it, or a part defines it."""
        return type(self).fit is not Method.fit or bool(self._with("fit"))

    def _call(self, hook: str, *args: Any) -> None:
        for part in self._with(hook):
            getattr(part, hook)(*args)

    def _with(self, hook: str) -> list[nn.Module]:
        """Return the parts that define a hook."""
        return [part for part in self.modules() if part is not self and hasattr(part, hook)]
