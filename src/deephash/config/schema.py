"""The types of the configuration. The module is cheap to import, for ``--help``.

The dataclasses serve twice. Hydra composes and checks with them (``register``), and ``parse`` turns
a resolved configuration into them, so that jobs and ``build`` read attributes: closed nodes
(``trainer``, ``evaluation``, ...) and the open nodes ``dataset`` and ``method`` are dataclasses,
enumerations are members of their ``Enum``, and each part is a mapping with a ``_target_``.
"""

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from deephash.config.validate import Part, hints
from deephash.utils import program
from deephash.utils.bounds import (
    Count,
    CountOrZero,
    Interval,
    Length,
    Name,
    NonNegative,
    Pixels,
    Place,
    Positive,
    Seed,
)
from deephash.utils.choices import Backend, Denominator, Empty, Ties

MOST_BITS = 4096
"""The longest code."""

OPTIONAL: dict[str, Any] = {"optional": True}
"""Metadata of a key that may be missing."""

T = TypeVar("T")

if TYPE_CHECKING:
    Open = Annotated[T, "open"]
    Loose = Annotated[T, "loose"]
else:

    class Open:
        """``Open[T]``: any value for Hydra, a ``T`` for ``validate``, ``parse`` and mypy."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Annotated[Any, kind]

    class Loose:
        """``Loose[T]``: a ``T`` for mypy; a rule of its own in ``config`` checks the value."""

        def __class_getitem__(cls, kind: Any) -> Any:
            return Any


class Node:
    """Base of the typed nodes.

    Attributes:
        plain: the values that the node was made of, as they are saved and compared: mappings,
            lists, numbers, texts and null, and for a member of an enumeration its name. An open
            node has keys there that its dataclass does not have.
    """

    plain: Mapping[str, Any]
    if TYPE_CHECKING:  # each of them is a dataclass
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def with_values(self, **values: Any) -> Self:
        """Return the same node with other plain values at some of its keys."""
        return parse(type(self), {**self.plain, **values})


class Precision(Enum):
    """Number format of the network's forward pass; objectives are always judged in float32."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with a scaled loss, for GPUs without bf16: V100, T4, RTX 20


class SelectOn(Enum):
    """Criterion that selects the epoch whose encoder is kept."""

    query = "query"  # best on the queries: what the papers do
    val = "val"  # best on a validation split: honest
    agreement = "agreement"  # of features and codes of validation images: reads no labels
    last = "last"  # no selection


Action = Literal["prepare", "verify", "describe", "export", "encode", "cache"]
"""The first word of a ``data`` command."""

Checkpoint = Literal["best", "last"]

Tops = list[Count | Literal["all"]] | None

HINTS = {
    "dataset.classes": "Give two classes or more, indices or names: dataset.classes=[0,1,2].",
    "evaluation.tops": "It is a list of numbers of at least 1 and `all`, such as [100,1000,all].",
    "gallery.queries": "Try spread, hardest, easiest, or a list of positions such as [0,5].",
    "method.cached_views": "Type method.cached_views=8, or null for new views in each epoch.",
    "method.views": "Give a number, method.views=2, or a pipeline for each view: [train,train].",
    "only": "Give keys and values: {dataset:cifar10,model.nbit:64}.",
    "runs": "Name a folder, or several: runs=[FOLDER,FOLDER].",
    "sweep": "Give one, or several: [table2_beta,fig8_beta].",
}
"""What to type instead of a wrong value, for keys whose type does not explain it."""


@dataclass
class Model(Node):
    """``model``: what is shipped."""

    nbit: Annotated[int, Interval(1, MOST_BITS)] = 32


@dataclass
class Paths(Node):
    """``paths``: where things lie, relative to the working directory."""

    outputs: Name = "outputs"
    data: Name = "data"
    cache: Name | None = None  # decoded images; null: DEEPHASH_CACHE, else ~/.cache/deephash


