"""Backbones: images ``(N, 3, H, W)`` to features ``(N, D)``, with ``out_features = D``.

With ``output=tokens`` some give tokens ``(N, T, D)`` instead, for heads and methods that take them.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from pickle import PickleError
from typing import Annotated, Any, Literal, TypeVar
from urllib.error import URLError
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from deephash.errors import ConfigError, DataError, raise_first
from deephash.models.dropout import dropouts, train_dropout_alone
from deephash.models.weights import fill, read_file
from deephash.utils import program
from deephash.utils.bounds import Interval, Name

T = TypeVar("T")

NUM_IMAGENET_CLASSES = 1000
Width = Annotated[int, Interval(1, 1024)]
Form = Literal["features", "tokens"]


class Torchvision(nn.Module):
    """Any torchvision classification model, without its last layer.

    The features are the input of that layer. AlexNet and VGG end at fc7 after its ReLU (D = 4096),
    ResNets at the pooled map, SqueezeNet at its last fire module, averaged over the map (D = 512).

    Args:
        name: torchvision's name of the model, one of ``torchvision.models.list_models()``.
        weights: ``imagenet`` (torchvision's IMAGENET1K_V1, what the papers used), ``none``, or a
            file with a state dict of the model, with or without its last layer. The state dict may
            be nested in others, and its names may have a prefix.
        dropout: whether the model's own dropout and stochastic depth are active in training. They
            are not in RelaHash's reference code; in that of OrthoHash, DPN, GreedyHash and CSQ they
            are.
        frozen: keep the weights and the statistics of batch norm as loaded. Dropout, if active,
            stays active in training.
        output: ``features`` (N, D); or ``tokens`` (N, T, D), of vision transformers alone: those of
            the patches of an image after the final layer norm, without the class token.

    Attributes:
        out_features: D.

    Raises:
        ConfigError: no such model, or a model without a single last layer, or without tokens.
        DataError: weights that are missing, unreadable or of another model.

    Example:
        >>> backbone = Torchvision("squeezenet1_0", weights="none")
        >>> backbone.out_features, backbone(torch.zeros(2, 3, 64, 64)).shape
        (512, torch.Size([2, 512]))
    """

    def __init__(
        self,
        name: Name,
        weights: str | None = "imagenet",
        dropout: bool = False,
        frozen: bool = False,
        output: Form = "features",
    ) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth

        raise_first(self.refused({"name": name, "output": output}), "backbone.")

        given = "none" if weights is None else str(weights)
        self.trunk = _load(name, given)
        whole = dict(self.trunk.state_dict())
        self.out_features = _cut(self.trunk, name)
        if given not in ("none", "imagenet"):
            kept = self.trunk.state_dict()
            cut = {key: value for key, value in whole.items() if key not in kept}
            fill(self.trunk, read_file(given), f"torchvision's {name}", given, cut)
        self.frozen = frozen
        self.output = output
        if not dropout:
            for module in self.trunk.modules():
                if isinstance(module, nn.Dropout | StochasticDepth):
                    module.p = 0.0
        if frozen:
            self.trunk.requires_grad_(False)

    @classmethod
    def check(cls, name: str, weights: str | None = "imagenet", **_: Any) -> None:
        """Refuse a model or weights that are missing or do not fit; make no network.

        Weights of ImageNet are downloaded if torchvision has not stored them.

        Raises:
            ConfigError: no such model.
            DataError: weights that are missing, unreadable or of another model.
        """
        with torch.device("meta"):
            cls(name, "none" if weights == "imagenet" else weights)
        if weights == "imagenet":
            choice = _imagenet(name)
            if not _stored(choice).is_file():
                _downloaded(name, choice, lambda: choice.get_state_dict(check_hash=True))

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what is wrong with the options: key, fault and what to type instead."""
        import difflib

        from torchvision import models

        name, known = str(options["name"]), models.list_models(module=models)
        if name in known:
            if options.get("output") == "tokens" and not name.startswith("vit_"):
                what = f"is tokens, and torchvision's {name} gives features alone."
                return [("output", what, "Try backbone=vit_b_16, or a transformer of timm.")]
            return []
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or "alexnet, resnet50"
        return [("name", f"torchvision has no model {name!r}.", f"Did you mean {near}?")]

    @property
    def stochastic(self) -> bool:
        """Whether the frozen network has active dropout: its features are random in training."""
        return self.frozen and bool(dropouts(self.trunk))

    def train(self, mode: bool = True) -> "Torchvision":
        super().train(mode and not self.frozen)
        if self.frozen:
            train_dropout_alone(self.trunk, mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.output == "tokens":
            return _tokens(self.trunk, images)
        features: Tensor = self.trunk(images).flatten(1)
        return features


class Identity(nn.Module):
    """No backbone: the data are features already, (N, D).

    Args:
        in_features: D, of the data; None if they are images.
        frozen: accepted, because recipes freeze the backbone; features do not change anyway.
        output: ``features``; that of a recipe which needs tokens is refused with a reason.

    Raises:
        ConfigError: the data are images.

    Example:
        >>> Identity(in_features=512)(torch.zeros(2, 512)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, in_features: int | None, frozen: bool = False, output: Form = "features"
    ) -> None:
        super().__init__()
        if in_features is None:
            raise ConfigError(
                "backbone  identity takes features, and this dataset gives images.\n"
                f"          Try backbone=alexnet; {program.command('data')} encode makes features"
                " of them."
            )
        self.out_features = in_features

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what is wrong with the options: key, fault and what to type instead."""
        if options.get("output") != "tokens":
            return []
        what = "is tokens, as the method needs them, and the data are features (N, D)."
        return [("output", what, "Use images with backbone=vit_b_16, or another method.")]

    def forward(self, features: Tensor) -> Tensor:
        return features


class Tiny(nn.Module):
    """Three small convolution blocks, to train from scratch: for digits and for tests.

    Args:
        width: channels of the first block; the next ones have twice and four times as many.
        weights: ``none``, or a file with a state dict of this module.
        pool: side of the map that is flattened into features; D = 4 * width * pool ** 2.
        frozen: keep the weights and the statistics of batch norm as they are.
        output: ``features`` (N, D); or ``tokens``: the places of that map, (N, pool ** 2,
            4 * width), for methods that take tokens.

    Attributes:
        out_features: D.

    Raises:
        ConfigError: ``weights`` is ``imagenet``.
        DataError: weights that are missing, unreadable or of another model.

    Example:
        >>> Tiny(width=4)(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        width: Width = 32,
        weights: str | None = "none",
        pool: Literal[1, 2] = 2,
        frozen: bool = False,
        output: Form = "features",
    ) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width]
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            if outputs == 2 * width:
                blocks.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveMaxPool2d(pool))
        self.output = output
        self.out_features = widths[-1] * (pool**2 if output == "features" else 1)
        if weights == "imagenet":
            raise ConfigError(
                "backbone.weights  the tiny backbone has no ImageNet weights.\n"
                "                  Try backbone.weights=none, or backbone=squeezenet1_0."
            )
        if weights not in (None, "none"):
            fill(self, read_file(str(weights)), f"backbone tiny (width {width})", str(weights), {})
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    @classmethod
    def check(cls, **options: Any) -> None:
        """Refuse weights that are missing or do not fit; make no network."""
        with torch.device("meta"):
            cls(**options)

    def train(self, mode: bool = True) -> "Tiny":
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return maps.flatten(1) if self.output == "features" else maps.flatten(2).transpose(1, 2)


def _tokens(transformer: Any, images: Tensor) -> Tensor:
    """The patch tokens of torchvision's VisionTransformer, as its own forward makes them."""
    patches = transformer._process_input(images)
    first = transformer.class_token.expand(len(images), -1, -1)
    tokens: Tensor = transformer.encoder(torch.cat([first, patches], dim=1))
    return tokens[:, 1:]


def _load(name: str, weights: str) -> nn.Module:
    """The whole torchvision model, last layer included, with its weights."""
    from torchvision import models

    builder = models.get_model_builder(name)
    network: nn.Module
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # their training heads are not part of a backbone
        options = {"aux_logits": False, "init_weights": False}
    if weights == "imagenet":
        choice = _imagenet(name)
        network = _downloaded(
            name,
            choice,
            lambda: builder(weights=choice, **({"aux_logits": False} if options else {})),
        )
        return network
    network = builder(weights=None, **options)
    return network


def _imagenet(name: str) -> Any:
    """The ImageNet weights of a model, as torchvision knows them; nothing is downloaded."""
    from torchvision import models

    enum = models.get_model_weights(name)
    choice = getattr(enum, "IMAGENET1K_V1", None)
    if choice is None:
        names = ", ".join(member.name for member in enum)
        raise DataError(f"backbone.weights  torchvision has no IMAGENET1K_V1 of {name} ({names})")
    return choice


def _downloaded(name: str, choice: Any, load: Callable[[], T]) -> T:
    """What ``load`` returns, which downloads weights if they are not here."""
    file = _stored(choice)
    try:
        return load()
    except (URLError, OSError) as error:
        raise DataError(
            f"The ImageNet weights of {name} are not here, and no download: {error}\n"
            f"  looked for  {file}\n"
            f"  either      download {choice.url} elsewhere and copy it there\n"
            f"  or          give a state dict of the model: backbone.weights=FILE\n"
            f"  (or start from random weights: backbone.weights=none)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, PickleError, BadZipFile) as error:
        raise DataError(
            f"The ImageNet weights of {name} are damaged: remove {file}, and they are downloaded"
            f" again.\n  {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


def _stored(choice: Any) -> Path:
    """Where torchvision keeps downloaded weights."""
    file: Path = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
    return file


def _cut(model: nn.Module, name: str) -> int:
    """Takes the last layer off, in place, and returns the size of what it read."""
    last = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and NUM_IMAGENET_CLASSES
        in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))
    ]
    if len(last) != 1:
        raise ConfigError(f"backbone.name  {name} has no single last layer to cut at")
    path, module = last[0]
    parent = model.get_submodule(path.rpartition(".")[0])
    key = path.rpartition(".")[2]
    if isinstance(module, nn.Linear):
        setattr(parent, key, nn.Identity())
        return module.in_features
    # SqueezeNet classifies each place of its map before it averages: average the map instead.
    assert isinstance(parent, nn.Sequential) and isinstance(module, nn.Conv2d)
    model.classifier = nn.Sequential(*list(parent)[: int(key)], nn.AdaptiveAvgPool2d(1))
    return module.in_channels
