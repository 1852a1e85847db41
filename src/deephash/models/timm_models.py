"""Backbones of timm, an optional package, imported when one of them is built or checked."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from pickle import PickleError
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlparse
from zipfile import BadZipFile

import torch
from torch import Tensor, nn

from deephash.errors import ConfigError, DataError, DeephashError, raise_first
from deephash.models.dropout import dropouts, train_dropout_alone
from deephash.models.weights import fill, read_file
from deephash.utils.bounds import Interval, Name, Pixels
from deephash.utils.extras import import_extra

Rate = Annotated[float, Interval(0, 1, below=True)]
Fault = tuple[str, str, str]
"""An option, what is wrong with it, and what to type instead."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""The names under which timm looks for weights in a repository of the Hugging Face Hub."""


@dataclass(frozen=True)
class InputConfig:
    """What images a model was trained on.

    Attributes:
        mean: of each channel, for pixels in 0..1.
        std: of each channel.
        interpolation: ``bilinear`` or ``bicubic``; None if it is neither.
        size: side of the images.
        fixed: whether the model takes images of no other side.
        crop: share of the resized image's side that is cropped in evaluation.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None
    size: int
    fixed: bool
    crop: float


class Timm(nn.Module):
    """Any model of timm, without its last layer.

    The features are what timm gives for ``num_classes=0``: pooled as the model's own configuration
    says, and passed through the hidden layer of the head if there is one. The tokens are
    ``forward_features`` without the prefix tokens (class, distillation and register tokens); a
    feature map becomes tokens in row-major order.

    Args:
        name: timm's name of the model, one of ``timm.list_models()``, optionally with the tag of
            its weights: ``vit_small_patch14_dinov2.lvd142m``. Names with a source
            (``hf-hub:``, ``local-dir:``) are refused.
        weights: ``pretrained`` (those that timm's configuration names, downloaded from the Hugging
            Face Hub if they are not in its cache; safetensors, or loaded with
            ``weights_only=True``), ``none``, or a file with a state dict of the model, with or
            without its last layer.
        output: ``features`` (N, D), or ``tokens`` (N, T, D).
        img_size: side of the input images; None for that of the model's own configuration. Position
            embeddings are resampled to it after the weights are loaded.
        dropout: whether dropout and stochastic depth are active in training.
        drop_rate: rate of the dropout.
        drop_path_rate: rate of the stochastic depth.
        frozen: keep the weights and the statistics of batch norm as loaded. Dropout, if active,
            stays active in training.
        preprocessing: ``model`` (the dataset's transforms take mean, standard deviation,
            interpolation and image size from timm's configuration of the model), or ``dataset``
            (they stay as they are). It changes the configuration, not this module.

    Attributes:
        out_features: D.

    Raises:
        ConfigError: timm is not installed, or has no such model, or the model has no such output.
        DataError: weights that are missing, unreadable or of another model.

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
        trunk: Any = _load(name, weights, {key: rate for key, rate in rates.items() if rate})
        if not dropout:
            _without_dropout(trunk)
        if img_size is not None and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(img_size, img_size))
        self.trunk = trunk
        declared = _declared(name)
        self.name = name
        self.side = (img_size or declared.size) if declared.fixed else None
        self.output = output
        form = _form(name, img_size)
        self.out_features = form.width if output == "features" else form.depth
        self.layout = form.layout
        self.frozen = frozen
        if frozen:
            self.trunk.requires_grad_(False)

    @classmethod
    def check(cls, name: str, weights: str | None = "pretrained", **_: Any) -> None:
        """Refuse weights that are missing or do not fit.

        Weights of timm are downloaded if its cache does not have them; a file is compared with a
        network without memory.

        Raises:
            ConfigError: no such model.
            DataError: weights that are missing, unreadable or of another model.
        """
        if weights == "pretrained":
            _provide(name)
        else:
            with torch.device("meta"):
                _load(name, weights, {})

    @classmethod
    def refused(cls, options: Mapping[str, Any]) -> list[Fault]:
        """Return what is wrong with the options: key, fault and what to type instead."""
        name, weights = str(options["name"]), options.get("weights", "pretrained")
        try:
            timm = _timm()
        except ConfigError as error:
            what, _, instead = str(error).partition("\n")
            return [("name", what.removeprefix("backbone=timm "), instead.strip())]
        if weights == "imagenet":
            what = "is imagenet, and timm's own weights are called pretrained."
            return [("weights", what, "Type backbone.weights=pretrained.")]
        if fault := _unknown(timm, name):
            return [fault]
        if weights == "pretrained" and not timm.models.is_model_pretrained(name):
            what = f"is pretrained, and timm has no weights of {name}."
            others = timm.list_pretrained(f"{name.partition('.')[0]}.*")
            instead = "Type backbone.weights=FILE, or backbone.weights=none."
            if others:
                instead = f"It has some of backbone.name={others[0]}."
            return [("weights", what, instead)]
        size = timm.models.get_pretrained_cfg(name).input_size
        if size[0] != 3 or size[1] != size[2]:
            what = f"{name} takes images of {'x'.join(map(str, size))}, not squares in colour."
            return [("name", what, "Choose another model.")]
        rates = [options.get(key, 0.0) for key in ("drop_rate", "drop_path_rate")]
        if options.get("dropout", False) != any(rates):
            if any(rates):
                what, instead = "is false, and a rate is given.", "Type backbone.dropout=true."
            else:
                what, instead = "is true, and both rates are 0.", "Type backbone.drop_rate=0.2."
            return [("dropout", what, instead)]
        return cls._refused_forms(name, options)

    @staticmethod
    def _refused_forms(name: str, options: Mapping[str, Any]) -> list[Fault]:
        """Find what is wrong with size and output, on the meta device."""
        size, output = options.get("img_size"), options.get("output", "features")
        try:
            form = _form(name, size)
        except _NoSize as error:
            if size is None:
                return [("name", f"{name} cannot be used: {error}", "Choose another model.")]
            return [("img_size", f"is {size}: {error}", "Leave it out, or choose another model.")]
        if output == "features" and form.width is None:
            what = f"is features, and {name} has no single vector for an image."
            return [("output", what, "Choose another model.")]
        if output == "tokens" and form.layout is None:
            what = f"is tokens, and {name} has no single map of features."
            return [("output", what, "Type backbone.output=features, or choose another model.")]
        return []

    @classmethod
    def input_config(cls, options: Mapping[str, Any]) -> InputConfig | None:
        """Return what images the model takes; None where that is not to be taken from it.

        Args:
            options: of the constructor, unchecked.
        """
        size = options.get("img_size")
        if options.get("preprocessing", "model") != "model" or not isinstance(size, int | None):
            return None
        try:
            if cls.refused(options):
                return None
        except (
            KeyError,
            TypeError,
            ValueError,
            DeephashError,
        ):  # reported by the check of the options
            return None
        declared = _declared(str(options["name"]))
        return declared if size is None else InputConfig(**{**vars(declared), "size": size})

    @property
    def stochastic(self) -> bool:
        """Whether the frozen network has active dropout: its features are random in training."""
        return self.frozen and bool(dropouts(self.trunk))

    def train(self, mode: bool = True) -> "Timm":
        super().train(mode and not self.frozen)
        if self.frozen:
            train_dropout_alone(self.trunk, mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        if self.side is not None and images.shape[-2:] != (self.side, self.side):
            height, width = images.shape[-2:]
            raise ConfigError(
                f"backbone  {self.name} takes images of {self.side}x{self.side}, and these are"
                f" {height}x{width}.\n          Type dataset.size={self.side} where the dataset has"
                f" it, or backbone.img_size={height}."
            )
        if self.output == "tokens":
            return self.tokens(images)
        features: Tensor = self.trunk(images)
        return features

    def tokens(self, images: Tensor) -> Tensor:
        """Compute the tokens: ``(N, 3, H, W) -> (N, T, D)``."""
        tokens: Tensor = self.trunk.forward_features(images)
        if self.layout == "NCHW":
            return tokens.flatten(2).transpose(1, 2)
        if self.layout == "NHWC":
            return tokens.flatten(1, 2)
        return tokens[:, _prefix_tokens(self.trunk) :]


@dataclass(frozen=True)
class _Form:
    """The shapes of what a model returns.

    Attributes:
        width: of the features; None if they are not (N, width).
        layout: of ``forward_features``, ``NTD``, ``NCHW`` or ``NHWC``; None if it is no such map.
        depth: D of that map.
    """

    width: int | None
    layout: str | None
    depth: int


class _NoSize(ValueError):
    """A model does not take images of a size; the message ends a sentence."""


def _timm() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    return import_extra("timm", "backbone=timm", "backbone=torchvision backbone.name=MODEL")


def _unknown(timm: Any, name: str) -> Fault | None:
    """Return the fault of a name: no such model, or no such tag; None where both exist."""
    if any(sign in name for sign in ":/\\"):
        what = f"{name!r} names files of others, and only timm's own models are built."
        return ("name", what, "Give the architecture, and its weights as backbone.weights=FILE.")
    architecture = name.partition(".")[0]
    known = timm.list_models()
    if architecture in (deprecated := timm.models.get_deprecated_models()):
        now = deprecated[architecture]
        instead = f"Type backbone.name={now}." if now else "Choose another model."
        return ("name", f"timm has removed {architecture!r}.", instead)
    if architecture not in known:
        near = ", ".join(difflib.get_close_matches(architecture, known, n=3))
        what = f"timm {timm.__version__} has no model {name!r}."
        return ("name", what, f"Did you mean {near}?" if near else "See timm.list_models().")
    if "." in name:
        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        if name not in tagged:
            tags = ", ".join(tagged) or "none"
            return ("name", f"timm has no weights called {name!r}.", f"There are {tags}.")
    if timm.models.get_pretrained_cfg(name) is None:
        return ("name", f"timm has no configuration of {name!r}.", "Choose another model.")
    return None


def _declared(name: str) -> InputConfig:
    """Read what images a model takes from timm's configuration of it."""
    declared = _timm().models.get_pretrained_cfg(name)
    known = declared.interpolation in ("bilinear", "bicubic")
    return InputConfig(
        mean=tuple(map(float, declared.mean)),
        std=tuple(map(float, declared.std)),
        interpolation=declared.interpolation if known else None,
        size=declared.input_size[-1],
        fixed=declared.fixed_input_size,
        crop=float(declared.crop_pct),
    )


def _load(name: str, weights: str | None, rates: Mapping[str, float]) -> nn.Module:
    """Build the model without its last layer, and load its weights."""
    timm = _timm()
    if weights == "pretrained":
        return _downloaded(name, rates)
    trunk: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **rates)
    if weights not in (None, "none"):
        with torch.device("meta"):
            whole = timm.create_model(name, pretrained=False).state_dict()
        kept = trunk.state_dict()
        cut = {key: value for key, value in whole.items() if key not in kept}
        fill(trunk, read_file(str(weights)), f"timm's {name}", str(weights), cut)
    return trunk