@dataclass
class TrainerConfig(Node):
    """``trainer``: the loop."""

    epochs: CountOrZero = MISSING
    batch_size: Count = MISSING
    drop_last: bool = True  # a short last batch is left out
    eval_batch_size: Count = 256
    eval_every: Count = MISSING  # epochs between evaluations; the last epoch is always evaluated
    select_on: SelectOn = SelectOn.query
    patience: Count | None = None  # stop after so many evaluations without a better value
    precision: Precision = Precision.fp32
    device: str = "auto"  # auto, cpu, cuda, cuda:1
    deterministic: bool = True  # deterministic algorithms; on CUDA slower, on CPU free
    channels_last: bool = True  # memory layout of the images: faster convolutions
    compile: bool = False  # torch.compile, on CUDA with CUDA graphs: minutes first, then faster
    graph: bool = False  # on CUDA: each epoch records the step as a CUDA graph and replays it
    clip_norm: Positive | None = None  # largest norm of the whole gradient
    accumulate: Count = 1  # batches for each update; the effective batch is so many times as large
    # decay of the moving average of the encoder, which is evaluated and saved: 0.999
    ema: Annotated[float, Interval(0, 1, above=True, below=True)] | None = None
    gradient_checkpointing: bool = False  # activations again in the backward pass: less memory
    log_every: Count = 50  # steps between lines in log.jsonl
    profile: bool = False  # a trace and a table of the first steps, in profile/ of the run folder
    feature_store: bool = True  # keep features of a frozen backbone in the cache for other runs
    snapshots: CountOrZero = 0  # codes of so many database images at each evaluation, in snapshots/


@dataclass
class EvaluationConfig(Node):
    """``evaluation``: the conventions of mAP, and of the bits.

    What is null is as ``convention`` says, or without one as the comments do.
    """

    convention: str | None = None  # of published numbers: hashnet, orthohash, deephash-pytorch, ...
    top: Count | None = None  # R; null: as the dataset says, there null for all
    # further R, reported beside it: [100,1000]; all: the whole database
    tops: Open[Tops] = field(default_factory=list)
    ties: Ties | None = None  # expected
    denominator: Denominator | None = None  # hits
    empty: Empty | None = None  # zero
    drop_last: bool | None = None  # no: the item ranked last counts
    seed: Seed = 0  # of ties=shuffled
    ternary: NonNegative | None = None  # |z| below it is half a bit; null: every z is a bit
    centred: bool = False  # bits of z less the database's mean z: for data of another domain
    reference: bool = True  # PCA + random rotation of frozen features, beside the run's numbers
    engine: Backend = Backend.auto


@dataclass
class Transforms(Node):
    """``dataset.transforms``: the steps of each pipeline; ``method.views`` may name others."""

    train: list[Part]
    test: list[Part]


@dataclass
class Dataset(Node):
    """The keys of ``dataset`` that the program reads; open, so that a page may have others."""

    name: Name
    source: Part
    protocol: Loose[str]
    protocols: dict[str, Part]
    transforms: Open[Transforms]
    root: Place | None = field(default=None, metadata=OPTIONAL)
    lists: Place | None = field(default=None, metadata=OPTIONAL)
    size: Pixels | None = field(default=None, metadata=OPTIONAL)
    top: Count | None = field(default=None, metadata=OPTIONAL)
    expected: dict[str, dict[str, CountOrZero]] | None = field(default=None, metadata=OPTIONAL)
    catalog: Part | None = field(default=None, metadata=OPTIONAL)
    recipes: dict[str, Part] | None = field(default=None, metadata=OPTIONAL)
    classes: Open[Annotated[list[int | str], Length(2, least=True)] | None] = field(
        default=None, metadata=OPTIONAL
    )
    known: Open[dict[str, Any] | None] = field(default=None, metadata=OPTIONAL)
    # the protocol of images without labels, unless one is typed
    unlabelled: Open[str | None] = field(default=None, metadata=OPTIONAL)


@dataclass
class MethodConfig(Node):
    """The keys of ``method`` that the program reads."""

    name: Name
    head: Part
    # which of these it must have, its class says
    relaxation: Part | None = field(default=None, metadata=OPTIONAL)
    loss: Part | None = field(default=None, metadata=OPTIONAL)
    codebook: Part | None = field(default=None, metadata=OPTIONAL)
    similarity: Part | None = field(default=None, metadata=OPTIONAL)
    # a number, or the pipeline of each view
    views: Open[Count | Annotated[list[Name], Length(1, least=True)]] = field(
        default=1, metadata=OPTIONAL
    )
    streams: Open[Count] = field(default=1, metadata=OPTIONAL)
    # on a frozen backbone: random views are drawn from so many of each image, encoded once
    cached_views: Open[Annotated[int, Interval(2)] | None] = field(default=None, metadata=OPTIONAL)
    passes: Open[Literal["stacked", "separate"]] = field(
        default="stacked", metadata=OPTIONAL
    )  # separate: one for each view


