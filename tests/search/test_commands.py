"""Invalid arguments of a command are refused before its run is loaded."""

from types import SimpleNamespace

import pytest

from deephash import cli, runs
from deephash.search import commands
from deephash.search.engines.faiss_engine import FaissIvfEngine
from deephash.search.engines.milvus import MilvusEngine
from deephash.search.engines.pgvector import PgvectorEngine
from tests.search.pictures import save


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two photos and a list; every run is sound, and none may be loaded."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "list.csv").write_text("path,label\nphotos/a.png,cat\n")
    (tmp_path / "file").touch()

    def refuse(*arguments):
        raise AssertionError("the run was loaded")

    monkeypatch.setattr(runs, "check_loadable", lambda *arguments: None)
    monkeypatch.setattr("deephash.search.image_index.load_encoder", refuse)
    monkeypatch.setattr(commands, "load_encoder", refuse)
    return tmp_path


SEARCH = ("search", "images=photos")
SERVE = ("serve", "images=photos")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("encode", "images=photos", "out=codes.h5"), "Give a file such as out=codes.npz"),
        (("encode", "images=photos", "out=file/codes.npz"), "cannot write file/codes.npz"),
        (("encode", "images=foto", "out=codes.npz"), "images=foto  does not exist"),
        (("encode", "images=photos", "out=c.npz", "root=x"), "root  is for lists and CSV files"),
        (("encode", "images=list.csv", "out=c.npz", "label_column=x"), "label_column=x  is no"),
        (("encode", "images=photos", "out=c.npz", "labels=folder"), "Did you mean labels=folders?"),
        ((*SEARCH, "query=aa.png"), "Did you mean query=a.png?"),
        ((*SEARCH, "query=a.png", "out=file"), "cannot write file: it is a file"),
        ((*SEARCH, "query=a.png", "index=file"), "Give a folder for the index: index=FOLDER"),
        ((*SEARCH, "query=a.png", "index=file/index"), "index=FOLDER"),
        ((*SEARCH, "query=a.png", "engine=pgvector", "engine.table=A"), "use small letters"),
        ((*SEARCH, "query=a.png", "labels=folder"), "Did you mean labels=folders?"),
        (("search", "images=foto", "duplicates=true"), "images=foto  does not exist"),
        (("serve", "images=foto"), "images=foto  does not exist"),
        ((*SERVE, "index=file"), "Give a folder for the index: index=FOLDER"),
        ((*SERVE, "path_column=x"), "path_column  is for lists and CSV files"),
    ],
)  # fmt: skip
def test_before_the_run_is_loaded(folder, capsys, words, message):
    pytest.importorskip("uvicorn")
    before = sorted(folder.rglob("*"))
    assert cli.run(words[0], ["run=R", "device=cpu", *words[1:]]) in (1, 2)
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("words", [(*SEARCH, "query=a.png"), SERVE])
@pytest.mark.parametrize(
    ("engine", "package"),
    [(FaissIvfEngine, "faiss"), (PgvectorEngine, "psycopg"), (MilvusEngine, "pymilvus")],
)
def test_a_missing_package_of_an_engine(folder, capsys, monkeypatch, words, engine, package):
    pytest.importorskip("uvicorn")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert cli.run(words[0], ["run=R", "device=cpu", *words[1:], f"engine={engine.name}"]) == 1
    assert f"engine={engine.name} needs the package {package}" in capsys.readouterr().err


def test_a_server_that_does_not_answer(folder, capsys):
    pytest.importorskip("psycopg")
    dsn = "engine.dsn='host=127.0.0.1 port=1 connect_timeout=2'"
    words = ["run=R", "device=cpu", "images=photos", "query=a.png", "engine=pgvector", dsn]
    assert cli.run("search", words) == 1
    assert "engine=pgvector cannot connect to PostgreSQL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "nbit", "radius", "message"),
    [
        ("lsh", 512, 90, "Try a smaller radius than 90."),
        ("lsh", 64, 8, "use a run of method=lsh with 256 bits or more"),
        ("lsh", 512, 0, "use a run of method=lsh"),
        ("csq", 512, 2, "trained with labels"),
    ],
)
def test_advice_about_large_groups(method, nbit, radius, message):
    encoder = SimpleNamespace(method=method, nbit=nbit)
    assert message in commands._group_advice(encoder, radius)
