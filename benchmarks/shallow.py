"""Measure time and memory of fitting the closed-form methods, and of naive versions in float64.

    python benchmarks/shallow.py                              60,000 x 4,096 features, 64 bits
    python benchmarks/shallow.py --images 5000 --methods itq imh

Each fit runs in a process of its own. The table contains wall and CPU seconds and the peak memory
in addition to the features (float32), whose generation is not measured. The naive versions convert
all features to float64 and compute all eigenvectors; their codes are compared with those of the
method by Hamming distances between images. The features are nonnegative, like those of fc7.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from harness import Report, Stopwatch, Values, parser, peak_memory, serve, spawn, table
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


def draw_features(images: int, width: int) -> Tensor:
    """Draw clustered features after a ReLU, whose variances decay like those of networks."""
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


def build_method(name: str, images: int, width: int, nbit: int) -> ClosedForm:
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
    """Compute the codes of all features in float64, directly by the definition."""
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


def measured(request: Values) -> Values:
    """Fit one method to the features of a file; its codes are saved beside the file."""
    file, name, nbit = Path(request["file"]), request["method"], request["bits"]
    features = torch.from_numpy(np.load(file))
    method = build_method(name, *features.shape, nbit)
    before = peak_memory(reset=True)
    with Stopwatch() as watch:
        codes = naive(name, features, nbit) if request["naive"] else method.fit(features)
    values = {"wall": watch.wall, "cpu": watch.cpu, "memory": peak_memory() - before}
    if not request["naive"]:
        with torch.no_grad():
            codes = method.encoder.encode(features[:COMPARED])
    np.save(codes_file(request), (codes[:COMPARED] >= 0).numpy())
    return values


def codes_file(request: Values) -> Path:
    """Return the file of the codes of a request."""
    return Path(request["file"]).with_name(f"{request['method']}_{request['naive']}.npy")


def distances(file: Path) -> Tensor:
    """Compute the Hamming distances between all codes of a file."""
    codes = torch.from_numpy(np.load(file)).float()
    return torch.cdist(codes, codes, p=1)


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if a method failed."""
    if list(arguments) == ["--child"]:
        return serve(measured)
    command_line = parser(__doc__)
    add = command_line.add_argument
    add("--images", type=int, default=60000)
    add("--width", type=int, default=4096, help="features of an image")
    add("--bits", type=int, default=64)
    add("--methods", nargs="+", default=METHODS, choices=METHODS)
    add("--naive", nargs="*", default=NAIVE, choices=NAIVE, help="also measure naive versions of")
    options = command_line.parse_args(arguments)
    report = Report(__file__, arguments, options)
    features = draw_features(options.images, options.width)
    report.add(f"{options.images:,} x {options.width:,} features, float32,"
               f" {features.nbytes / 1e9:.2f} GB; {options.bits} bits;"
               f" {torch.get_num_threads()} threads")  # fmt: skip
    rows = [
        ["method", "s", "CPU s", "GB", "naive: s", "CPU s", "GB", "mean difference of distances"]
    ]
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy"
        np.save(file, features.numpy())
        del features
        for name in options.methods:
            row, files = [name], []
            for is_naive in (False, True)[: 1 + (name in options.naive)]:
                request = {"method": name, "naive": is_naive, "bits": options.bits,
                           "file": str(file)}  # fmt: skip
                values = spawn(__file__, request)
                print(f"{request}: {values}", file=sys.stderr, flush=True)
                if "failed" in values:
                    failed = True
                    row += [values["failed"], "-", "-"]
                    continue
                files.append(codes_file(request))
                row += [f"{values['wall']:.1f}", f"{values['cpu']:.1f}",
                        f"{values['memory'] / 1e9:.2f}"]  # fmt: skip
            if len(files) == 2:
                difference = (distances(files[0]) - distances(files[1])).abs().mean()
                row.append(f"{difference:.2g} bits")
            rows.append(row + ["-"] * (len(rows[0]) - len(row)))
    report.add(table(rows))
    report.close()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
