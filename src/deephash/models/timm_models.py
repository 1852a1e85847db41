"""Backbones of timm, an optional package that is imported only when one is built or checked."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from pickle import PickleError
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlparse
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deephash.errors import ConfigError, DataError, DeephashError, raise_first
from deephash.models.freezing import FreezableBackbone
from deephash.models.layers import REASON
from deephash.models.weights import download_error, load_weights
from deephash.utils.bounds import Interval, Name, Pixels
from deephash.utils.extras import import_extra
from deephash.utils.formatting import first_line

Rate = Annotated[float, Interval(0, 1, below=True)]
Fault = tuple[str, str, str]
"""An option, a message, and what to type instead."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names that timm tries in a repository of the Hugging Face Hub."""


@dataclass(frozen=True)
class InputConfig:
    """The input images of a model, as in its training.

    Attributes:
        mean: mean of each channel, for pixels in 0..1.
        std: standard deviation of each channel.
        interpolation: ``bilinear`` or ``bicubic``; None for others.
        size: side of the images.
        fixed: whether the model takes only images of this size.
        crop: side of the crop in evaluation, relative to that of the resized image.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None
    size: int
    fixed: bool
    crop: float


class Timm(FreezableBackbone):
    """Any model of timm without its last layer.

    The features are the output with ``num_classes=0``: pooled as in the model's configuration,
    then passed through the hidden layer of the head if there is one. The tokens are the output of
    ``forward_features`` without prefix tokens (class, distillation and register tokens); a feature
    map is converted to tokens in row-major order.

    Args:
        name: timm's name of the model, one of ``timm.list_models()``, optionally with the tag of
            its weights: ``vit_small_patch14_dinov2.lvd142m``. Names with a source
            (``hf-hub:``, ``local-dir:``) are refused.
        weights: ``pretrained`` (the weights in timm's configuration, downloaded from the Hugging
            Face Hub if its cache does not contain them; safetensors, or loaded with
            ``weights_only=True``), ``none``, or a file with a state dict of the model, with or
            without its last layer.
        output: ``features`` (N, D), or ``tokens`` (N, T, D).
        img_size: side of the input images; None for the model's default. Position embeddings are
            resampled after the weights are loaded.
        dropout: whether dropout and stochastic depth are active in training.
        drop_rate: dropout rate.
        drop_path_rate: rate of stochastic depth.
        frozen: keep the weights and the statistics of batch norm as loaded. Dropout, if active,
            stays active in training.
        preprocessing: ``model`` (the dataset's transforms take mean, standard deviation,
            interpolation and image size from timm's configuration of the model), or ``dataset``
            (they are unchanged). This affects the configuration, not the module.

    Attributes:
        out_features: D.

    Raises:
        ConfigError: timm is not installed, or the model or its output does not exist.
        DataError: the weights are missing, unreadable or of another model.

    Example:
        >>> backbone = Timm("resnet18", weights="none")  # doctest: +SKIP
        >>> backbone.out_features, backbone(torch.zeros(2, 3, 64, 64)).shape  # doctest: +SKIP
        (512, torch.Size([2, 512]))
    """

    not_in_features: ClassVar[tuple[str, ...]] = ("drop_rate", "drop_path_rate", "preprocessing")
    """Options that do not change features in evaluation mode."""

    def __init__(
        self,
        name: Name,
        weights: str | None = "pretrained",
        output: Literal["features", "tokens"] = "features",
        img_size: Pixels | None = None,
        dropout: bool = False,
        drop_rate: Rate = 0.0,
        drop_path_rate: Rate = 0.0,
        frozen: bool = False,
        preprocessing: Literal["model", "dataset"] = "model",
    ) -> None:
        super().__init__()
        options = {
            "name": name, "weights": weights, "output": output, "img_size": img_size,
            "dropout": dropout, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate,
        }  # fmt: skip
        raise_first(self.refused(options), "backbone.")
        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate} if dropout else {}
        trunk: Any = _build(name, weights, {key: rate for key, rate in rates.items() if rate})
        if not dropout:
            _disable_dropout(trunk)
        if img_size is not None and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(img_size, img_size))
        self.trunk = trunk
        config = _input_config(name)
        self.name = name
        self.side = (img_size or config.size) if config.fixed else None
        self.output = output
        shapes = _output_shapes(name, img_size)
        self.out_features = shapes.features if output == "features" else shapes.tokens
        self.layout = shapes.layout
        if frozen:
            self.freeze()

    @classmethod
    def check(cls, name: str, weights: str | None = "pretrained", **_: Any) -> None:
        """Check the weights without memory for the network.

        Pretrained weights are downloaded if timm's cache does not contain them.

        Raises:
            ConfigError: the model does not exist.
            DataError: the weights are missing, unreadable or of another model.
        """
        if weights == "pretrained":
            _download(name)
        else:
            with torch.device("meta"):
                _build(name, weights, {})

    @classmethod
    def refused(cls, options: Mapping[str, Any]) -> list[Fault]:
        """Return the first fault of the options: key, message and what to type instead."""
        fault = _model_fault(options) or _dropout_fault(options) or _output_fault(options)
        return [fault] if fault else []

    @classmethod
    def input_config(cls, options: Mapping[str, Any]) -> InputConfig | None:
        """Return the input images of the model; None if ``preprocessing`` is not ``model``.

        Args:
            options: arguments of the constructor. They need not be valid; None if they are not.
        """
        size = options.get("img_size")
        if options.get("preprocessing", "model") != "model" or not isinstance(size, int | None):
            return None
        try:
            if cls.refused(options):
                return None
        except (KeyError, TypeError, ValueError, DeephashError):  # the options are checked later
            return None
        config = _input_config(str(options["name"]))
        return config if size is None else replace(config, size=size)

    def forward(self, images: Tensor) -> Tensor:
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            height, width = images.shape[-2:]
            raise ConfigError(
                f"backbone  {self.name} takes images of {self.side}x{self.side}, but these are"
                f" {height}x{width}.\n          Type dataset.size={self.side} if the dataset has"
                f" this option, or backbone.img_size={height}."
            )
        if self.output == "tokens":
            return self.tokens(images)
        features: Tensor = self.trunk(images)
        return features

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer as timm groups them, from the input to the output.

        timm counts a norm layer after the last block to the classifier; here it is part of the
        last layer, so that the rates of the blocks are those of timm. Models that timm does not
        group have the layers of other backbones.
        """
        from timm.models import group_parameters

        if not hasattr(self.trunk, "group_matcher"):
            return super().layers()
        names = group_parameters(self.trunk, self.trunk.group_matcher(coarse=False))
        parameters = dict(self.trunk.named_parameters())
        divided = [[parameters[name] for name in group] for group in names.values()]
        while len(divided) > 1 and all(parameter.ndim <= 1 for parameter in divided[-1]):
            norm = divided.pop()
            divided[-1] += norm
        return divided

    def checkpoint_gradients(self) -> int:
        """Compute activations again in the backward pass; see `FreezableBackbone`."""
        if any(isinstance(module, _BatchNorm) for module in self.trunk.modules()):
            return super().checkpoint_gradients()  # timm's updates running statistics twice
        try:
            self.trunk.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):  # models for which timm has none
            return super().checkpoint_gradients()
        self.uncapturable = REASON
        return 1

    def tokens(self, images: Tensor) -> Tensor:
        """Compute the tokens: ``(N, 3, H, W) -> (N, T, D)``."""
        tokens: Tensor = self.trunk.forward_features(images)
        if self.layout == "NCHW":
            return tokens.flatten(2).transpose(1, 2)
        if self.layout == "NHWC":
            return tokens.flatten(1, 2)
        return tokens[:, _prefix_tokens(self.trunk) :]


