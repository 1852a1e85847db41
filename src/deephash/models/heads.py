"""Hash heads: features ``(N, D)`` to real-valued codes ``(N, K)`` with the bits ``z >= 0``."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from deephash.utils.bounds import Interval, NonNegative

Layers = Annotated[int, Interval(0, 32)]
Width = Annotated[int, Interval(1, 65536)]
Dropout = Annotated[float, Interval(0, 1, below=True)]
Momentum = Annotated[float, Interval(0, 1, above=True)]


class Linear(nn.Module):
    """One affine layer.

    Args:
        in_features: D.
        nbit: K.
        bias: whether the layer has a bias.
        init_std: standard deviation of normal initial weights (the bias then starts at 0);
            None: PyTorch's Kaiming-uniform default.

    Example:
        >>> import torch
        >>> Linear(in_features=512, nbit=32)(torch.zeros(4, 512)).shape
        torch.Size([4, 32])
    """

    def __init__(
        self, in_features: int, nbit: int, bias: bool = False, init_std: NonNegative | None = None
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, nbit, bias=bias)
        if init_std is not None:
            nn.init.normal_(self.linear.weight, std=init_std)
            if bias:
                nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        z: Tensor = self.linear(features)
        return z


class BatchNorm(Linear):
    """A linear layer with batch normalization: the head of OrthoHash and RelaHash.

    In training, the code of an image depends on its batch, which must have at least two images.

    Args:
        in_features: D.
        nbit: K.
        init_std: standard deviation of the initial weights; None: PyTorch's default.
        momentum: weight of the new batch in the running statistics, as in PyTorch.
        bias: whether the linear layer has a bias (SDC), which the normalization then subtracts.

    Attributes:
        smallest_batch: minimum size of a training batch.

    Example:
        >>> import torch
        >>> z = BatchNorm(in_features=8, nbit=4)(torch.randn(16, 8))
        >>> bool(z.mean(dim=0).abs().max() < 1e-5)  # each bit has mean 0
        True
    """

    smallest_batch: ClassVar[int] = 2

    def __init__(
        self,
        in_features: int,
        nbit: int,
        init_std: NonNegative | None = 0.01,
        momentum: Momentum = 0.1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_features, nbit, bias=bias, init_std=init_std)
        self.norm = nn.BatchNorm1d(nbit, momentum=momentum)

    def forward(self, features: Tensor) -> Tensor:
        z: Tensor = self.norm(self.linear(features))
        return z


class MLP(nn.Sequential):
    """Hidden layers with activation and dropout, then a linear layer.

    CSQ (authors' code): two hidden layers of width D. CIBHash: one of width 1024. SDC: one with
    GELU, and batch normalization of the codes.

    Args:
        in_features: D.
        nbit: K.
        hidden: number of hidden layers.
        dropout: probability of dropout between the hidden layers.
        width: width of the hidden layers; None: D.
        activation: ``relu`` or ``gelu``.
        batch_norm: whether batch normalization follows the last layer. A training batch then needs
            at least two images.

    Example:
        >>> [type(layer).__name__ for layer in MLP(in_features=512, nbit=32, hidden=1)]
        ['Linear', 'ReLU', 'Linear']
        >>> head = MLP(in_features=512, nbit=32, hidden=1, activation="gelu", batch_norm=True)
        >>> [type(layer).__name__ for layer in head]
        ['Linear', 'GELU', 'Linear', 'BatchNorm1d']
    """

    def __init__(
        self,
        in_features: int,
        nbit: int,
        hidden: Layers = 2,
        dropout: Dropout = 0.0,
        width: Width | None = None,
        activation: Literal["relu", "gelu"] = "relu",
        batch_norm: bool = False,
    ) -> None:
        layers: list[nn.Module] = []
        size = in_features
        for at in range(hidden):
            layers.append(nn.Linear(size, width or in_features))
            layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.GELU())
            size = width or in_features
            if dropout and at + 1 < hidden:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(size, nbit))
        if batch_norm:
            layers.append(nn.BatchNorm1d(nbit))
        super().__init__(*layers)

    @staticmethod
    def smallest_batch_of(options: Mapping[str, Any]) -> int:
        """Return the minimum size of a training batch for options of the constructor."""
        return 2 if options.get("batch_norm") else 1


class TokenMLP(nn.Module):
    """Layer norm of the mean token, a hidden layer, then a linear layer: the head of WCH.

    In both layers, initial weights are Kaiming-uniform with ``fan_out``, and initial biases are
    standard normal.

    Args:
        in_features: D.
        nbit: K.
        width: width of the hidden layer; None: D.
        activation: ``gelu`` or ``relu``.

    Attributes:
        tokens: True: the head takes tokens (N, T, D), or their means (N, D).

    Example:
        >>> import torch
        >>> TokenMLP(in_features=768, nbit=32)(torch.zeros(4, 196, 768)).shape
        torch.Size([4, 32])
    """

    tokens: ClassVar[bool] = True

    def __init__(
        self,
        in_features: int,
        nbit: int,
        width: Width | None = None,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_features, eps=1e-6)
        self.hidden = nn.Linear(in_features, width or in_features)
        self.activation = nn.GELU() if activation == "gelu" else nn.ReLU()
        self.linear = nn.Linear(width or in_features, nbit)
        for layer in (self.hidden, self.linear):
            nn.init.kaiming_uniform_(layer.weight, mode="fan_out")
            nn.init.normal_(layer.bias)

    def forward(self, outputs: Tensor) -> Tensor:
        features = outputs.mean(dim=1) if outputs.ndim == 3 else outputs
        z: Tensor = self.linear(self.activation(self.hidden(self.norm(features))))
        return z
