"""Python API: train and evaluate runs, load their encoders, export them, and encode images."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deephash.config import composition, overrides, schema, targets
from deephash.config.overrides import CommandLine
from deephash.config.validate import quoted
from deephash.errors import ConfigError
from deephash.training.code_encoder import CodeEncoder
from deephash.utils import program
from deephash.utils.formatting import typed

if TYPE_CHECKING:
    from deephash.deployment import Exported
    from deephash.search.code_files import CodeFile
    from deephash.search.collection import Labels
    from deephash.search.encode import UnreadableImage


class Trained(NamedTuple):
    """The result of ``train``.

    Attributes:
        report: what ``report.json`` of the run holds; ``report["metrics"]["map"]`` is its mAP.
        folder: the run folder.
    """

    report: dict[str, Any]
    folder: Path


@targets.scope()
def train(arguments: Iterable[str] = ()) -> Trained:
    """Train a run, or skip it if it is finished, as ``deephash train`` does.

    As the command does, it seeds torch's global generator and sets its deterministic mode
    (``trainer.deterministic``) in this process.

    Args:
        arguments: of the command line, ``method=relahash``, ``plugins=[mypkg]``,
            ``--config-dir=FOLDER``; without ``-m``.

    Returns:
        the report, and the folder of the run.

    Raises:
        DeephashError: what is wrong with the arguments or the data; nothing was written then, or
            the run goes on from its last epoch when called again.

    Example:
        >>> import deephash
        >>> report, folder = deephash.train(["model.nbit=16", "trainer.epochs=1", "logger=quiet"])
        done   outputs/digits/relahash/16bit/seed0,trainer.epochs=1  mAP@all 0...
        >>> 0 < report["metrics"]["map"] < 1, folder.name
        (True, 'seed0,trainer.epochs=1')
    """
    from deephash import runs

    line = _read(arguments)
    cfg = composition.checked(program.folder("conf"), "train", line)
    assert isinstance(cfg, schema.Train)
    given = composition.without_hydra(line.overrides)
    return Trained(runs.train(cfg, given), runs.RunFolder.of(cfg, given).path)


@targets.scope()
def evaluate(arguments: Iterable[str]) -> dict[str, Any]:
    """Evaluate the codes of a run, or compare several runs, as ``deephash evaluate`` does.

    Args:
        arguments: of the command line, ``run=FOLDER``, ``evaluation.tops=[100,1000]``.

    Returns:
        the content of ``evaluation.json``; for several runs (``runs=``), by folder.

    Raises:
        DeephashError: the arguments, the run or the data are invalid.

    Example:
        >>> import deephash
        >>> _, folder = deephash.train(["seed=1", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/32bit/seed1,trainer.epochs=0  mAP@all 0...
        >>> result = deephash.evaluate([f"run={folder}", "evaluation.tops=[100]", "figures=false"])
        mAP@all 0...
        >>> sorted(result["metrics"]["map_at"])
        ['100']
    """
    from deephash import runs

    line = _read(arguments)
    cfg = composition.checked(program.folder("conf"), "evaluate", line)
    assert isinstance(cfg, schema.Evaluate)
    return runs.evaluate(cfg, composition.without_hydra(line.overrides))


@targets.scope()
def load(
    run: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    device: str = "auto",
    precision: str | None = None,
    plugins: Iterable[str] = (),
) -> CodeEncoder:
    """Load the trained encoder of a run, with its preprocessing; the data are not needed.

    Args:
        run: its folder, or the folder that ``export`` made.
        checkpoint: ``best``, the selected encoder, or ``last``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        precision: number format of the network: ``fp32``, ``bf16``, ``fp16``; None for that of the
            run.
        plugins: packages whose classes may be built in this call; see docs/extending.md.

    Returns:
        an encoder: ``encode(images) -> (N, ceil(K / 8)) uint8``.

    Raises:
        DeephashError: the folder is no run, is damaged, or names a package that is not among
            ``plugins``.

    Example:
        >>> import deephash
        >>> from PIL import Image
        >>> _, folder = deephash.train(["model.nbit=16", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/16bit/seed0,trainer.epochs=0  mAP@all 0...
        >>> encoder = deephash.load(folder)
        >>> encoder.encode([Image.new("RGB", (20, 30)), Image.new("L", (8, 8), "white")]).shape
        (2, 2)
        >>> encoder.codes(Image.new("RGB", (20, 30))).shape
        (1, 16)
    """
    from deephash import runs
    from deephash.config.plugins import find_plugins, import_plugins

    if names := list(plugins):
        import_plugins(find_plugins(names, [Path.cwd()]))
    return runs.load(Path(run), checkpoint, device, precision)


@targets.scope()
def export(
    run: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    *,
    size: str = "stored",
    checkpoint: str = "best",
    queries: int | None = 256,
    limit: float = 0.001,
    overwrite: bool = False,
    plugins: Iterable[str] = (),
) -> "Exported":
    """Export the encoder of a run, as ``deephash export`` does, and compare its codes.

    Args:
        run: its folder.
        to: ``onnx``, ``torch_export`` or ``safetensors``.
        out: the file, or for ``safetensors`` the folder; None: in the run's folder.
        size: ``stored``: images have the size that the source of the run stores; ``any``: images of
            any size are resized in the graph.
        checkpoint: ``best`` or ``last``.
        queries: of the run, to compare codes on; None for all; 0: generated images.
        limit: the fraction of bits that may differ.
        overwrite: replace what is at ``out``.
        plugins: packages whose classes may be built in this call; see docs/extending.md.

    Returns:
        the path, and the metadata: ``fingerprint``, ``nbit``, ``interface``, ``check``.

    Raises:
        DeephashError: the run or the output is invalid, a package is missing, or codes differ;
            nothing was written.

    Example:
        >>> import deephash
        >>> _, folder = deephash.train(["model.nbit=8", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/8bit/seed0,trainer.epochs=0  mAP@all 0...
        >>> path, metadata = deephash.export(folder, to="safetensors", out="hub")
        hub  ...
        >>> deephash.load(path).fingerprint == metadata["fingerprint"]
        True
    """
    from deephash.deployment import export as job

    given = {
        "run": os.fspath(run), "to": to, "size": size, "checkpoint": checkpoint,
        "queries": queries, "limit": limit, "overwrite": overwrite, "plugins": list(plugins),
        **({} if out is None else {"out": os.fspath(out)}),
    }  # fmt: skip
    line = _read([f"{key}={_as_typed(value)}" for key, value in given.items()])
    cfg = composition.checked(program.folder("conf"), "export", line)
    assert isinstance(cfg, schema.Export)
    return job(cfg, composition.without_hydra(line.overrides))


def _as_typed(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    return typed(value)


@targets.scope()
def encode(
    run: str | os.PathLike[str] | CodeEncoder,
    images: str | os.PathLike[str],
    *,
    labels: "Labels" = "auto",
    device: str = "auto",
    precision: str | None = None,
    unreadable: "list[UnreadableImage] | None" = None,
) -> "CodeFile":
    """Encode a folder, a list, a CSV file or an archive of images, decoded on all cores.

    ``load(run).encode(images)`` encodes images in memory.

    Args:
        run: a run folder, or its encoder.
        images: see ``ImageIndex``.
        labels: see ``ImageIndex``.
        device: as for ``load``.
        precision: ``fp32`` or ``bf16``; None for that of the run on CUDA, and ``fp32`` on a CPU,
            where bf16 is slow.
        unreadable: receives the images that cannot be read, and why; None for a warning.

    Returns:
        codes, ids and labels; ``.write("codes.npz")``, ``.parquet`` or ``.jsonl`` saves them.

    Raises:
        DeephashError: there are no images, none can be read, or the run is invalid.

    Example:
        >>> import deephash
        >>> from PIL import Image
        >>> _, run = deephash.train(["model.nbit=24", "trainer.epochs=0", "logger=quiet"])
        done   outputs/digits/relahash/24bit/seed0,trainer.epochs=0  mAP@all 0...
        >>> Path("pictures").mkdir()
        >>> Image.new("L", (9, 9)).save("pictures/black.png")
        >>> file = deephash.encode(run, "pictures")
        >>> file.ids, file.codes.shape
        (['black.png'], (1, 3))
    """
    from deephash.search.code_files import encode_collection
    from deephash.search.collection import open_collection
    from deephash.search.encode import load_encoder

    collection = open_collection(images, labels=labels)
    if not isinstance(run, CodeEncoder):
        run = load_encoder(run, device=device, precision=precision)
    return encode_collection(run, collection, unreadable)


def _read(arguments: Iterable[str]) -> CommandLine:
    """Parse the arguments of a command.

    Raises:
        ConfigError: the arguments are a single text, or contain a flag that is not supported here.
    """
    if isinstance(arguments, str):
        raise ConfigError(f"{arguments!r} is one text; give a list of arguments: [{arguments!r}]")
    line = overrides.read(overrides.quote_folders(map(str, arguments)))
    if strange := sorted(line.names - {*composition.CONFIG_DIR}):
        raise ConfigError(f"{strange[0]}  has no use here: give key=value and --config-dir=FOLDER")
    return line
