"""Dropout and stochastic depth of a network, active or not."""

from torch import nn

RATES = ("p", "drop_prob", "drop_rate", "prob")
"""Attributes that hold the rate: of torch, of timm's stochastic depth, networks and patches."""


def dropouts(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that drop something at random in training mode.

    Example:
        >>> dropouts(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Dropout(0.0)))
        [Dropout(p=0.5, inplace=False)]
    """
    return [
        module
        for module in network.modules()
        if any(isinstance(rate := getattr(module, name, None), float) and 0 < rate < 1
               for name in RATES)
    ]  # fmt: skip


def train_dropout_alone(network: nn.Module, mode: bool) -> None:
    """Switch a frozen network: batch norm stays in evaluation mode, dropout follows the mode.

    Args:
        network: whose weights do not learn.
        mode: whether it is trained.
    """
    network.train(False)
    if mode:
        for module in dropouts(network):
            module.training = True  # its own alone: `train` would reach what is inside of it