@dataclass(frozen=True)
class _OutputShapes:
    """The shapes of a model's outputs.

    Attributes:
        features: D of the features; None if they are not (N, D).
        layout: of ``forward_features``: ``NTD``, ``NCHW`` or ``NHWC``; None for other outputs.
        tokens: D of the tokens.
    """

    features: int | None
    layout: str | None
    tokens: int


class _InputSizeError(ValueError):
    """A model does not take images of a size; the message ends a sentence."""


def _timm() -> Any:
    """Import timm.

    Raises:
        ConfigError: it is not installed.
    """
    return import_extra("timm", "backbone=timm", "backbone=torchvision backbone.name=MODEL")


def _model_fault(options: Mapping[str, Any]) -> Fault | None:
    """Return the fault of the name, the weights or the default input size of a model."""
    name, weights = str(options["name"]), options.get("weights", "pretrained")
    try:
        timm = _timm()
    except ConfigError as error:
        message, _, hint = str(error).partition("\n")
        return ("name", message.removeprefix("backbone=timm "), hint.strip())
    if weights == "imagenet":
        message = "is imagenet, but timm's own weights are called pretrained."
        return ("weights", message, "Type backbone.weights=pretrained.")
    if fault := _name_fault(timm, name):
        return fault
    if weights == "pretrained" and not timm.models.is_model_pretrained(name):
        hint = "Type backbone.weights=FILE, or backbone.weights=none."
        if tagged := timm.list_pretrained(f"{name.partition('.')[0]}.*"):
            hint = f"It has weights of backbone.name={tagged[0]}."
        return ("weights", f"is pretrained, but timm has no weights of {name}.", hint)
    size = timm.models.get_pretrained_cfg(name).input_size
    if size[0] != 3 or size[1] != size[2]:
        message = f"{name} takes images of {'x'.join(map(str, size))}, not square colour images."
        return ("name", message, "Choose another model.")
    return None


