"""Measure how long an epoch on a frozen backbone takes with served features and without.

    python benchmarks/frozen.py --images cifar10 --weights squeezenet1_0.pth --epochs 3

``--images`` has ``train/<class>/`` and ``test/<class>/``, ``--weights`` is a state dict of
``--backbone``. Training views are those of the test, so that nothing is random; both runs evaluate
after each epoch. Computing the features is in the column "s once".
"""

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch

import deephash
from deephash.methods.composed import Composed

STEPS = (
    "{{_target_:deephash.data.transforms.Resize,size:{size}}}",
    "{{_target_:deephash.data.transforms.Normalize,mean:[0.485,0.456,0.406],std:[0.229,0.224,0.225]}}",
)


def measured(options: argparse.Namespace, served: bool, folder: str) -> dict[str, Any]:
    """Train once; return seconds per epoch and per evaluation, and the mAP."""
    Composed.cached_features = served
    steps = "[" + ",".join(one.format(size=options.size) for one in STEPS) + "]"
    words = [
        "dataset=folder",
        f"dataset.root={options.images}",
        "dataset.protocol=official",
        f"dataset.source.size={options.size}",
        f"dataset.transforms={{train:{steps},test:{steps}}}",
        "dataset.top=1000",
        f"backbone={options.backbone}",
        f"backbone.weights={options.weights}",
        "backbone.frozen=true",
        f"method={options.method}",
        f"trainer.epochs={options.epochs}",
        "trainer.eval_every=1",
        f"trainer.device={options.device}",
        "logger=quiet",
        f"paths.outputs={folder}/{served}",
        f"paths.cache={folder}/cache",
    ]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        report, _ = deephash.train(words)
    training, epochs = report["training"], options.epochs
    images = training["steps"] * training["batch_size"]
    epoch = images / training["images_per_second"] / epochs
    evaluations = epochs + 1  # and the report's
    evaluation = (training["evaluation_seconds"] - training["retrieval_seconds"]) / evaluations
    once = training["seconds"] - epoch * epochs - training["evaluation_seconds"]
    return {
        "epoch": epoch,
        "evaluation": evaluation,
        "once": once,
        "run": training["seconds"],
        "map": report["metrics"]["map"],
        "train": report["protocol"]["num_train"],
        "database": report["protocol"]["num_database"],
        "output": output.getvalue(),
    }


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--images", type=Path, required=True, help="train/ and test/ in class folders"
    )
    parser.add_argument("--weights", default="none", help="state dict of the backbone")
    parser.add_argument("--backbone", default="squeezenet1_0")
    parser.add_argument("--method", default="relahash")
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.images = options.images.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(options, served, folder)
                 for name, served in (("images", False), ("features", True))}  # fmt: skip
    one = found["features"]
    print(
        f"{options.backbone}, frozen, {options.size} x {options.size}; {one['train']:,} training"
        f" images, {one['database']:,} in the database; {torch.get_num_threads()} threads\n"
    )
    print(
        "| batches of | s an epoch | s to encode for an evaluation | s once | s in all | mAP@1000 |"
    )
    print("|---|---|---|---|---|---|")
    for name, row in found.items():
        numbers = [f"{row[key]:.2f}" for key in ("epoch", "evaluation", "once", "run")]
        print(f"| {name} | {' | '.join(numbers)} | {row['map']:.6f} |")
    print("\n" + one["output"].splitlines()[0])


if __name__ == "__main__":
    main()
