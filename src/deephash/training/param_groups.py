"""Parameter groups of an optimizer: a learning rate for each part of a method."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from deephash.errors import ConfigError


def parameter_groups(
    parts: Mapping[str, list[nn.Parameter]],
    lr: float,
    backbone_scale: float,
    lr_scale: Mapping[str, float] | None = None,
    layers: Sequence[Sequence[nn.Parameter]] = (),
    layer_decay: float | None = None,
    decay_1d: bool = True,
) -> list[dict[str, Any]]:
    """Divide the trainable parameters into groups with a rate each.

    Args:
        parts: parameters by part, as ``Method.param_groups`` returns them.
        lr: the rate of parts without a factor.
        backbone_scale: the factor of the backbone's rate.
        lr_scale: factors of the rates of other parts, by name.
        layers: parameters of each layer of the backbone, from the input to the output; used with
            `layer_decay`.
        layer_decay: factor of the rates from one layer of the backbone to the one before it. The
            last layer has it once.
        decay_1d: whether weight decay applies to vectors, with one dimension larger than 1: biases
            and the parameters of norm layers, class tokens, and ConvNeXt's factors of channels.

    Returns:
        The groups for the optimizer: ``rest``, the parts of `lr_scale` in the order of `parts`,
        ``backbone`` or its layers. Empty groups are left out.

    Raises:
        ConfigError: `lr_scale` names a part that has no trainable parameters, or nothing is
            trainable.

    Example:
        >>> import torch
        >>> one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
        >>> groups = parameter_groups({"head": [one], "loss": [two]}, 0.1, 1.0, {"loss": 10})
        >>> [(group["name"], group["lr"]) for group in groups]
        [('rest', 0.1), ('loss', 1.0)]
        >>> parts, layers = {"backbone": [one, two]}, [[one], [two]]
        >>> groups = parameter_groups(parts, 0.1, 1.0, layers=layers, layer_decay=0.5)
        >>> [(group["name"], group["lr"]) for group in groups]
        [('backbone.0', 0.025), ('backbone.1', 0.05)]
    """
    scales = dict(lr_scale or {})
    names = [name for name in parts if name != "backbone"]
    if unknown := [name for name in scales if name not in names]:
        others = ", ".join(names) or "none but the backbone (optimizer.backbone_scale)"
        raise ConfigError(
            f"optimizer.lr_scale  {', '.join(unknown)} has no trainable parameters here."
            f" These have: {others}."
        )
    rest = [p for name in names if name not in scales for p in parts[name]]
    groups = [("rest", rest, lr)]
    groups += [(name, parts[name], lr * scales[name]) for name in names if name in scales]
    backbone, rate = parts.get("backbone", []), lr * backbone_scale
    if layer_decay is None:
        groups.append(("backbone", backbone, rate))
    else:
        depth = {id(p): at for at, layer in enumerate(layers) for p in layer}
        divided: list[list[nn.Parameter]] = [[] for _ in layers]
        for parameter in backbone:
            divided[depth.get(id(parameter), 0)].append(parameter)
        scales_of = [layer_decay ** (len(divided) - at) for at in range(len(divided))]
        groups += [
            (f"backbone.{at}", inside, rate * scale)
            for at, (inside, scale) in enumerate(zip(divided, scales_of, strict=True))
        ]
    if not any(parameters for _, parameters, _ in groups):
        raise ConfigError(
            "optimizer  there is nothing to train: the method has no trainable parameters. Try"
            " backbone.frozen=false, or head=linear."
        )
    made: list[dict[str, Any]] = []
    for name, inside, rate in groups:
        decayed = [p for p in inside if decay_1d or not is_vector(p)]
        vectors = [p for p in inside if not decay_1d and is_vector(p)]
        made.append({"name": name, "params": decayed, "lr": rate})
        made.append({"name": f"{name}, 1-d", "params": vectors, "lr": rate, "weight_decay": 0.0})
    return [group for group in made if group["params"]]


def is_vector(parameter: nn.Parameter) -> bool:
    """Return whether at most one dimension of a parameter is larger than 1."""
    return sum(size > 1 for size in parameter.shape) <= 1
