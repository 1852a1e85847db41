"""Base class of methods: the trained modules and the hooks that the trainer calls."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from deephash.models.encoder import Encoder
from deephash.types import Batch, Terms


class Method(nn.Module):
    """Base class: an encoder and an objective that trains it.

    A subclass is selected by ``method._target_``. Its constructor takes `encoder` and may declare
    the parts ``relaxation``, ``codebook``, ``similarity`` and ``loss`` and the values
    ``num_classes``, ``nbit``, ``num_train`` and ``seed``, which are passed by name. All other
    arguments are options of the method: keys of ``method``.

    The default implementation of each hook calls the hook of every part (submodule) that defines
    it. A subclass that overrides a hook must call ``super()`` if its parts use the hook.

    Args:
        encoder: maps images to features and codes.

    Attributes:
        learns: False if nothing is optimized: no optimizer, no epochs, only `fit`.
        views: number of views of each image that the method needs; None for any number.
        labels: False if no labels are read: training then uses all images, and batches contain no
            labels. By default, labels are read if the loss reads them or if there is no loss.
        needs: the fields of `Output` that the method reads.
        tokens: True if the method needs the tokens of each image, (N, T, D), and a head that takes
            them.
        cached_features: True if `forward` uses images only through `encode` or
            ``self.encoder(images)``; features of a frozen backbone may then replace the images.
        batch_coupled: False if the objective is a mean over images, each of which depends on its
            image alone; required by ``trainer.accumulate``.
        passes: ``stacked``: one forward pass for all views. ``separate``: one forward pass per
            view, so batch norm normalizes each view by its own statistics. Set by the program.

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
    batch_coupled: ClassVar[bool] = True

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.passes = "stacked"
        self._after_step_parts: list[nn.Module] | None = None  # cached for speed

    def forward(self, batch: Batch) -> Terms:
        """Compute the named, weighted terms of the objective: scalars, means over the batch.

        Raises:
            NotImplementedError: the subclass does not define this method, which is required
                unless ``learns = False``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encode all views of a batch, in one forward pass or one per view (see `passes`).

        Returns:
            features (N, D) and codes (N, K) with N = V * B: all images of the first view, then all
            of the second, ...
        """
        images = batch.flat()
        if self.passes == "stacked" or batch.num_views == 1:
            features, z = self.encoder(images)
            return features, z
        features, z = zip(*map(self.encoder, images.chunk(batch.num_views)), strict=True)
        return torch.cat(features), torch.cat(z)

    def centers(self) -> Tensor | None:
        """Return the current class centers, (C, K); None for a method without centers."""
        return None

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trainable parameters, grouped by part.

        Returns:
            ``backbone`` and ``head`` of the encoder, then each other part under its attribute name,
            and ``method`` for parameters of the method itself. A shared parameter belongs to the
            first of these groups; groups without parameters are left out.
        """
        parts: dict[str, nn.Module] = {
            "backbone": self.encoder.backbone,
            "head": self.encoder.head,
            **{name: part for name, part in self.named_children() if name != "encoder"},
            "method": self,
        }
        groups: dict[str, list[nn.Parameter]] = {}
        assigned: set[int] = set()
        for name, part in parts.items():
            parameters = [p for p in part.parameters() if id(p) not in assigned]
            assigned |= {id(p) for p in parameters}
            if trainable := [p for p in parameters if p.requires_grad]:
                groups[name] = trainable
        return groups

    def prepare(self, data: Any) -> None:
        """Read statistics of the data, once before the first epoch, and not on resume.

        Args:
            data: the `DataModule` after its setup; it has no labels if the method is label-free.
        """
        self._call("prepare", data)

    def fit(self, features: Tensor) -> None:
        """Fit in closed form, or initialize, once before the first epoch, and not on resume.

        Args:
            features: (N, D) float32 on the CPU, the backbone's features of the training images
                under the test transform, in the order of the split. They are computed only if
                `wants_features` is true.
        """
        self._call("fit", features)

    def on_epoch_start(self, epoch: int) -> None:
        """Prepare for an epoch.

        Args:
            epoch: counted from 0.
        """
        self._call("on_epoch_start", epoch)

    def after_step(self, step: int) -> None:
        """Update state that depends on the weights (a momentum encoder), after an optimizer step.

        Called without autograd and outside of the CUDA graph (``trainer.graph``), so it must change
        tensors in place: a Python number that `forward` reads is a constant of the graph until the
        next epoch.

        Args:
            step: number of optimizer steps over all epochs, including this one.
        """
        if self._after_step_parts is None:
            self._after_step_parts = self._parts_with("after_step")
        for part in self._after_step_parts:
            part.after_step(step)  # type: ignore[operator]

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, and search again for parts with `after_step`."""
        self._after_step_parts = None
        return super().train(mode)

    @property
    def wants_features(self) -> bool:
        """Whether features must be computed for `fit`: the method or a part overrides it."""
        return type(self).fit is not Method.fit or bool(self._parts_with("fit"))

    def _call(self, hook: str, *args: Any) -> None:
        for part in self._parts_with(hook):
            getattr(part, hook)(*args)

    def _parts_with(self, hook: str) -> list[nn.Module]:
        """Return the parts that define a hook."""
        return [part for part in self.modules() if part is not self and hasattr(part, hook)]