def _downloaded(name: str, rates: Mapping[str, float]) -> nn.Module:
    """Build the model with timm's own weights; download them if they are not in the cache.

    Raises:
        DataError: they could not be downloaded, or the file is damaged.
    """
    from safetensors import SafetensorError

    _provide(name)
    damage = (SafetensorError, PickleError, BadZipFile, EOFError, OSError)
    try:
        trunk: nn.Module = _timm().create_model(name, pretrained=True, num_classes=0, **rates)
    except damage as error:
        raise DataError(
            f"backbone.weights  timm's weights of {name} could not be read: {_reason(error)}\n"
            f"  remove them from {_cache(name)}, and they are downloaded again"
        ) from error
    return trunk


def _provide(name: str) -> None:
    """Download timm's weights of a model if they are not in the cache.

    Raises:
        DataError: they could not be downloaded.
    """
    try:
        if _timm().models.get_pretrained_cfg(name).hf_hub_id:
            _provide_from_hub(name)
        else:
            _provide_from_url(name)
    except Exception as error:  # of the clients and their transport: no model is built here
        raise _not_downloaded(name, error) from error


def _provide_from_hub(name: str) -> None:
    """Download the first of `HUB_FILES` that the repository has, if none is in the cache.

    The hub is asked once before, because its client tries downloads again for a minute.
    """
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import EntryNotFoundError

    declared = _timm().models.get_pretrained_cfg(name)
    origin, _, tag = declared.hf_hub_id.partition("@")
    revision = tag or None
    files = (declared.hf_hub_filename,) if declared.hf_hub_filename else HUB_FILES
    for file in files:
        if isinstance(try_to_load_from_cache(origin, file, revision=revision), str):
            return
    for file in files:
        try:
            get_hf_file_metadata(hf_hub_url(origin, file, revision=revision))
        except EntryNotFoundError:
            if file == files[-1]:
                raise
            continue
        hf_hub_download(origin, file, revision=revision)
        return


