"""Parameter groups of an optimizer: a learning rate for each part of a method."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from deephash.errors import ConfigError


def parameter_groups(
    parts: Mapping[str, list[nn.Parameter]],
    lr: float,
    backbone_scale: float,
    lr_scale: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Divide the trainable parameters into groups with a rate each.

    Args:
        parts: parameters by part, as ``Method.param_groups`` returns them.
        lr: the rate of parts without a factor.
        backbone_scale: the factor of the backbone's rate.
        lr_scale: factors of the rates of other parts, by name.

    Returns:
        The groups for the optimizer: ``rest``, the parts of `lr_scale` in the order of `parts`,
        ``backbone``. Empty groups are left out.

    Raises:
        ConfigError: `lr_scale` names a part that has no trainable parameters, or nothing is
            trainable.

    Example:
        >>> import torch
        >>> one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(2))
        >>> groups = parameter_groups({"head": [one], "loss": [two]}, 0.1, 1.0, {"loss": 10})
        >>> [(group["name"], group["lr"]) for group in groups]
        [('rest', 0.1), ('loss', 1.0)]
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
    groups.append(("backbone", parts.get("backbone", []), lr * backbone_scale))
    if not any(parameters for _, parameters, _ in groups):
        raise ConfigError(
            "optimizer  there is nothing to train: the method has no trainable parameters. Try"
            " backbone.frozen=false, or head=linear."
        )
    return [{"name": n, "params": p, "lr": rate} for n, p, rate in groups if p]
