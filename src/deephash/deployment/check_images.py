"""The images on which an exported encoder is compared: queries of the run, or generated ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from deephash.config import build, checks, targets
from deephash.errors import ConfigError, DeephashError
from deephash.runs.run_data import move_data, without_download
from deephash.training.code_encoder import CodeEncoder

GENERATED = 64
"""Generated images, if the queries of the run are not at hand."""

OTHER_SIZES = ((24, 24), (61, 40), (40, 61), (200, 130), (131, 257), (96, 300))
"""Heights and widths of generated images for the resize in the graph."""

PER_SIZE = 4


@dataclass(frozen=True)
class Queries:
    """Queries of a run, n of them.

    Attributes:
        inputs: (n, 3, S, S) uint8 as the source stores them, or (n, D) float32.
        ids: of the images, (n,).
        fingerprint: of the data.
        described: such as ``256 of 1,000 queries of cifar10, protocol 59k``.
    """

    inputs: np.ndarray
    ids: npt.NDArray[Any]
    fingerprint: str
    described: str


def load_queries(
    config: dict[str, Any], file: Path, count: int | None, places: Mapping[str, Any]
) -> Queries:
    """Load queries of a run, evenly spread over all of them.

    Nothing is downloaded, and no cache is written: images are decoded on access where the source
    can do so.

    Args:
        config: ``config.yaml`` of the run; it is changed.
        file: its path, for messages.
        count: number of queries; None for all.
        places: where the data are now; see ``move_data``.

    Raises:
        DeephashError: the data are not at hand.
    """
    move_data(config, places)
    ran = checks.parse_run(config, file)
    source: Mapping[str, Any] = ran.dataset.source
    if places.get("root") is None:
        source = without_download(source)
    known = targets.arguments(targets.locate(source["_target_"], "dataset.source"))
    if "cached" in known and source.get("on_error", "raise") == "raise":
        source = {**source, "cached": False}
    data = build.data_module(ran.with_values(dataset=ran.dataset.with_values(source=source).plain))
    data.setup("cpu", trains=False)
    rows = data.split.queries
    if count is not None and count < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    inputs = np.asarray(data.images.inputs[rows])
    if data.width is not None:
        inputs = inputs.astype(np.float32)
    number = f"{len(rows):,} of {len(data.split.queries):,}"
    if len(rows) == len(data.split.queries):
        number = f"all {len(rows):,}"
    return Queries(
        inputs,
        np.array([data.images.ids[row] for row in rows]),
        data.facts.fingerprint,
        f"{number} queries of {data.name}, protocol {data.facts.protocol}",
    )


def try_queries(
    config: dict[str, Any], file: Path, count: int | None, places: Mapping[str, Any]
) -> tuple[Queries | None, str]:
    """Load queries of a run, or return None and why there are none; see ``load_queries``.

    Raises:
        DeephashError: the user named the place of the data, and they are not there.
    """
    if count == 0:
        return None, "queries=0"
    try:
        return load_queries(config, file, count, places), ""
    except DeephashError as error:
        if isinstance(error, ConfigError) or any(path is not None for path in places.values()):
            raise
        return None, str(error).splitlines()[0].strip()


def generated_inputs(encoder: CodeEncoder, width: int | None) -> np.ndarray:
    """Return generated inputs: smooth random images of the stored size, or random features."""
    random = np.random.default_rng(0)
    if encoder.preprocessing is None:
        assert width is not None
        return random.standard_normal((GENERATED, width), dtype=np.float32)
    fit: Any = encoder.preprocessing.decoder.fit
    return _smooth(random, GENERATED, fit.size, fit.size)


def generated_sizes() -> Iterator[np.ndarray]:
    """Yield batches of generated images of `OTHER_SIZES`, (n, 3, H, W) uint8."""
    random = np.random.default_rng(1)
    for height, width in OTHER_SIZES:
        yield _smooth(random, PER_SIZE, height, width)


def _smooth(random: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Return random images with coarse and fine structure, (count, 3, height, width) uint8."""
    coarse = torch.from_numpy(random.random((count, 3, 6, 6)))
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").numpy()
    images = images + random.normal(0, 0.05, images.shape)
    pixels: np.ndarray = (images.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels
