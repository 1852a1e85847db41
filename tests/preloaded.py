"""What the server of ``tests.commands`` imports and computes once, for all commands."""

import gc
import importlib

from deephash.utils import program

with program.without_garbage_collection():
    for name in (
        "torch", "torch._dynamo", "torch._inductor", "torchvision", "sklearn.datasets", "hydra",
        "sklearn.manifold", "matplotlib.figure", "deephash.runs", "deephash.sweep",
        "tests.commands",
    ):  # fmt: skip
        importlib.import_module(name)
    from deephash.config import schema
    from deephash.data.sources.basic import Digits
    from deephash.report.pages import base

    schema.register()
    Digits().load()
    base.compiled("run.html.j2", "deephash.report")

gc.freeze()  # a garbage collection in a fork would copy the memory of all these objects