def _provide_from_url(name: str) -> None:
    """Download the file of a model that is not on the hub, to where timm looks for it."""
    url = _timm().models.get_pretrained_cfg(name).url
    file = Path(_cache(name)) / Path(urlparse(url).path).name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        known = re.search(r"-([a-f0-9]{8,})\.", file.name)  # as torch.hub names files
        torch.hub.download_url_to_file(
            url, str(file), known.group(1) if known else None, progress=False
        )


def _cache(name: str) -> str:
    """The folder in which timm looks for the weights of a model."""
    if not _timm().models.get_pretrained_cfg(name).hf_hub_id:
        return str(Path(torch.hub.get_dir()) / "checkpoints")
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _reason(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _not_downloaded(name: str, error: Exception) -> DataError:
    """Make the error of weights that could not be downloaded."""
    declared = _timm().models.get_pretrained_cfg(name)
    if declared.hf_hub_id:
        origin, _, revision = declared.hf_hub_id.partition("@")
        where = f"{declared.hf_hub_id} of the Hugging Face Hub"
        command = f"hf download {origin}" + (f" --revision {revision}" if revision else "")
        elsewhere = f"run  {command}  elsewhere, and copy its folder into that cache"
    else:
        where, elsewhere = declared.url, "download that file elsewhere, and copy it into that cache"
    return DataError(
        f"backbone.weights  timm's weights of {name} could not be downloaded: {_reason(error)}\n"
        f"  looked for  {where}, in its cache {_cache(name)}\n"
        f"  either      {elsewhere}\n"
        f"  or          give a state dict of the model: backbone.weights=FILE\n"
        f"  (or start from random weights: backbone.weights=none)"
    )


def _without_dropout(trunk: nn.Module) -> None:
    """Set all rates to 0, those that the architecture has by default too."""
    for module in trunk.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for key in ("drop_rate", "drop_prob"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)


def _prefix_tokens(trunk: Any) -> int:
    """How many tokens stand before those of the patches."""
    count = getattr(trunk, "num_prefix_tokens", None)
    return int(getattr(trunk, "cls_token", None) is not None) if count is None else int(count)


@lru_cache(maxsize=256)  # a sweep has the same backbone again and again
def _form(name: str, img_size: int | None) -> _Form:
    """Run a model on the meta device and return the shapes of its outputs.

    Raises:
        _NoSize: it takes no images of this size.
    """
    declared = _declared(name)
    side = img_size or declared.size
    try:
        with torch.device("meta"):
            trunk = _timm().create_model(name, pretrained=False, num_classes=0).eval()
            images = torch.empty(2, 3, side, side)
        if img_size is not None and hasattr(trunk, "set_input_size"):
            trunk.set_input_size(img_size=(side, side))
        elif side != declared.size and declared.fixed:
            raise _NoSize(f"{name} takes {declared.size} alone.")
        with torch.no_grad():
            features, maps = trunk(images), trunk.forward_features(images)
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise _NoSize(" ".join(str(error).split()) or type(error).__name__) from error
    width = features.shape[1] if isinstance(features, Tensor) and features.ndim == 2 else None
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        return _Form(width, None, 0)
    if maps.ndim == 3:
        return _Form(width, "NTD", maps.shape[2])
    if maps.shape[3] == trunk.num_features and maps.shape[1] != trunk.num_features:
        return _Form(width, "NHWC", maps.shape[3])
    return _Form(width, "NCHW", maps.shape[1])
