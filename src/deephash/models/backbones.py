"""Backbones: images ``(N, 3, H, W)`` to features ``(N, D)``, with ``out_features = D``.

With ``output=tokens``, some return tokens ``(N, T, D)`` instead, for heads and methods of tokens.
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
from deephash.models.freezing import FreezableBackbone
from deephash.models.weights import download_error, load_weights
from deephash.utils import program
from deephash.utils.bounds import Interval, Name
from deephash.utils.formatting import first_line

T = TypeVar("T")

NUM_IMAGENET_CLASSES = 1000
Width = Annotated[int, Interval(1, 1024)]
OutputKind = Literal["features", "tokens"]


class Torchvision(FreezableBackbone):
    """Any torchvision classification model without its last layer.

    The features are the input of that layer: fc7 after its ReLU for AlexNet and VGG (D = 4096), the
    pooled feature map for ResNets, the averaged output of the last fire module for SqueezeNet
    (D = 512).

    Args:
        name: torchvision's name of the model, one of ``torchvision.models.list_models()``.
        weights: ``imagenet`` (torchvision's IMAGENET1K_V1, which the papers use), ``none``, or a
            file with a state dict of the model, with or without its last layer. The state dict may
            be nested in other containers, and its names may have a prefix.
        dropout: whether the model's own dropout and stochastic depth are active in training:
            inactive in RelaHash's reference code, active in that of OrthoHash, DPN, GreedyHash and
            CSQ.
        frozen: keep the weights and the statistics of batch norm as loaded. Dropout, if active,
            stays active in training.
        output: ``features`` (N, D); or ``tokens`` (N, T, D), only for vision transformers: the
            patch tokens after the final layer norm, without the class token.

    Attributes:
        out_features: D.

    Raises:
        ConfigError: the model does not exist, or has no single last layer, or no tokens.
        DataError: the weights are missing, unreadable or of another model.

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
        output: OutputKind = "features",
    ) -> None:
        super().__init__()
        from torchvision.ops import StochasticDepth

        raise_first(self.refused({"name": name, "output": output}), "backbone.")

        weights = "none" if weights is None else str(weights)
        self.trunk = _build(name, weights)
        uncut = dict(self.trunk.state_dict())
        self.out_features = _remove_last_layer(self.trunk, name)
        if weights not in ("none", "imagenet"):
            load_weights(self.trunk, weights, f"torchvision's {name}", uncut)
        self.output = output
        if not dropout:
            for module in self.trunk.modules():
                if isinstance(module, nn.Dropout | StochasticDepth):
                    module.p = 0.0
        if frozen:
            self.freeze()

    @classmethod
    def check(cls, name: str, weights: str | None = "imagenet", **_: Any) -> None:
        """Check the model and its weights without memory for the network.

        ImageNet weights are downloaded if torchvision has not stored them.

        Raises:
            ConfigError: the model does not exist.
            DataError: the weights are missing, unreadable or of another model.
        """
        with torch.device("meta"):
            cls(name, "none" if weights == "imagenet" else weights)
        if weights == "imagenet":
            choice = _imagenet(name)
            if not _stored(choice).is_file():
                _load_imagenet(name, choice, lambda: choice.get_state_dict(check_hash=True))

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return the faults of the options: key, message and what to type instead."""
        import difflib

        from torchvision import models

        name, known = str(options["name"]), models.list_models(module=models)
        if name in known:
            if options.get("output") == "tokens" and not name.startswith("vit_"):
                message = f"is tokens, but torchvision's {name} has only features."
                return [("output", message, "Try backbone=vit_b_16, or a transformer of timm.")]
            return []
        near = ", ".join(difflib.get_close_matches(name, known, n=3)) or "alexnet, resnet50"
        return [("name", f"torchvision has no model {name!r}.", f"Did you mean {near}?")]

    def forward(self, images: Tensor) -> Tensor:
        if self.output == "tokens":
            return _tokens(self.trunk, images)
        features: Tensor = self.trunk(images).flatten(1)
        return features


class IdentityBackbone(nn.Module):
    """No backbone, for data that are features (N, D).

    Args:
        in_features: D of the data; None if they are images.
        frozen: has no effect; accepted because recipes set it.
        output: ``features``; ``tokens``, which recipes may set, is refused by `refused`.

    Raises:
        ConfigError: the data are images.

    Example:
        >>> IdentityBackbone(in_features=512)(torch.zeros(2, 512)).shape
        torch.Size([2, 512])
    """

    def __init__(
        self, in_features: int | None, frozen: bool = False, output: OutputKind = "features"
    ) -> None:
        super().__init__()
        if in_features is None:
            raise ConfigError(
                "backbone  identity takes features, but this dataset has images.\n"
                f"          Try backbone=alexnet. {program.command('data')} encode computes"
                " features."
            )
        self.out_features = in_features

    @staticmethod
    def refused(options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return the faults of the options: key, message and what to type instead."""
        if options.get("output") != "tokens":
            return []
        message = "is tokens, which the method needs, but the data are features (N, D)."
        return [("output", message, "Use images with backbone=vit_b_16, or another method.")]

    def forward(self, features: Tensor) -> Tensor:
        return features


