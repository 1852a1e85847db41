"""Image files for tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed, side=10):
    """An image that differs from others."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save(path, seed=0, side=10):
    """Write an image file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise(seed, side).save(path)
    return path


def content(seed, name="a.png"):
    """Return the bytes of an image file."""
    file = io.BytesIO()
    noise(seed).save(file, Path(name).suffix[1:].replace("jpg", "jpeg"))
    return file.getvalue()
