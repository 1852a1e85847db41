"""README and the pages of the documentation: generated parts, code, commands and links."""

import importlib.util
import json
import re
import shlex

import pytest
import torch
from PIL import Image

from deephash.config import composition, injected_arguments, overrides
from tests.paths import CONF, ROOT

SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("path", generate.files(), ids=lambda path: path.name)
def test_it_is_up_to_date(path):
    assert path.read_text() == generate.files()[path], "run: python docs/generate.py"


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 3
    monkeypatch.chdir(tmp_path)
    Image.new("L", (9, 7), "white").save("photo.png")
    names = {}
    exec(code, names)
    assert names["codes"].shape == (1, 2) and 0 < names["report"]["metrics"]["map"] < 1


def test_the_example_of_the_evaluation_page_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    result = {}
    exec(code, result)
    assert 0 < result["report"]["map"] < 1 and "expected" in capsys.readouterr().out
    assert result["ids"].shape == (100, 10) and (tmp_path / "codes.index").is_file()
    assert (result["ids"][:, 0] == [f"image{i}" for i in range(100)]).mean() > 0.9
    value = re.search(r"# mAP@1000 (\S+)", code)
    assert f"{result['report']['map']:.4f}" == value.group(1)


def test_the_library_page_runs(tmp_path, monkeypatch, capsys):
    """The blocks of docs/library.md run in one session, and print what their comments state."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names = {}
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(block, names)
    done, run, shapes, trained, *rest = capsys.readouterr().out.splitlines()
    expected = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert done.startswith("done ") and [run, shapes] == expected[:2]
    assert float(trained) == pytest.approx(float(expected[2]), abs=0.02)  # of other releases
    assert rest == expected[3:]
    assert names["ids"].shape == (100, 5)


def test_the_search_page_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    store, code = blocks
    monkeypatch.chdir(tmp_path)
    exec(store, {})
    assert f"print(ids[0, 0], len(store))  # {capsys.readouterr().out}" in store
    (tmp_path / "photos").mkdir()
    for name, gray in {"a": 0, "b": 200, "copy of a": 0}.items():
        Image.new("L", (9, 7), gray).save(tmp_path / "photos" / f"{name}.png")
    names = {}
    exec(code, names)
    _, updated, first, second, encoded = capsys.readouterr().out.splitlines()
    expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert [updated, encoded] == expected and first == "0 a.png"
    assert second.split()[0] == "0" and len(names["groups"][0].hits) >= 2
    assert (tmp_path / "codes.npz").is_file() and (tmp_path / "photos.deephash").is_dir()


def test_the_page_of_engines_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/engines.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == re.findall(
        r"^print\(.*\)  # (.*)$", code, re.MULTILINE
    )


def search_commands():
    text = "".join((ROOT / "docs" / name).read_text() for name in ("search.md", "engines.md"))
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("deephash ")]


@pytest.mark.parametrize("line", search_commands())
def test_the_commands_of_the_search_page_compose(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PHOTOS").mkdir()
    _, page, *words = shlex.split(line, comments=True)
    composition.checked(CONF, page, overrides.read(overrides.quote_folders(words)))


def test_every_method_has_a_line_and_a_page_and_no_page_is_left_over():
    methods = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} == {*methods, "index"}
    lines = re.findall(
        r"^\| \[(\w+)\]", (ROOT / "docs" / "methods" / "index.md").read_text(), re.MULTILINE
    )
    assert sorted(lines) == sorted(methods)


def test_a_line_tells_the_parts_and_which_of_them_the_loss_does_not_read():
    assert generate.row("relahash").startswith(
        "| [relahash](relahash.md) | batch_norm | identity | max_hamming | relative"
        " | lmcl | supervised | RelaHash"
    )
    assert "| hadamard | (cosine) | central_similarity |" in generate.row("csq")
    assert "| linear | (tanh) |" in generate.row("csq")
    assert "| continuation | - | - | pairwise |" in generate.row("hashnet")
    assert "| bernoulli | cosine | single_cosine |" in generate.row("orthohash_arc")
    assert "| linear | - | - | - | - | shallow | Iterative" in generate.row("itq")
    assert "| mlp | (identity) | - | - | cibhash | unsupervised | Unsupervised" in generate.row(
        "cibhash"
    )


def test_every_published_number_is_on_its_page_with_source_and_curve():
    page, known = generate.published_page(), generate.published.published_tables()
    parts = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    assert set(parts) == set(known)
    for name, table in known.items():
        assert table["source"] in parts[name] and f"Verified: {table['verified']}" in parts[name]
        for kind in ("values", "curves"):
            for rows in table.get(kind, {}).values():
                for row, numbers in rows.items():
                    [first] = list(numbers.values())[:1]
                    values = first.values() if kind == "curves" else numbers.values()
                    [*lines] = [line for line in parts[name].splitlines()
                                if line.startswith((f"| {row} |", f"| {row}, "))]  # fmt: skip
                    cells = {cell.strip() for line in lines for cell in line.split("|")}
                    assert set(map(str, values)) <= cells, (name, row)
    assert "`+sweep=table1`" in parts["relahash_table1"]
    assert "backbone: ResNet-50" in parts["sdc_table1_resnet50"]


def test_each_kind_of_supervision_has_a_table():
    with_labels, without, shallow = generate.table().split("**")[2::2]
    assert "[relahash]" in with_labels and "[relahash]" not in without + shallow
    assert "[cibhash]" in without and "[itq]" in shallow
    assert without.count("| unsupervised |") == without.count("| [")


@pytest.mark.parametrize("name", generate.names())
def test_a_page_holds_formula_and_every_option(name):
    page = generate.page(name)
    assert "```math" in page and f"method={name}" in page and "``relaxation``" not in page
    listed = set(re.findall(r"^- `(\w+)`", page, re.MULTILINE))
    nodes = generate.nodes(generate.recipe(name))
    assert {"_target_", "loss"} & set(nodes)
    for path, node in (("method", nodes), ("method.loss", nodes.get("loss", {}))):
        if "_target_" in node:
            kind = generate.targets.locate(node["_target_"])
            options = set(generate.targets.arguments(kind)) - injected_arguments.PLACES[path]
            assert options <= listed


def test_the_experiments_of_a_method_are_its_own():
    assert "orthohash_arc_cifar10" not in generate.page("orthohash")
    assert "experiment=orthohash_cifar10" in generate.page("orthohash")


def test_ci_runs_the_commands_of_the_readme_in_no_other_environment():
    """A newcomer's second command and CI's are the same, without variables of the shell."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = (ROOT / ".ci" / "run").read_text()
    commands = [part.strip() for part in blocks[1].split("&&")]
    assert commands[-1] == "python -m pytest -n auto" and len(blocks[1].splitlines()) == 1
    for command in commands[1:]:  # the first one activates the environment
        assert command.removeprefix("pip install ") in script
    assert "export" not in script and "OMP_NUM_THREADS" not in script


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its code runs as it stands, and gives the results that it shows."""
    cells = json.loads((ROOT / "docs" / "images_to_search.ipynb").read_text())["cells"]
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["distances"].shape == (10, 8) and (names["distances"][:, 0] <= 8).all()
    assert (names["again"].search(names["codes"][-10:], k=8)[1] == names["ids"]).all()
    shown = json.dumps([cell.get("outputs") for cell in cells])
    (printed,) = re.findall(r"'mAP': ([\d.]+)", shown)
    assert abs(float(printed) - names["measured"]["map"]) <= 0.02  # of other releases of torch
    assert (
        f"'mAP': {names['measured']['map']:.2f}" in shown.replace('"', "'") and "Error" not in shown
    )


def pages_of_the_site():
    """Markdown files that link to others."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", pages_of_the_site(), ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    """Every relative link names a file, and its anchor a heading of it."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.is_file(), target
        assert page.name == "README.md" or (ROOT / "docs") in file.resolve().parents, target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {slug(head) for head in heads}, target


def slug(heading):
    """The anchor of a heading, as mkdocs and code hosts make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
