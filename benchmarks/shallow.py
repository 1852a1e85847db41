"""Measure time and memory of fitting the methods in closed form, and of naive forms in float64.

    python benchmarks/shallow.py                              60,000 x 4,096 features, 64 bits
    python benchmarks/shallow.py --images 5000 --methods itq imh

Each fit has a process of its own, and is measured without making the features: wall and CPU
seconds, and the peak of its memory beyond the features themselves (float32). The naive forms have
all features in float64 and compute all eigenvectors; their codes are compared with those of the
method by Hamming distances between images. The features are not negative, like those of fc7.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deephash.methods.closed_form import ClosedForm
from deephash.methods.imh import IMH, Anchors
from deephash.methods.itq import ITQ
from deephash.methods.lsh import LSH
from deephash.methods.pca_rr import PCARR
from deephash.methods.pcah import PCAH
from deephash.methods.sh import SH, Waves, smoothest_modes
from deephash.models.encoder import Encoder
from deephash.models.heads import Linear
from deephash.models.projections import random_rotation

METHODS = ["lsh", "pcah", "pca_rr", "itq", "sh", "imh"]
NAIVE = ["pcah", "itq", "sh"]
COMPARED = 2000
"""Images whose Hamming distances are compared."""


def made_features(images: int, width: int) -> Tensor:
    """Draw clustered features after a ReLU, whose variances fall like those of networks."""
    draw = torch.Generator().manual_seed(0)
    inner = min(512, width)
    scale = torch.arange(1, inner + 1) ** -0.6
    means = 2 * scale * torch.randn(100, inner, generator=draw)
    basis = torch.randn(inner, width, generator=draw) / math.sqrt(inner)
    features = torch.empty(images, width)
    for rows in features.split(4096):
        hidden = means[torch.randint(0, 100, (len(rows),), generator=draw)]
        hidden += scale * torch.randn(len(rows), inner, generator=draw)
        noise = 0.1 * torch.randn(len(rows), width, generator=draw)
        rows.copy_(torch.relu(4 * hidden @ basis + noise))
    return features


def made(name: str, images: int, width: int, nbit: int) -> ClosedForm:
    """Build a method with the options of its recipe."""
    if name == "sh":
        return SH(Encoder(nn.Identity(), Waves(width, nbit)), nbit)
    if name == "imh":
        return IMH(Encoder(nn.Identity(), Anchors(width, nbit)), nbit, images, seed=0)
    encoder = Encoder(nn.Identity(), Linear(width, nbit, bias=True))
    if name == "lsh":
        return LSH(encoder, nbit, seed=0, center=True)
    if name == "pcah":
        return PCAH(encoder, nbit, images)
    return (ITQ if name == "itq" else PCARR)(encoder, nbit, images, seed=0)


def naive(name: str, features: Tensor, nbit: int) -> Tensor:
    """Compute the codes of all features in float64, as one reads the definition."""
    x = features.double()
    x = x - x.mean(dim=0)
    axes = torch.linalg.eigh(x.T @ x).eigenvectors.T.flip(0)[:nbit]
    axes *= axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()  # as principal_axes
    v = x @ axes.T
    if name == "itq":
        rotation = random_rotation(nbit, 0)
        for _ in range(100):
            bits = torch.where(v @ rotation >= 0, 1.0, -1.0).double()
            u, _, wt = torch.linalg.svd(bits.T @ v)
            rotation = wt.T @ u.T
        return v @ rotation
    if name == "sh":
        low, high = v.amin(dim=0) - 1e-7, v.amax(dim=0) + 1e-7
        axis, frequency = smoothest_modes(high - low, nbit)
        return torch.cos(frequency * (v - low)[:, axis])
    return v


def peak() -> float:
    """Return the largest memory of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def child(options: argparse.Namespace) -> None:
    """Fit one method to the features of a file, and print what it took."""
    name, form = options.child
    features = torch.from_numpy(np.load(options.file))
    images, width = features.shape
    codes: Tensor | None = None
    method = made(name, images, width, options.bits)
    before, wall, cpu = peak(), time.perf_counter(), time.process_time()
    if form == "naive":
        codes = naive(name, features, options.bits)
    else:
        method.fit(features)
    result = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak() - before,
    }
    with torch.no_grad():
        if codes is None:
            codes = method.encoder.encode(features[:COMPARED])
    np.save(Path(options.file).parent / f"{name}_{form}.npy", (codes[:COMPARED] >= 0).numpy())
    print(json.dumps(result))


def distances(bits: np.ndarray) -> Tensor:
    """Compute Hamming distances between all images."""
    rows = torch.from_numpy(bits).float()
    return torch.cdist(rows, rows, p=1)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--width", type=int, default=4096, help="features of an image")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument(
        "--naive", nargs="*", default=NAIVE, choices=NAIVE, help="methods with a naive form beside"
    )
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    features = made_features(options.images, options.width)
    print(f"{options.images:,} x {options.width:,} features, float32,"
          f" {features.nbytes / 1e9:.2f} GB; {options.bits} bits; torch {torch.__version__},"
          f" {torch.get_num_threads()} threads\n")  # fmt: skip
    print("| method | s | CPU s | GB | naive: s | CPU s | GB | mean difference of distances |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        np.save(file, features.numpy())
        del features
        for name in options.methods:
            cells = [name]
            forms = ["here"]
            if name in options.naive:
                forms.append("naive")
            for form in forms:
                line = [sys.executable, __file__, "--child", name, form, "--file", str(file)]
                line += ["--bits", str(options.bits)]
                output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
                found: dict[str, Any] = json.loads(output.splitlines()[-1])
                cells += [f"{found['wall']:.1f}", f"{found['cpu']:.1f}", f"{found['memory']:.2f}"]
            if len(forms) == 2:
                one, two = (np.load(Path(folder) / f"{name}_{form}.npy") for form in forms)
                cells.append(f"{(distances(one) - distances(two)).abs().mean():.2g} bits")
            else:
                cells += ["-"] * 4
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