@dataclass
class Train(Node):
    """The top page of ``train.py``. Parts are open: their constructors are their schema."""

    dataset: Open[Dataset] = MISSING
    backbone: Open[Part] = MISSING
    method: Open[MethodConfig] = MISSING
    # the slots: a part here replaces that of the method
    head: Any = field(default=None, metadata=OPTIONAL)
    relaxation: Any = field(default=None, metadata=OPTIONAL)
    codebook: Any = field(default=None, metadata=OPTIONAL)
    similarity: Any = field(default=None, metadata=OPTIONAL)
    loss: Any = field(default=None, metadata=OPTIONAL)
    optimizer: Open[Part | None] = None  # null where nothing learns
    scheduler: Open[Part | None] = None
    logger: Open[dict[str, Part]] = MISSING
    model: Model = field(default_factory=Model)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    paths: Paths = field(default_factory=Paths)
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts
    seed: Seed = 0
    init: Name | None = None  # folder of a finished run, whose encoder training starts from
    extend: Name | None = None  # folder of a finished run, to train it to trainer.epochs in total
    name: str | None = None  # of the run folder, in place of the values that were changed
    group: str | None = None  # runs that belong together, such as a sweep: its report, W&B's group
    rerun: bool = False
    preview: bool = False  # of what would run, and what has; nothing runs


@dataclass
class Run(Node):
    """``config.yaml`` of a run folder, as far as a later command reads it."""

    dataset: Open[Dataset]
    backbone: Open[Part]
    method: Open[MethodConfig]
    model: Model
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    paths: Paths
    seed: Seed


@dataclass
class Gallery(Node):
    """``gallery``: queries shown with the images nearest to them."""

    # spread from the easiest to the hardest; hardest; easiest; [3, 17]
    queries: Open[Literal["spread", "hardest", "easiest"] | list[CountOrZero]] = "spread"
    rows: Annotated[int, Interval(0, 100)] = 6  # how many queries, unless they are listed
    top: Annotated[int, Interval(1, 50)] = 10  # images of each


@dataclass
class EvaluationChange(Node):
    """Conventions to measure under instead of the run's own; null: as there."""

    convention: str | None = None  # a whole set of them; those given beside it change it
    top: Count | None = None
    tops: Open[Tops] = None
    ties: Ties | None = None
    denominator: Denominator | None = None
    empty: Empty | None = None
    drop_last: bool | None = None
    seed: Seed | None = None
    ternary: NonNegative | None = None  # 0: nothing is undecided
    centred: bool | None = None
    engine: Backend | None = None


@dataclass
class Evaluate(Node):
    """The top page of ``evaluate.py``; what is null is as the run had it."""

    run: Name | None = None
    # several run folders, folders of runs, or patterns, to compare
    runs: Open[Name | list[Name] | None] = None
    out: Name | None = None  # null: the run's folder; of several, ./comparison
    checkpoint: Open[Checkpoint] = "best"
    device: str = "auto"
    figures: bool = True  # the page and the figures; false: numbers and codes only
    tsne: Annotated[int, Interval(0, 20_000)] = 1000  # images in the t-SNE figure; 0: none
    # where the images, or the lists, are now; or another dataset to measure the codes on
    dataset: Loose[Mapping[str, Any]] = field(default_factory=lambda: {"root": None, "lists": None})
    backbone: Any = None  # what that dataset brings; the run has its own
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts
    paths: Paths = field(default_factory=Paths)
    evaluation: EvaluationChange = field(default_factory=EvaluationChange)
    gallery: Gallery = field(default_factory=Gallery)
    logger: Open[dict[str, Part] | None] = None


class Style(Enum):
    """How ``deephash data export`` writes a split."""

    one_hot = "one_hot"  # HashNet's lists, a column of 0 and 1 for each class
    index = "index"  # HashNet's lists, one class index a line
    split = "split"  # our own file


class FeatureType(Enum):
    """Number format of features on disk."""

    float16 = "float16"
    float32 = "float32"


