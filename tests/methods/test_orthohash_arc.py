"""OrthoHash with the angular margin: values of its authors' code."""

from deephash.methods.orthohash import SingleCosine
from deephash.models.similarities import Cosine
from tests.methods.worked import CENTERS, Row, Worked


class TestOrthoHashArc(Worked):
    method = "orthohash_arc"
    rows = (
        Row(SingleCosine, (0.664830, 0.637015), (1.394217, 0.639789), {"margin_on": "angle"},
            similarity=Cosine(), centers=CENTERS),
    )  # fmt: skip
