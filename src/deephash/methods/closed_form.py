"""Base classes of methods that are fitted in closed form on the features of the backbone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deephash.errors import ConfigError
from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear


class ClosedForm(Method):
    """A method whose `fit` fills the head: no gradient, no epoch, no label.

    Args:
        encoder: its head is of the class `head_class`.

    Attributes:
        head_class: the class of head that `fit` fills; other heads are refused.

    Raises:
        ConfigError: the head is another one.

    Example:
        >>> from deephash.methods.pcah import PCAH
        >>> PCAH.learns, PCAH.labels, PCAH.head_class.__name__
        (False, False, 'Linear')
    """

    learns: ClassVar[bool] = False
    labels: ClassVar[bool] = False
    head_class: ClassVar[type[nn.Module]] = Linear

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        head = encoder.head
        options = {"bias": head.linear.bias is not None} if isinstance(head, Linear) else {}
        for key, what, instead in self.refused_head(type(head), options):
            raise ConfigError(f"{key}  {what}\n{'':<{len(key)}}  {instead}")

    @classmethod
    def refused_head(cls, head: type, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what is wrong with a head: key, fault and what to type instead.

        Configurations are checked with it before data are opened, and heads by the constructor.

        Args:
            head: the class of the head.
            options: of its constructor.

        Example:
            >>> from deephash.methods.pcah import PCAH
            >>> PCAH.refused_head(Linear, {"bias": False})[0][:2]
            ('method.head.bias', 'is false, and PCAH fills a linear layer with a bias.')
        """
        if head is cls.head_class:
            return []
        what = f"is {head.__name__}, and {cls.__name__} fills {cls.head_class.__name__}."
        return [("method.head", what, "Leave it out, or choose another method.")]


class Projection(ClosedForm):
    """A method whose `fit` fills a linear head with a bias.

    Args:
        encoder: its head is a linear layer with a bias, which is filled.
        nbit: K.

    Raises:
        ConfigError: the head is another one.

    Example:
        >>> class FirstFeatures(Projection):
        ...     def fit(self, features):
        ...         self.fill(torch.eye(self.nbit, features.shape[1]), torch.zeros(self.nbit))
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=3, nbit=2, bias=True))
        >>> FirstFeatures(encoder, nbit=2).fit(torch.rand(5, 3))
        >>> encoder.encode(torch.tensor([[1.0, -2.0, 4.0]])).tolist()
        [[1.0, -2.0]]
    """

    def __init__(self, encoder: Encoder, nbit: int) -> None:
        super().__init__(encoder)
        self.nbit = nbit

    @classmethod
    def refused_head(cls, head: type, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Return what is wrong with a head; see `ClosedForm.refused_head`."""
        faults = super().refused_head(head, options)
        if not faults and not options.get("bias", False):
            what = f"is false, and {cls.__name__} fills a linear layer with a bias."
            faults = [("method.head.bias", what, "Type method.head.bias=true.")]
        return faults

    @property
    def layer(self) -> nn.Linear:
        """The linear layer of the head."""
        layer: nn.Linear = self.encoder.head.linear  # type: ignore[assignment, union-attr]
        return layer

    @torch.no_grad()
    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """Copy weight (K, D) and bias (K,) into the head."""
        self.layer.weight.copy_(weight)
        self.layer.bias.copy_(bias)


class Principal(Projection):
    """A method that projects features to their first K principal components.

    Args:
        encoder: its head is a linear layer with a bias, which is filled.
        nbit: K.
        num_train: N.

    Raises:
        ConfigError: K exceeds D, or is not below N, or the head is another one.

    Example:
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=3, nbit=4, bias=True))
        >>> Principal(encoder, nbit=4, num_train=10)
        Traceback (most recent call last):
        deephash.errors.ConfigError: model.nbit  is 4, and the backbone has 3 features: ...
    """

    def __init__(self, encoder: Encoder, nbit: int, num_train: int) -> None:
        super().__init__(encoder, nbit)
        width = self.layer.in_features
        if nbit > width:
            raise ConfigError(
                f"model.nbit  is {nbit}, and the backbone has {width} features: there"
                f" are no more principal components.\n"
                f"            Type model.nbit={width} at most, or another backbone."
            )
        if nbit >= num_train:
            raise ConfigError(
                f"model.nbit  is {nbit}, and there are {num_train} training images: these have"
                f" {num_train - 1} principal components at most.\n"
                f"            Type model.nbit={max(1, num_train - 1)} at most, or use more images."
            )


@contextmanager
def full_precision(features: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Give features in a type, and keep autocast from computing in a shorter one.

    Phases and squared distances of features in bfloat16 are wrong in their first digits.

    Example:
        >>> with full_precision(torch.zeros(2, dtype=torch.bfloat16), torch.float32) as features:
        ...     features.dtype
        torch.float32
    """
    with torch.autocast(features.device.type, enabled=False):
        yield features.to(dtype)