@dataclass
class Data(Node):
    """The top page of ``deephash data``. Parts are open: their constructors are their schema."""

    do: Open[Action] = MISSING  # the first word of the command
    dataset: Open[Dataset] = MISSING
    backbone: Open[Part] = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    paths: Paths = field(default_factory=Paths)
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts
    seed: Seed = 0
    images: bool | None = None  # of prepare and verify: true opens all, false looks for none; null:
    # prepare decodes them, verify looks for their files
    out: Name | None = None  # where to write; null: prepare: beside the lists or images
    style: Style = Style.one_hot  # of export
    prefix: str = ""  # of export: put before each path
    dtype: FeatureType = FeatureType.float32  # of encode
    remove: str | None = None  # of cache: pixels, features, all, or the name of an entry


@dataclass
class Report(Node):
    """The top page of ``deephash report``."""

    # its name, or those of several: [table2_beta,fig8_beta]; null: the page of all sweeps and runs
    sweep: Open[Name | list[Name] | None] = None
    only: Open[dict[str, Any] | None] = None
    out: Name | None = None  # null: the sweep's folder; of several, a folder named for all of them
    compare: str | None = "best"  # the row that others are compared with, in pairs; null: none
    draws: Annotated[int, Interval(100, 1_000_000)] = 2000  # of the bootstrap of differences
    seed: Seed = 0  # of the bootstrap
    # workspace: save a view of the runs at W&B (pip install wandb-workspaces)
    wandb: Open[Literal["workspace"] | None] = None
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts
    paths: Paths = field(default_factory=Paths)
    logger: Open[dict[str, Part] | None] = None


@dataclass
class ImagesOfRun(Node):
    """What the pages have in common that encode images with a run."""

    run: Name | None = None
    images: Name | None = None  # a folder, a list, a CSV file, a zip or tar archive, or an image
    # auto: those of a list or CSV file; folders: the folder that contains an image; none; null: of
    # an index those of its last update, otherwise auto
    labels: Open[Literal["auto", "folders", "none"] | None] = None
    root: Name | None = (
        None  # folder of relative paths in a list or CSV file; null: that of the file
    )
    path_column: Name | None = None  # of a CSV file; null: the first with a usual name
    label_column: Name | None = None  # likewise
    checkpoint: Open[Checkpoint] = "best"
    device: str = "auto"
    precision: Precision | None = None  # null: that of the codes that exist; else fp32 on a CPU, on
    # CUDA as the run was trained
    batch_size: Count | None = None  # images in a forward pass; null: as the run was evaluated
    workers: Count | None = (
        None  # threads that decode images; null: one for each core, 2 for small files
    )
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts


@dataclass
class Encode(ImagesOfRun):
    """The top page of ``deephash encode``."""

    out: Name | None = None  # codes.npz, codes.parquet or codes.jsonl


@dataclass
class IndexOfRun(ImagesOfRun):
    """What the pages have in common that search in images."""

    index: Name | None = None  # its folder; null: IMAGES.deephash beside the images
    update: bool = True  # false: search what the index holds, without looking for new images
    engine: Open[Part] = MISSING  # exact, or one that is faster on very many images


@dataclass
class Search(IndexOfRun):
    """The top page of ``deephash search``."""

    # an image, a folder of images, or the id of an image of the index; or several
    query: Open[Name | list[Name] | None] = None
    top: Count | None = None  # images for each query; null: 10, or with a radius all
    radius: CountOrZero | None = None  # largest distance; null: any, and 0 for duplicates
    duplicates: bool = False  # groups of images within the radius
    itself: bool = False  # whether a query that is in the index finds itself
    page: bool = True  # of the pictures that were found
    out: Name | None = (
        None  # folder of the page and of the results as JSON; null: that of the index
    )
    json: bool = False  # print JSON
    check_recall: bool = False  # compare the results of the engine with an exact search


class ExportFormat(Enum):
    """What ``deephash export`` writes."""

    onnx = "onnx"
    torch_export = "torch_export"
    safetensors = "safetensors"


class ExportSize(Enum):
    """Which images an exported graph takes."""

    stored = "stored"  # of the size that the source of the run stores
    any = "any"  # of any size; the resize is part of the graph