def _dropout_fault(options: Mapping[str, Any]) -> Fault | None:
    """Return the contradiction between ``dropout`` and the rates."""
    rates = [options.get(key, 0.0) for key in ("drop_rate", "drop_path_rate")]
    if options.get("dropout", False) == any(rates):
        return None
    if any(rates):
        return ("dropout", "is false, but a rate is given.", "Type backbone.dropout=true.")
    hint = "Type backbone.drop_path_rate=0.1 (stochastic depth), or backbone.drop_rate=0.2."
    return ("dropout", "is true, but both rates are 0.", hint)


def _output_fault(options: Mapping[str, Any]) -> Fault | None:
    """Return the fault of the image size or of the output, found on the meta device."""
    name, size = str(options["name"]), options.get("img_size")
    output = options.get("output", "features")
    try:
        shapes = _output_shapes(name, size)
    except _InputSizeError as error:
        if size is None:
            return ("name", f"{name} cannot be used: {error}", "Choose another model.")
        return ("img_size", f"is {size}: {error}", "Omit it, or choose another model.")
    if output == "features" and shapes.features is None:
        message = f"is features, but {name} has no single vector for an image."
        return ("output", message, "Choose another model.")
    if output == "tokens" and shapes.layout is None:
        message = f"is tokens, but {name} has no single feature map."
        return ("output", message, "Type backbone.output=features, or choose another model.")
    return None


def _name_fault(timm: Any, name: str) -> Fault | None:
    """Return the fault of a name: the model or the tag does not exist; None if both exist."""
    if any(sign in name for sign in ":/\\"):
        message = f"{name!r} names external files, but only timm's own models are supported."
        return ("name", message, "Give the architecture, and its weights as backbone.weights=FILE.")
    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture in (deprecated := timm.models.get_deprecated_models()):
        successor = deprecated[architecture]
        hint = f"Type backbone.name={successor}." if successor else "Choose another model."
        return ("name", f"timm has removed {architecture!r}.", hint)
    if architecture not in known:
        near = ", ".join(difflib.get_close_matches(architecture, known, n=3))
        message = f"timm {timm.__version__} has no model {name!r}."
        return ("name", message, f"Did you mean {near}?" if near else "See timm.list_models().")
    if "." in name:
        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        if name not in tagged:
            tags = ", ".join(tagged) or "none"
            return ("name", f"timm has no weights called {name!r}.", f"There are {tags}.")
    if timm.models.get_pretrained_cfg(name) is None:
        return ("name", f"timm has no configuration of {name!r}.", "Choose another model.")
    return None


def _input_config(name: str) -> InputConfig:
    """Read the input images of a model from timm's configuration."""
    config = _timm().models.get_pretrained_cfg(name)
    known = config.interpolation in ("bilinear", "bicubic")
    return InputConfig(
        mean=tuple(map(float, config.mean)),
        std=tuple(map(float, config.std)),
        interpolation=config.interpolation if known else None,
        size=config.input_size[-1],
        fixed=config.fixed_input_size,
        crop=float(config.crop_pct),
    )


def _build(name: str, weights: str | None, rates: Mapping[str, float]) -> nn.Module:
    """Build the model without its last layer, and load its weights."""
    timm = _timm()
    if weights == "pretrained":
        return _build_pretrained(name, rates)
    trunk: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **rates)
    if weights not in (None, "none"):
        with torch.device("meta"):
            uncut = timm.create_model(name, pretrained=False).state_dict()
        load_weights(trunk, str(weights), f"timm's {name}", uncut)
    return trunk


def _build_pretrained(name: str, rates: Mapping[str, float]) -> nn.Module:
    """Build the model with timm's own weights, downloaded if they are not in the cache.

    Raises:
        DataError: the weights could not be downloaded, or the file is damaged.
    """
    from safetensors import SafetensorError

    _download(name)
    damage = (SafetensorError, PickleError, BadZipFile, EOFError, OSError)
    try:
        trunk: nn.Module = _timm().create_model(name, pretrained=True, num_classes=0, **rates)
    except damage as error:
        raise DataError(
            f"backbone.weights  timm's weights of {name} could not be read: {first_line(error)}\n"
            f"  remove them from {_cache(name)} to download them again"
        ) from error
    return trunk


