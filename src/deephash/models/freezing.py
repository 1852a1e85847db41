"""Base class of backbones: weights that can be frozen, and layers in their order."""

from typing import Self

from torch import nn

from deephash.models.layers import checkpoint_layers, layer_parameters

RATES = ("p", "drop_prob", "drop_rate", "prob")
"""Attributes with a rate of dropout or stochastic depth, in modules of torch and timm."""


def dropout_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that drop values at random in training mode.

    Example:
        >>> dropout_modules(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Dropout(0.0)))
        [Dropout(p=0.5, inplace=False)]
    """
    return [
        module
        for module in network.modules()
        if any(
            isinstance(rate := getattr(module, name, None), float) and 0 < rate < 1
            for name in RATES
        )
    ]


class FreezableBackbone(nn.Module):
    """Base class of backbones with an option ``frozen``.

    A frozen backbone keeps its weights and the statistics of batch norm. Dropout follows the mode,
    training or evaluation, so it has to be removed where it is not wanted.

    Attributes:
        frozen: whether `freeze` was called.
    """

    frozen = False

    def divided(self) -> nn.Module:
        """Return the network whose children are the layers."""
        trunk = getattr(self, "trunk", self)
        return trunk if isinstance(trunk, nn.Module) else self

    def layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of each layer, from the input to the output."""
        return layer_parameters(self.divided())

    def checkpoint_gradients(self) -> int:
        """Compute activations again in the backward pass, to save memory.

        Returns:
            The number of modules for which this is done; 0 if there is nothing to compute again.
        """
        return checkpoint_layers(self.divided())

    def freeze(self) -> None:
        """Exclude all parameters from training."""
        self.frozen = True
        self.requires_grad_(False)

    @property
    def stochastic(self) -> bool:
        """Whether the backbone is frozen but has active dropout, so that features are random."""
        return self.frozen and bool(dropout_modules(self))

    def train(self, mode: bool = True) -> Self:
        super().train(mode and not self.frozen)
        if mode and self.frozen:
            for module in dropout_modules(self):
                module.training = True  # not `train`, which would include its children
        return self