@dataclass
class Export(Node):
    """The top page of ``deephash export``."""

    run: Name | None = None  # a run folder, or the folder of an exported encoder
    to: ExportFormat | None = None
    out: Name | None = None  # null: model.onnx, model.pt2 or hub/ in the run's folder
    size: ExportSize = ExportSize.stored
    checkpoint: Open[Checkpoint] = "best"
    queries: CountOrZero | None = 256  # of the run, to compare codes on; 0: generated images
    limit: Annotated[float, Interval(0, 1)] = 0.001  # the fraction of bits that may differ
    overwrite: bool = False  # what is at out
    license: Name | None = None  # of safetensors, for the model card; null: that of the backbone
    # where the images, or the lists, are now
    dataset: Loose[Mapping[str, Any]] = field(default_factory=lambda: {"root": None, "lists": None})
    plugins: list[str] = field(default_factory=list)  # packages whose classes may be parts
    paths: Paths = field(default_factory=Paths)


@dataclass
class Serve(IndexOfRun):
    """The top page of ``deephash serve``."""

    host: Name = "127.0.0.1"  # 0.0.0.0: reachable from other machines, with a token
    port: Annotated[int, Interval(1, 65535)] | None = None  # null: 8000, or a free one
    token: str | None = None  # that requests must have; null: none here, random with another host
    max_megabytes: Positive = 20.0  # of an uploaded image
    max_megapixels: Positive = 50.0  # likewise


N = TypeVar("N", bound=Node)


def parse(kind: type[N], values: Mapping[str, Any]) -> N:
    """Convert plain values, which were checked before, to a typed node.

    Args:
        kind: the dataclass.
        values: resolved; a key that is missing takes its default.

    Raises:
        KeyError: a key without a default is missing.

    >>> parse(Gallery, {"rows": 3}).rows
    3
    """
    known: type = kind
    annotations, given = hints(known), {}
    for one in dataclasses.fields(kind):
        if one.name in values:
            given[one.name] = _typed(annotations[one.name], values[one.name])
        elif one.default in (MISSING, dataclasses.MISSING) and (
            one.default_factory is dataclasses.MISSING
        ):
            raise KeyError(one.name)
    node = kind(**given)
    node.plain = values
    return node


def _typed(kind: Any, value: Any) -> Any:
    """Convert a plain value to its annotated type; None and other forms stay as they are."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _typed(inner[1] if inner[0] is Any else inner[0], value)
    if origin in (Union, types.UnionType):
        several = [one for one in inner if one is not type(None)]
        return _typed(several[0], value) if len(several) == 1 else value
    if isinstance(value, Mapping):
        if isinstance(kind, type) and issubclass(kind, Node):
            return parse(kind, value)
        if kind is Part:
            return Part(value)
        if origin is dict:
            return {key: _typed(inner[1], one) for key, one in value.items()}
    if isinstance(value, list) and origin is list:
        return [_typed(inner[0], one) for one in value]
    if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Enum):
        return kind[value]
    return value


PAGES: dict[str, type[Node]] = {
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "data": Data,
    "encode": Encode,
    "search": Search,
    "export": Export,
    "serve": Serve,
}
"""The type of each page."""


def register() -> None:
    """Register the types of the pages, and the resolver ``${command:page}``, with Hydra.

    Nothing is done again in a process where they are registered.
    """
    OmegaConf.register_new_resolver("command", program.command, replace=True)
    # Hydra copies its singleton whenever it composes or lists a group, for `--help` 175 times.
    # The copies are never changed, and `load` copies the node that it returns.
    ConfigStore.__deepcopy__ = _itself  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    if "train_schema.yaml" not in store.repo:  # not yet in this process
        for page, kind in PAGES.items():
            store.store(name=f"{page}_schema", node=kind)
        for group, name, node in _pipelines():
            store.store(group=group, name=name, node=node)


def _itself(store: ConfigStore, memo: dict[int, Any]) -> ConfigStore:
    return store


def _pipelines() -> list[tuple[str, str, dict[str, Any]]]:
    """Read the pipelines of ``conf/shared/transforms.yaml`` as options of the groups ``shared/*``.

    One file for all pipelines, because the anchors that name their steps are local to a YAML file.

    Returns:
        group, name and node of each option. The node of a pipeline for training or test images is
        ``{train: steps}`` or ``{test: steps}``; of a further view, its name and steps.
    """
    text = (program.folder("conf") / "shared" / "transforms.yaml").read_text(encoding="utf-8")
    pipelines = yaml.safe_load(text)
    return [
        (f"shared/{role}", name, {name if role == "view" else role: steps})
        for role in ("train", "test", "view")
        for name, steps in pipelines[role].items()
    ]
