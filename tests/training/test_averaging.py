import torch
from torch import nn

from deephash.training.averaging import AveragedEncoder


class Indexed(nn.Module):
    """A table that is read by indices, such as the relative position bias of Swin."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(64))
        self.register_buffer("index", torch.arange(64))
        self.register_buffer("mask", torch.arange(64) % 3 == 0)


def test_indices_stay_as_they_are():
    encoder = Indexed()
    average = AveragedEncoder(encoder, 0.999)
    for _ in range(20):
        nn.init.normal_(encoder.table)
        average.update(encoder)
    state = average.encoder_state()
    assert torch.equal(state["index"], encoder.index) and torch.equal(state["mask"], encoder.mask)
    assert not torch.equal(state["table"], encoder.table)


def test_counters_are_those_of_the_encoder():
    encoder = nn.BatchNorm1d(2)
    average = AveragedEncoder(encoder, 0.9)
    for count in range(1, 6):
        encoder(torch.randn(4, 2))
        average.update(encoder)
        assert average.encoder_state()["num_batches_tracked"] == count
