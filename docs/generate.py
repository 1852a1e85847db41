"""Write the generated docs: ``python docs/generate.py``.

docs/methods/ comes from conf, docs/published.md from the published numbers that reports show.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deephash.config import requirements as recipes
from deephash.config import targets
from deephash.report import published

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PARTS = ("head", "relaxation", "codebook", "similarity", "loss")
FIRST = ("relahash", "orthohash", "orthohash_arc", "dpn", "csq", "hashnet", "greedyhash")

SOURCES = """The sources: Table 1 and Table 4 are those of the RelaHash paper; FIRe, swuxyj and
TreezzZ are later implementations (cisip-FIRe, DeepHash-pytorch, DHN_PyTorch)."""


def names() -> list[str]:
    """All methods: those the project began with, then the others by name."""
    found = {path.stem for path in (CONF / "method").glob("*.yaml")}
    return [*FIRST, *sorted(found - set(FIRST))]


def recipe(name: str) -> dict[str, Any]:
    """A method's page and, for each part, its option of the part's group or the class it names."""
    page = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    own = page.get("method", page)  # of a page that is global, to set more than the method
    found: dict[str, Any] = {"parts": {}}
    for entry in page.pop("defaults"):
        if entry == "_self_":
            named = {key: own[key]["_target_"] for key in PARTS if "_target_" in own.get(key, ())}
            found |= own | {"parts": found["parts"] | named}
        elif isinstance(entry, str) and entry.startswith("/"):
            found["shared"] = [*found.get("shared", []), f"conf{entry}.yaml"]
        elif isinstance(entry, str):
            found |= recipe(entry)
        else:
            ((key, option),) = entry.items()
            part = key.rpartition("@")[2].removeprefix("method.")
            if part in PARTS:
                found["parts"][part] = option
    return found


def nodes(found: dict[str, Any]) -> dict[str, Any]:
    """A recipe as far as its classes matter: the node of the method with those of its parts."""
    parts = {key: {"_target_": _target(option(key, choice)[1])}
             for key, choice in found["parts"].items()}  # fmt: skip
    return {key: value for key, value in found.items() if key == "_target_"} | parts


def _target(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def option(group: str, name: str) -> tuple[str, type]:
    """The page of an option, and the class it names; no page where the class itself is named."""
    if "." in name:
        return "", targets.locate(name)
    text = (CONF / group / f"{name}.yaml").read_text()
    return text, targets.locate(yaml.safe_load(text)["_target_"])


def row(name: str) -> str:
    """Return the row of a method in the table of all methods."""
    found = recipe(name)
    parts, cells = found["parts"], [f"[{name}]({name}.md)"]
    declared = recipes.declared(nodes(found))
    for part in PARTS:
        text = parts.get(part, "-").rpartition(".")[2]
        inputs = recipes.LOSS_INPUTS.get(part)
        if text != "-" and inputs is not None and not inputs & declared.needs:
            text = f"({text})"
        cells.append(text)
    cells.append(supervision(name))
    return f"| {' | '.join(cells)} | {cited(found)} |"


def supervision(name: str) -> str:
    """How a method learns: with labels, without, or in closed form, which is shallow."""
    return recipes.kind(nodes(recipe(name)))


def cited(found: dict[str, Any]) -> str:
    """The paper of a recipe."""
    return "{paper} ({authors}, {venue} {year})".format(**found)


SECTIONS = {
    "supervised": "With labels",
    "unsupervised": "Without labels",
    "shallow": "In closed form, on the features of a backbone, without labels",
}


def table() -> str:
    """Return the tables of all methods, one for each kind of supervision."""
    head = ["method", *PARTS, "supervision", "paper"]
    top = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    parts = []
    for kind, title in SECTIONS.items():
        rows = [row(name) for name in names() if supervision(name) == kind]
        parts.append("\n".join([f"**{title}**", "", *top, *rows]))
    return "\n" + "\n\n".join(parts) + "\n"


def page(name: str) -> str:
    """What a method does, its formula, its options with the sources' disagreements."""
    found = recipe(name)
    text = (CONF / "method" / f"{name}.yaml").read_text()
    lines = [f"# {name}", "", f"{cited(found)}.", ""]
    lines += ["```sh", f"python train.py method={name} model.nbit=32 dataset=cifar10", "```", ""]
    experiments = sorted(path.stem for path in (CONF / "experiment").glob(f"{name}_*.yaml"))
    experiments = [one for one in experiments if one.rpartition("_")[0] == name]
    if experiments:
        lines += ["As its source ran it, each value with that source in the file:", ""]
        lines += [f"- `experiment={one}` (`conf/experiment/{one}.yaml`)"
                  for one in experiments] + [""]  # fmt: skip
    settings = sorted(path.stem for path in (CONF / "settings").glob(f"{name}_*.yaml"))
    settings = [one for one in settings if one.rpartition("_")[0] == name]
    if settings:
        lines += ["Its settings on one dataset, loaded with it (`~settings` leaves them out):", ""]
        lines += [f"- `dataset={one.rpartition('_')[2]}` (`conf/settings/{one}.yaml`)"
                  for one in settings] + [""]  # fmt: skip
    lines += ["## Recipe", "", "```yaml", text.rstrip(), "```", ""]
    for shared in found.get("shared", []):
        text = (ROOT / shared).read_text().rstrip()
        lines += [f"It includes `{shared}`:", "", "```yaml", text, "```", ""]
    if "_target_" in found:
        about, arguments = described(targets.locate(found["_target_"]))
        lines += ["## Method", "", about, "", *arguments, ""]
    if "loss" in found["parts"]:
        loss_text, loss = option("loss", found["parts"]["loss"])
        about, arguments = described(loss)
        lines += [f"## Loss: {found['parts']['loss']}", "", about, "", *arguments, ""]
        lines += ["Its options, unless the recipe says otherwise:", "", "```yaml",
                  loss_text.rstrip(), "```", ""]  # fmt: skip
    for part in PARTS[:-1]:
        if part not in found["parts"]:
            continue
        choice = found["parts"][part]
        about, arguments = described(option(part, choice)[1])
        title = f"## {part.capitalize()}: {choice.rpartition('.')[2]}"
        lines += [title, "", about, "", *arguments, ""]
    lines += [SOURCES, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def described(part: type) -> tuple[str, list[str]]:
    """A part's docstring as Markdown: what it says, and its arguments as a list."""
    text = inspect.getdoc(part) or ""
    text, _, rest = text.partition("\nArgs:\n")
    text, rest = (
        re.split(r"^\w+:\n(?=    )", some, flags=re.MULTILINE)[0] for some in (text, rest)
    )
    text = text.replace("``", "`")
    text = re.sub(
        r"\.\. math::((?:.|\n)*?)(?=\n\n\S|\Z)",
        lambda found: "```math\n" + inspect.cleandoc(found.group(1)) + "\n```",
        text,
    )
    entries = re.findall(r"^    (\w+): ((?:.|\n)*?)(?=^    \w|^\S|\Z)", rest, re.MULTILINE)
    given = {"num_classes", "nbit", "num_train", "seed", "in_features", "encoder"}
    arguments = [f"- `{key}`: {' '.join(said.split())}".replace("``", "`")
                 for key, said in entries if key not in given]  # fmt: skip
    return text.strip(), arguments


METHODS = """# Methods

A method is a row of five parts: head, relaxation, codebook, similarity and loss. `method=NAME`
selects it, and any part can be replaced by name (`codebook=bernoulli`, `similarity=cosine`,
`loss=lmcl loss.scale=20`). Options of the method's own loss are set as `method.loss.scale=80`.

{table}

*Supervised* methods read labels, *unsupervised* ones learn from images alone, *shallow* ones are
fitted in closed form. Parts in parentheses are not read by the method's own loss but by
`loss=lmcl`, the common loss of Table 4 of RelaHash, which works with every method that has centers:
`python train.py -m method=dpn,csq loss=lmcl trainer.batch_size=64`.
[Hashing without labels](../unsupervised.md) says what decides a comparison of the others.

Images with several labels are used like those with one; training images without a label are left
out and counted, unless the method reads no labels.
"""

PUBLISHED = """# Published numbers

All numbers of other sources that this repository holds, mAP as printed there, from
`src/deephash/report/published.yaml`. Tables that name a sweep stand beside its
results where dataset and bits agree; the others are for comparison by hand: their protocol,
backbone or codes differ from those of every sweep. Verified: *primary* was read in the authors'
own paper, supplement, README, code or answer; *secondary* is quoted by somebody else; *rerun* was
measured by a third party.
"""


def published_page() -> str:
    """Every table of published numbers with its source and conditions, as Markdown."""
    users: dict[str, list[str]] = {}
    for path in sorted((ROOT / "sweeps").rglob("*.yaml")):
        names = (yaml.safe_load(path.read_text()).get("report") or {}).get("published") or []
        for name in [names] if isinstance(names, str) else names:
            users.setdefault(name, []).append(path.stem)
    lines = [PUBLISHED]
    for name, table in published.published_tables().items():
        lines += [f"## {name}", "", f"{table['source']}. Verified: {table['verified']}."]
        if name in users:
            shown = ", ".join(f"`+sweep={one}`" for one in users[name])
            lines += [f"Shown by {shown}."]
        for dataset in table["values"]:
            found = published.published(name, dataset)
            assert found is not None
            lines += ["", f"**{dataset}**, {found.describe()}", "", *numbers(found.values)]
            lines += [f"- {row}: {note}" for row, note in found.notes.items()]
            if found.curves:
                lines += ["", "By epoch:", "", *curves(found.curves)]
        lines += [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def numbers(values: Mapping[Any, Mapping[int, float]]) -> list[str]:
    """Values by row and number of bits, as a table."""
    bits = sorted({bit for row in values.values() for bit in row})
    rows = {row: [of.get(bit, "-") for bit in bits] for row, of in values.items()}
    return [*grid(["", *(f"{bit} bits" for bit in bits)], rows), ""]


def curves(found: Mapping[Any, Mapping[int, Mapping[int, float]]]) -> list[str]:
    """Values by row, number of bits and epoch, as a table."""
    all_of = {f"{row}, {bit} bits": of for row, some in found.items() for bit, of in some.items()}
    epochs = sorted({epoch for of in all_of.values() for epoch in of})
    rows = {row: [of.get(epoch, "-") for epoch in epochs] for row, of in all_of.items()}
    return grid(["epoch", *map(str, epochs)], rows)


def grid(head: list[str], rows: Mapping[Any, list[Any]]) -> list[str]:
    """A table in Markdown, the name of each row first."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return lines + [f"| {' | '.join(map(str, [name, *row]))} |" for name, row in rows.items()]


def files() -> dict[Path, str]:
    """Every file this script keeps, with what it should hold."""
    docs = ROOT / "docs"
    pages = {docs / "methods" / f"{name}.md": page(name) for name in names()}
    return {
        docs / "methods" / "index.md": METHODS.format(table=table().strip()),
        docs / "published.md": published_page(),
        **pages,
    }


def main() -> int:
    """Brings the files up to date."""
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
