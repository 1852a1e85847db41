"""Base classes of methods that are fitted in closed form on the features of the backbone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deephash.errors import ConfigError, raise_first
from deephash.methods.base import Method
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear


class ClosedForm(Method):
    """Base class of methods whose `fit` sets the weights of the head, without gradients or labels.

    Args:
        encoder: encoder with a head of the class `head_class`.

    Attributes:
        head_class: class of the head.

    Raises:
        ConfigError: the head is of another class.

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
        raise_first(self.refused_head(type(head), options))

    @classmethod
    def refused_head(cls, head: type, options: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Check a head: return the key, the fault and what to type instead.

        Called by the check of the configuration, before data is opened, and by the constructor.

        Args:
            head: class of the head.
            options: arguments of its constructor.

        Example:
            >>> from deephash.methods.pcah import PCAH
            >>> PCAH.refused_head(Linear, {"bias": False})[0][:2]
            ('method.head.bias', 'is false, but PCAH needs a linear layer with a bias.')
        """
        if head is cls.head_class:
            return []
        message = f"is {head.__name__}, but {cls.__name__} needs {cls.head_class.__name__}."
        return [("method.head", message, "Leave it out, or choose another method.")]


class Projection(ClosedForm):
    """Base class of methods whose `fit` sets the weight and the bias of a linear head.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.

    Raises:
        ConfigError: the head is of another class or has no bias.

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
        """Check a head; see `ClosedForm.refused_head`."""
        faults = super().refused_head(head, options)
        if head is Linear and not faults and not options.get("bias", False):
            message = f"is false, but {cls.__name__} needs a linear layer with a bias."
            faults = [("method.head.bias", message, "Type method.head.bias=true.")]
        return faults

    @property
    def layer(self) -> nn.Linear:
        """The linear layer of the head."""
        layer: nn.Linear = self.encoder.head.linear  # type: ignore[assignment, union-attr]
        return layer

    @torch.no_grad()
    def fill(self, weight: Tensor, bias: Tensor) -> None:
        """Set the weight (K, D) and the bias (K,) of the head."""
        self.layer.weight.copy_(weight)
        self.layer.bias.copy_(bias)


class Principal(Projection):
    """Base class of methods that project features onto their first K principal components.

    Args:
        encoder: encoder whose head is a linear layer with a bias.
        nbit: number of bits K.
        num_train: number of training images N.

    Raises:
        ConfigError: K exceeds D or N - 1, or the head is of another class or has no bias.

    Example:
        >>> encoder = Encoder(nn.Identity(), Linear(in_features=3, nbit=4, bias=True))
        >>> Principal(encoder, nbit=4, num_train=10)
        Traceback (most recent call last):
        deephash.errors.ConfigError: model.nbit  is 4, but the backbone has 3 features, ...
    """

    def __init__(self, encoder: Encoder, nbit: int, num_train: int) -> None:
        super().__init__(encoder, nbit)
        require_components(nbit, self.layer.in_features)
        if nbit >= num_train:
            raise ConfigError(
                f"model.nbit  is {nbit}, but {num_train} training images have at most"
                f" {num_train - 1} principal components.\n"
                f"            Type model.nbit={max(1, num_train - 1)} at most, or use more images."
            )


def require_components(nbit: int, width: int) -> None:
    """Raise a ConfigError if features of this width have fewer than K principal components."""
    if nbit > width:
        raise ConfigError(
            f"model.nbit  is {nbit}, but the backbone has {width} features, and so at most {width}"
            f" principal components.\n"
            f"            Type model.nbit={width} at most, or choose another backbone."
        )


@contextmanager
def full_precision(features: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Disable autocast, and return features in the given type.

    In bfloat16, phases and squared distances of features would be wrong in their first digits.

    Example:
        >>> with full_precision(torch.zeros(2, dtype=torch.bfloat16), torch.float32) as features:
        ...     features.dtype
        torch.float32
    """
    with torch.autocast(features.device.type, enabled=False):
        yield features.to(dtype)
