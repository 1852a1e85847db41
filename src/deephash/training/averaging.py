"""Exponential moving average of an encoder's weights (EMA)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AveragedEncoder:
    """Average the weights and the statistics of batch norm of an encoder over the steps.

    After step t, counted from 0, the average moves to the weights by 1 - min(decay,
    (1 + t) / (10 + t)): without this limit, the first weights would dominate short runs.
    Buffers of integers, such as the indices of a relative position bias, are copied.

    Args:
        encoder: whose current weights are the first average; it is copied.
        decay: the weight of the previous average, in (0, 1).

    Example:
        >>> encoder = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(encoder.weight)
        >>> average = AveragedEncoder(encoder, decay=0.999)
        >>> for value in (1.0, 2.0):
        ...     _ = nn.init.constant_(encoder.weight, value)
        ...     average.update(encoder)
        >>> with average.applied(encoder):  # 1, then 1 + (1 - 2 / 11) * (2 - 1)
        ...     print(round(encoder.weight.item(), 4))
        1.8182
        >>> encoder.weight.item()
        2.0
    """

    def __init__(self, encoder: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = AveragedModel(encoder, multi_avg_fn=self._average, use_buffers=True)

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Include the weights after a step."""
        self.model.update_parameters(encoder)

    def encoder_state(self) -> dict[str, Any]:
        """Return the average as the ``state_dict`` of the encoder."""
        state: dict[str, Any] = self.model.module.state_dict()
        return state

    @contextmanager
    def applied(self, encoder: nn.Module) -> Iterator[None]:
        """Give an encoder the average, and on exit its own weights again."""
        own = {name: value.clone() for name, value in encoder.state_dict().items()}
        encoder.load_state_dict(self.encoder_state())
        try:
            yield
        finally:
            encoder.load_state_dict(own)

    def _average(
        self, average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int
    ) -> None:
        if not average[0].is_floating_point():  # all are of one kind
            torch._foreach_copy_(list(average), list(current))
            return
        steps = int(self.model.n_averaged)  # on the CPU, unlike `count`
        decay = min(self.decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(average, current, count)  # type: ignore[no-untyped-call]
