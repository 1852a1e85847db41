"""Measure training on a frozen backbone, with cached features and without.

    python benchmarks/frozen.py --images cifar10 --weights squeezenet1_0.pth --epochs 3

SDC, with features from the cache of another run, and one epoch on images:

    python benchmarks/frozen.py --images cifar10 --dataset cifar10 --method sdc --nbit 64
        --epochs 100 --eval-every 10 --image-epochs 1 --cache CACHE --backbone timm
        --weights lite0.pth backbone.name=tf_efficientnet_lite0

``--images`` contains ``train/<class>/`` and ``test/<class>/``, ``--weights`` is a state dict of
``--backbone``. Training images are processed like test images, without random steps. The column
"s once" contains computing the features, or reading them from ``--cache``. The run on images may
have fewer epochs (``--image-epochs``); its total time is then extrapolated, and the table says so.
CPU seconds are those of the run as it was, with its report. All other arguments are overrides of
both runs, such as ``method.head.hidden=0`` or ``trainer.precision=bf16``.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from harness import Report, Stopwatch, Values, parser, table

import deephash
from deephash.methods.composed import Composed

TRANSFORMS = (
    "{{_target_:deephash.data.transforms.Resize,size:{0}}},"
    "{{_target_:deephash.data.transforms.Normalize,mean:[0.485,0.456,0.406],std:[0.229,0.224,0.225]}}"
)


def overrides_of(options: argparse.Namespace) -> list[str]:
    """Return the overrides that both runs have."""
    overrides = [
        f"dataset={options.dataset}", f"dataset.root={options.images.resolve()}",
        "dataset.top=1000", f"backbone={options.backbone}", f"backbone.weights={options.weights}",
        "backbone.frozen=true", f"method={options.method}", f"model.nbit={options.nbit}",
        f"trainer.device={options.device}", "logger=quiet",
    ]  # fmt: skip
    if options.dataset != "folder":
        return [*overrides, "method.views=[test]"]
    steps = f"[{TRANSFORMS.format(options.size)}]"
    return [*overrides, "dataset.protocol=official", f"dataset.source.size={options.size}",
            f"dataset.transforms={{train:{steps},test:{steps}}}"]  # fmt: skip


def measure(
    options: argparse.Namespace, overrides: Sequence[str], cached: bool, folder: str
) -> Values:
    """Train once; return seconds per epoch and per evaluation, and the mAP."""
    Composed.cached_features = cached
    epochs = options.epochs if cached else options.image_epochs or options.epochs
    every = min(options.eval_every, epochs)
    line = [
        *overrides_of(options), f"trainer.epochs={epochs}", f"trainer.eval_every={every}",
        f"paths.outputs={folder}/{cached}", f"paths.cache={options.cache or folder + '/cache'}",
        *overrides,
    ]  # fmt: skip
    output = io.StringIO()
    with contextlib.redirect_stdout(output), Stopwatch() as watch:
        report, _ = deephash.train(line)
    training = report["training"]
    images = training["steps"] * training["batch_size"]
    epoch = images / training["images_per_second"] / epochs
    evaluations = -(-epochs // every) + 1  # and that of the report
    encoding = (training["evaluation_seconds"] - training["retrieval_seconds"]) / evaluations
    once = training["seconds"] - epoch * epochs - training["evaluation_seconds"]
    evaluation = training["evaluation_seconds"] / evaluations
    all_evaluations = -(-options.epochs // options.eval_every) + 1
    return {
        "epoch": epoch,
        "encoding": encoding,
        "once": once,
        "run": once + options.epochs * epoch + all_evaluations * evaluation,
        "cpu": watch.cpu,
        "extrapolated": epochs < options.epochs,
        "map": report["metrics"]["map"],
        "train": report["protocol"]["num_train"],
        "database": report["protocol"]["num_database"],
        "output": output.getvalue(),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    command_line = parser(__doc__, device="auto")
    add = command_line.add_argument
    add("--images", type=Path, required=True, help="folder of train/<class>/ and test/<class>/")
    add("--weights", default="none", help="state dict of the backbone")
    add("--backbone", default="squeezenet1_0")
    add("--method", default="relahash")
    add("--dataset", default="folder", help="folder, or a dataset with its own protocol")
    add("--nbit", type=int, default=32)
    add("--eval-every", type=int, default=1)
    add("--image-epochs", type=int, help="epochs of the run on images")
    add("--cache", help="folder for decoded images and features, kept after the run")
    add("--size", type=int, default=64, help="side of the images")
    add("--epochs", type=int, default=3)
    options, overrides = command_line.parse_known_args(arguments)
    report = Report(__file__, arguments, options)
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(options, overrides, name == "features", folder)
                   for name in ("images", "features")}  # fmt: skip
    last = results["features"]
    report.add(
        f"{options.backbone}, frozen, {options.size} x {options.size}; {last['train']:,} training"
        f" images, {last['database']:,} in the database; {torch.get_num_threads()} threads"
    )
    rows = [["batches of", "s an epoch", "s to encode for an evaluation", "s once",
             f"s in all, {options.epochs} epochs", "CPU s", "mAP@1000"]]  # fmt: skip
    for name, values in results.items():
        seconds = [f"{values[key]:.2f}" for key in ("epoch", "encoding", "once", "run", "cpu")]
        if values["extrapolated"]:
            seconds[3] += f" (extrapolated from {options.image_epochs})"
        rows.append([name, *seconds, f"{values['map']:.6f}"])
    report.add(table(rows), last["output"].splitlines()[0])
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
