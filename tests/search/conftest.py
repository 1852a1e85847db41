"""A small encoder of images: a random projection of their pixels."""

import pytest
import torch

from deephash.data.decoding import Decoder, Square
from deephash.data.preprocessing import Preprocessing
from deephash.data.transforms import Pipeline
from deephash.training.code_encoder import CodeEncoder


class Projection(torch.nn.Module):
    """The signs of a projection of the pixels, less their mean."""

    def __init__(self, nbit, seed):
        super().__init__()
        values = torch.randn(3 * 64, nbit, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("matrix", values)

    def encode(self, images):
        return (images.flatten(1) - 0.5) @ self.matrix


def make_encoder(nbit=20, seed=0, batch_size=4):
    preprocessing = Preprocessing(Decoder(Square(8, "crop")), Pipeline([]))
    return CodeEncoder(
        Projection(nbit, seed),
        preprocessing,
        nbit=nbit,
        device=torch.device("cpu"),
        batch_size=batch_size,
        method="projection",
        dataset="none",
    )


@pytest.fixture(scope="session")
def encoder():
    return make_encoder()