class Tiny(FreezableBackbone):
    """Three small convolution blocks, to train from scratch: for digits and for tests.

    Args:
        width: channels of the first block; the other blocks have 2 and 4 times as many.
        weights: ``none``, or a file with a state dict of this module.
        pool: side of the pooled map, whose D = 4 * width * pool ** 2 values are the features.
        frozen: keep the weights and the statistics of batch norm unchanged.
        output: ``features`` (N, D); or ``tokens``: the positions of the pooled map as tokens,
            (N, pool ** 2, 4 * width).

    Attributes:
        out_features: D.

    Raises:
        ConfigError: ``weights`` is ``imagenet``.
        DataError: the weights are missing, unreadable or of another model.

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
        output: OutputKind = "features",
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
            load_weights(self, str(weights), f"backbone tiny (width {width})")
        if frozen:
            self.freeze()

    @classmethod
    def check(cls, **options: Any) -> None:
        """Check the weights without memory for the network."""
        with torch.device("meta"):
            cls(**options)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return maps.flatten(1) if self.output == "features" else maps.flatten(2).transpose(1, 2)


def _tokens(transformer: Any, images: Tensor) -> Tensor:
    """Compute the patch tokens of a VisionTransformer, as in its ``forward``."""
    patches = transformer._process_input(images)
    count = images.shape[0]  # len(images) would fix it in an exported graph
    class_token = transformer.class_token.expand(count, -1, -1)
    tokens: Tensor = transformer.encoder(torch.cat([class_token, patches], dim=1))
    return tokens[:, 1:]


def _build(name: str, weights: str) -> nn.Module:
    """Build the torchvision model with its last layer, and with ImageNet weights if selected."""
    from torchvision import models

    builder = models.get_model_builder(name)
    options: dict[str, bool] = {}
    if name in ("googlenet", "inception_v3"):  # without the auxiliary heads for training
        options = {"aux_logits": False}
    network: nn.Module
    if weights == "imagenet":
        choice = _imagenet(name)
        network = _load_imagenet(name, choice, lambda: builder(weights=choice, **options))
    else:
        if options:
            options["init_weights"] = False
        network = builder(weights=None, **options)
    return network


def _imagenet(name: str) -> Any:
    """Return torchvision's ImageNet weights of a model, without a download."""
    from torchvision import models

    enum = models.get_model_weights(name)
    choice = getattr(enum, "IMAGENET1K_V1", None)
    if choice is None:
        names = ", ".join(member.name for member in enum)
        raise DataError(f"backbone.weights  torchvision has no IMAGENET1K_V1 of {name} ({names})")
    return choice


def _load_imagenet(name: str, choice: Any, load: Callable[[], T]) -> T:
    """Call ``load``, which downloads weights if they are not stored, and convert its errors."""
    file = _stored(choice)
    try:
        return load()
    except (URLError, OSError) as error:
        action = f"download {choice.url} elsewhere and copy it to this path"
        raise download_error(f"ImageNet weights of {name}", error, str(file), action) from error
    except (RuntimeError, EOFError, ValueError, KeyError, PickleError, BadZipFile) as error:
        raise DataError(
            f"backbone.weights  ImageNet weights of {name} are damaged: remove {file} to download"
            f" them again.\n  {first_line(error)}"
        ) from error


def _stored(choice: Any) -> Path:
    """Return the path of downloaded weights."""
    file: Path = Path(torch.hub.get_dir()) / "checkpoints" / choice.url.rsplit("/", 1)[-1]
    return file


def _remove_last_layer(model: nn.Module, name: str) -> int:
    """Remove the last layer in place, and return the size of its input."""
    candidates = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and NUM_IMAGENET_CLASSES
        in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))
    ]
    if len(candidates) != 1:
        raise ConfigError(f"backbone.name  {name} has no single last layer to remove")
    path, module = candidates[0]
    parent_path, _, key = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if isinstance(module, nn.Linear):
        setattr(parent, key, nn.Identity())
        return module.in_features
    # SqueezeNet classifies each position of its map and then averages: average the map instead.
    assert isinstance(parent, nn.Sequential) and isinstance(module, nn.Conv2d)
    model.classifier = nn.Sequential(*list(parent)[: int(key)], nn.AdaptiveAvgPool2d(1))
    return module.in_channels
