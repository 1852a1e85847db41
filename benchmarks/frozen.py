"""Measure how long an epoch on a frozen backbone takes with served features and without.

    python benchmarks/frozen.py --images cifar10 --weights squeezenet1_0.pth --epochs 3

SDC, with features that another run has left in a cache, and one epoch on images:

    python benchmarks/frozen.py --images cifar10 --dataset cifar10 --method sdc --nbit 64
        --epochs 100 --eval-every 10 --image-epochs 1 --cache CACHE --backbone timm
        --weights lite0.pth backbone.name=tf_efficientnet_lite0

``--images`` has ``train/<class>/`` and ``test/<class>/``, ``--weights`` is a state dict of
``--backbone``. Training views are those of the test, so that nothing is random. Computing the
features, or reading them from ``--cache``, is in the column "s once". The run that calls the
backbone may have fewer epochs (``--image-epochs``); its time for all of them is then extrapolated,
and the table says so. CPU seconds are those of the run as it was, its report included. Other words
are overrides of both runs, such as ``method.head.hidden=0`` or ``trainer.precision=bf16``.
"""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import deephash
from deephash.methods.composed import Composed

STEPS = (
    "{{_target_:deephash.data.transforms.Resize,size:{size}}}",
    "{{_target_:deephash.data.transforms.Normalize,mean:[0.485,0.456,0.406],std:[0.229,0.224,0.225]}}",
)


def measured(
    options: argparse.Namespace, words: list[str], served: bool, folder: str
) -> dict[str, Any]:
    """Train once; return seconds per epoch and per evaluation, and the mAP."""
    Composed.cached_features = served
    epochs = options.epochs if served else options.image_epochs or options.epochs
    every = min(options.eval_every, epochs)
    steps = "[" + ",".join(one.format(size=options.size) for one in STEPS) + "]"
    if options.dataset == "folder":
        transforms = f"dataset.transforms={{train:{steps},test:{steps}}}"
        words = [
            "dataset.protocol=official",
            f"dataset.source.size={options.size}",
            transforms,
            *words,
        ]
    else:
        words = ["method.views=[test]", *words]
    words = [
        f"dataset={options.dataset}",
        f"dataset.root={options.images}",
        "dataset.top=1000",
        f"backbone={options.backbone}",
        f"backbone.weights={options.weights}",
        "backbone.frozen=true",
        f"method={options.method}",
        f"model.nbit={options.nbit}",
        f"trainer.epochs={epochs}",
        f"trainer.eval_every={every}",
        f"trainer.device={options.device}",
        "logger=quiet",
        f"paths.outputs={folder}/{served}",
        f"paths.cache={options.cache or folder + '/cache'}",
        *words,
    ]
    output = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(output):
        report, _ = deephash.train(words)
    processor = time.process_time() - began
    training = report["training"]
    images = training["steps"] * training["batch_size"]
    epoch = images / training["images_per_second"] / epochs
    evaluations = -(-epochs // every) + 1  # and the report's
    evaluation = (training["evaluation_seconds"] - training["retrieval_seconds"]) / evaluations
    once = training["seconds"] - epoch * epochs - training["evaluation_seconds"]
    return {
        "epoch": epoch,
        "evaluation": evaluation,
        "once": once,
        "run": once
        + options.epochs * epoch
        + (-(-options.epochs // options.eval_every) + 1)
        * training["evaluation_seconds"]
        / evaluations,
        "cpu": processor,
        "extrapolated": epochs < options.epochs,
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
    parser.add_argument("--dataset", default="folder", help="folder, or one with its own protocol")
    parser.add_argument("--nbit", type=int, default=32)
    parser.add_argument("--eval-every", type=int, default=1)
    parser.add_argument("--image-epochs", type=int, help="epochs of the run on images")
    parser.add_argument("--cache", help="folder of decoded images and features, kept")
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="auto")
    options, words = parser.parse_known_args()
    options.images = options.images.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measured(options, words, served, folder)
                 for name, served in (("images", False), ("features", True))}  # fmt: skip
    one = found["features"]
    print(
        f"{options.backbone}, frozen, {options.size} x {options.size}; {one['train']:,} training"
        f" images, {one['database']:,} in the database; {torch.get_num_threads()} threads\n"
    )
    print(
        "| batches of | s an epoch | s to encode for an evaluation | s once"
        f" | s in all, {options.epochs} epochs | CPU s | mAP@1000 |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        numbers = [f"{row[key]:.2f}" for key in ("epoch", "evaluation", "once", "run", "cpu")]
        if row["extrapolated"]:
            numbers[3] += f" (extrapolated from {options.image_epochs})"
        print(f"| {name} | {' | '.join(numbers)} | {row['map']:.6f} |")
    print("\n" + one["output"].splitlines()[0])


if __name__ == "__main__":
    main()
