"""OrthoHash with the cosine margin: values of its authors' code."""

from deephash.methods.orthohash import SingleCosine
from deephash.models.similarities import Cosine
from tests.methods.worked import CENTERS, CONTROL, Row, Worked


class TestOrthoHash(Worked):
    method = "orthohash"
    rows = (
        Row(SingleCosine, (0.685122, 0.649601), (1.396207, 0.661585), {"scale": 2.0},
            similarity=Cosine(), centers=CENTERS),
        Row(SingleCosine, (0.685122, 0.649601), (1.396207, 0.661585),
            similarity=Cosine(), centers=CENTERS),
        Row(SingleCosine, (0.697224, 0.656602), (1.408310, 0.665493), {"quantization": 0.1},
            similarity=Cosine(), centers=CENTERS),
        CONTROL,
    )  # fmt: skip