def _download(name: str) -> None:
    """Download timm's weights of a model if they are not in the cache.

    Raises:
        DataError: the download failed.
    """
    try:
        if _timm().models.get_pretrained_cfg(name).hf_hub_id:
            _download_from_hub(name)
        else:
            _download_from_url(name)
    except Exception as error:  # clients and their transports have many; no model is built here
        raise _download_error(name, error) from error


def _download_from_hub(name: str) -> None:
    """Download the first of `HUB_FILES` in the repository, if none of them is in the cache.

    A request for metadata comes first, because the client repeats failing downloads for a minute.
    """
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import EntryNotFoundError

    config = _timm().models.get_pretrained_cfg(name)
    repository, _, tag = config.hf_hub_id.partition("@")
    revision = tag or None
    files = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    for file in files:
        if isinstance(try_to_load_from_cache(repository, file, revision=revision), str):
            return
    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
        except EntryNotFoundError:
            if file == files[-1]:
                raise
            continue
        hf_hub_download(repository, file, revision=revision)
        return


def _download_from_url(name: str) -> None:
    """Download the file of a model that is not on the hub into torch's cache."""
    url = _timm().models.get_pretrained_cfg(name).url
    file = Path(_cache(name)) / Path(urlparse(url).path).name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([a-f0-9]{8,})\.", file.name)  # in file names of torch.hub
        torch.hub.download_url_to_file(
            url, str(file), digest.group(1) if digest else None, progress=False
        )


def _cache(name: str) -> str:
    """Return the folder in which timm searches for the weights of a model."""
    if not _timm().models.get_pretrained_cfg(name).hf_hub_id:
        return str(Path(torch.hub.get_dir()) / "checkpoints")
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _download_error(name: str, error: Exception) -> DataError:
    """Return the error of weights that could not be downloaded."""
    config = _timm().models.get_pretrained_cfg(name)
    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        where = f"{config.hf_hub_id} of the Hugging Face Hub"
        command = f"hf download {repository}"
        if revision:
            command += f" --revision {revision}"
        elsewhere = f"run  {command}  elsewhere, and copy its folder into this cache"
    else:
        where, elsewhere = config.url, "download this file elsewhere, and copy it into this cache"
    searched = f"{where}, in the cache {_cache(name)}"
    return download_error(f"timm's weights of {name}", error, searched, elsewhere)


def _disable_dropout(trunk: nn.Module) -> None:
    """Set all rates to 0, including the defaults of the architecture."""
    for module in trunk.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for key in ("drop_rate", "drop_prob"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)


def _prefix_tokens(trunk: Any) -> int:
    """Return the number of tokens before the patch tokens."""
    count = getattr(trunk, "num_prefix_tokens", None)
    return int(getattr(trunk, "cls_token", None) is not None) if count is None else int(count)


@lru_cache(maxsize=256)  # the jobs of a sweep often have the same backbone
def _output_shapes(name: str, img_size: int | None) -> _OutputShapes:
    """Run a model on the meta device and return the shapes of its outputs.

    Raises:
        _InputSizeError: the model does not take images of this size.
    """
    config = _input_config(name)
    side = img_size or config.size
    try:
        with torch.device("meta"):
            trunk = _timm().create_model(name, pretrained=False, num_classes=0).eval()
            images = torch.empty(2, 3, side, side)
        if img_size is not None and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(side, side))
        elif side != config.size and config.fixed:
            raise _InputSizeError(f"{name} takes only {config.size}.")
        with torch.no_grad():
            features, maps = trunk(images), trunk.forward_features(images)
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise _InputSizeError(" ".join(str(error).split()) or type(error).__name__) from error
    width = features.shape[1] if isinstance(features, Tensor) and features.ndim == 2 else None
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        return _OutputShapes(width, None, 0)
    if maps.ndim == 3:
        return _OutputShapes(width, "NTD", maps.shape[2])
    if maps.shape[3] == trunk.num_features and maps.shape[1] != trunk.num_features:
        return _OutputShapes(width, "NHWC", maps.shape[3])
    return _OutputShapes(width, "NCHW", maps.shape[1])


def license_of(name: str) -> str | None:
    """Return the licence of timm's weights of a model, as timm states it; None if it does not."""
    config = _timm().models.get_pretrained_cfg(name)
    license = getattr(config, "license", None)
    return None if license is None else str(license)
