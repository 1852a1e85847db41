"""The examples of docstrings run, and what is public has one."""

import doctest
import importlib
import inspect
import io
from types import ModuleType

import pytest
import torch

from tests.paths import ROOT

SOURCE = ROOT / "src" / "deephash"
EXTRAS = {"h5py", "numba", "ray", "safetensors", "submitit", "triton", "wandb", "onnx",
          "onnxscript", "onnxruntime"}  # fmt: skip


def name_of(path):
    """The dotted name of a module."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = sorted(name_of(path) for path in SOURCE.rglob("*.py") if path.name != "__main__.py")

DOCUMENTED = (
    "losses",
    "models.codebooks",
    "models.similarities",
    "models",
    "methods",
    "data",
    "retrieval",
)


def public():
    """The classes and functions of these packages' `__all__`, and of a module in it the classes."""
    for package in DOCUMENTED:
        module = importlib.import_module(f"deephash.{package}")
        for name in module.__all__:
            value = getattr(module, name, None) or importlib.import_module(
                f"deephash.{package}.{name}"
            )
            if inspect.ismodule(value):
                for own, part in vars(value).items():
                    if (
                        inspect.isclass(part)
                        and part.__module__ == value.__name__
                        and own[0] != "_"
                    ):
                        yield f"{package}.{name}.{own}", part
            elif inspect.isclass(value) or inspect.isfunction(value):
                yield f"{package}.{name}", value


def imported(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")


def failures(module):
    """What the examples of a module print that they should not."""
    output = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for case in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(case, out=output.write)
    return output.getvalue()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    module = imported(name)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert failures(module) == ""


def test_a_wrong_example_fails():
    module = ModuleType("wrong")
    module.__doc__ = "An example.\n\n>>> 1 + 1\n3\n>>> import warnings; warnings.warn('old')\n"
    assert "Expected:\n    3\nGot:\n    2" in failures(module)
    assert "UserWarning: old" in failures(module)


@pytest.mark.parametrize("package", DOCUMENTED)
def test_all_names_are_there(package):
    module = importlib.import_module(f"deephash.{package}")
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        if package != "methods" or name in vars(module):
            getattr(module, name)
        else:
            importlib.import_module(f"deephash.methods.{name}")


def test_lazy_names_of_data_are_those_of_all():
    from deephash import data

    assert sorted(name for names in data._MODULES.values() for name in names) == data.__all__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        data.Nothing  # noqa: B018


@pytest.mark.parametrize(("name", "part"), [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_what_is_public_has_an_example(name, part):
    assert ">>> " in (part.__doc__ or ""), f"the docstring of {name} has no example"
