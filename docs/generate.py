"""Write the generated documentation: ``python docs/generate.py``.

docs/methods/ is made from conf/, docs/published.md from the published numbers of the reports.
"""

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deephash.config import requirements as recipes
from deephash.config import targets
from deephash.report import published
from deephash.utils.files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PARTS = ("head", "relaxation", "codebook", "similarity", "loss")
FIRST = ("relahash", "orthohash", "orthohash_arc", "dpn", "csq", "hashnet", "greedyhash")

SOURCES = """Sources in the comments: Table 1 and Table 4 are those of the RelaHash paper; FIRe,
swuxyj and TreezzZ are later implementations (cisip-FIRe, DeepHash-pytorch, DHN_PyTorch)."""


def names() -> list[str]:
    """Return the names of all methods: `FIRST`, then the others in alphabetical order."""
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    return [*FIRST, *sorted(methods - set(FIRST))]


def recipe(name: str) -> dict[str, Any]:
    """Return the values of a method's yaml file.

    Returns:
        The values, and under ``parts`` the option of the group, or the class, of each part.
    """
    content = read_yaml(CONF / "method" / f"{name}.yaml")
    own = content.get("method", content)  # a file with `@package _global_` nests its method
    values: dict[str, Any] = {"parts": {}}
    for entry in content.pop("defaults"):
        if entry == "_self_":
            classes = {key: own[key]["_target_"] for key in PARTS if "_target_" in own.get(key, ())}
            values |= own | {"parts": values["parts"] | classes}
        elif isinstance(entry, str) and entry.startswith("/"):
            values["shared"] = [*values.get("shared", []), f"conf{entry}.yaml"]
        elif isinstance(entry, str):
            values |= recipe(entry)
        else:
            ((key, option),) = entry.items()
            part = key.rpartition("@")[2].removeprefix("method.")
            if part in PARTS:
                values["parts"][part] = option
    return values


def nodes(values: dict[str, Any]) -> dict[str, Any]:
    """Return the ``_target_`` of a recipe's method, and the nodes of its parts with theirs."""
    parts = {
        key: {"_target_": _target(option(key, choice)[1])}
        for key, choice in values["parts"].items()
    }
    return {key: value for key, value in values.items() if key == "_target_"} | parts


def _target(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def option(group: str, name: str) -> tuple[str, type]:
    """Return the text and the class of an option; for a class given directly, an empty text."""
    if "." in name:
        return "", targets.locate(name)
    path = CONF / group / f"{name}.yaml"
    return path.read_text(), targets.locate(read_yaml(path)["_target_"])


def row(name: str) -> str:
    """Return the row of a method in the table of all methods."""
    values = recipe(name)
    cells = [f"[{name}]({name}.md)"]
    declared = recipes.declared(nodes(values))
    for part in PARTS:
        text = values["parts"].get(part, "-").rpartition(".")[2]
        inputs = recipes.LOSS_INPUTS.get(part)
        if text != "-" and inputs is not None and not inputs & declared.needs:
            text = f"({text})"
        cells.append(text)
    cells.append(supervision(name))
    return f"| {' | '.join(cells)} | {cited(values)} |"


def supervision(name: str) -> str:
    """Return whether a method is supervised, unsupervised or shallow."""
    return recipes.kind(nodes(recipe(name)))


def cited(values: dict[str, Any]) -> str:
    """Return the reference of a recipe's paper."""
    return "{paper} ({authors}, {venue} {year})".format(**values)


SECTIONS = {
    "supervised": "Supervised: trained with labels",
    "unsupervised": "Unsupervised: trained without labels",
    "shallow": "Shallow: fitted in closed form on the features of a backbone, without labels",
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
    """Return the page of a method: its description, formula and options with their sources."""
    values = recipe(name)
    text = (CONF / "method" / f"{name}.yaml").read_text()
    lines = [f"# {name}", "", f"{cited(values)}.", ""]
    lines += ["```sh", f"python train.py method={name} model.nbit=32 dataset=cifar10", "```", ""]
    if experiments := _files_of("experiment", name):
        lines += ["Settings of the original source, each value with its reference in the file:", ""]
        lines += [f"- `experiment={stem}` (`conf/experiment/{stem}.yaml`)" for stem in experiments]
        lines += [""]
    if settings := _files_of("settings", name):
        lines += ["Settings for one dataset, loaded by default (`~settings` omits them):", ""]
        for stem in settings:
            lines += [f"- `dataset={stem.rpartition('_')[2]}` (`conf/settings/{stem}.yaml`)"]
        lines += [""]
    lines += ["## Recipe", "", "```yaml", text.rstrip(), "```", ""]
    for shared in values.get("shared", []):
        text = (ROOT / shared).read_text().rstrip()
        lines += [f"The recipe includes `{shared}`:", "", "```yaml", text, "```", ""]
    if "_target_" in values:
        about, arguments = described(targets.locate(values["_target_"]))
        lines += ["## Method", "", about, "", *arguments, ""]
    if "loss" in values["parts"]:
        loss_text, loss = option("loss", values["parts"]["loss"])
        about, arguments = described(loss)
        lines += [f"## Loss: {values['parts']['loss']}", "", about, "", *arguments, ""]
        lines += ["Default options, which the recipe may replace:", ""]
        lines += ["```yaml", loss_text.rstrip(), "```", ""]
    for part in PARTS[:-1]:
        if part not in values["parts"]:
            continue
        choice = values["parts"][part]
        about, arguments = described(option(part, choice)[1])
        title = f"## {part.capitalize()}: {choice.rpartition('.')[2]}"
        lines += [title, "", about, "", *arguments, ""]
    lines += [SOURCES, ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _files_of(group: str, method: str) -> list[str]:
    """Return the names of the files ``conf/<group>/<method>_<dataset>.yaml``."""
    stems = sorted(path.stem for path in (CONF / group).glob(f"{method}_*.yaml"))
    return [stem for stem in stems if stem.rpartition("_")[0] == method]


def described(part: type) -> tuple[str, list[str]]:
    """Return the docstring of a part as Markdown: its text, and a list of its arguments."""
    text, _, rest = (inspect.getdoc(part) or "").partition("\nArgs:\n")
    section = re.compile(r"^\w+:\n(?=    )", re.MULTILINE)
    text, rest = section.split(text)[0], section.split(rest)[0]
    text = text.replace("``", "`")
    text = re.sub(
        r"\.\. math::((?:.|\n)*?)(?=\n\n\S|\Z)",
        lambda match: "```math\n" + inspect.cleandoc(match.group(1)) + "\n```",
        text,
    )
    entries = re.findall(r"^    (\w+): ((?:.|\n)*?)(?=^    \w|^\S|\Z)", rest, re.MULTILINE)
    injected = {"num_classes", "nbit", "num_train", "seed", "in_features", "encoder"}
    arguments = [
        f"- `{key}`: {' '.join(description.split())}".replace("``", "`")
        for key, description in entries
        if key not in injected
    ]
    return text.strip(), arguments


METHODS = """# Methods

A method consists of up to five parts: head, relaxation, codebook, similarity and loss.
`method=NAME` selects a method, and any part can be replaced by name (`codebook=bernoulli`,
`similarity=cosine`, `loss=lmcl loss.scale=20`). Options of the method's own loss are set as
`method.loss.scale=80`.

{table}

*Supervised* methods read labels, *unsupervised* methods train on images without labels, and
*shallow* methods are fitted in closed form. Parts in parentheses are not read by the method's own
loss, but by `loss=lmcl`, the common loss of Table 4 of RelaHash, which works with every method that
has centers: `python train.py -m method=dpn,csq loss=lmcl trainer.batch_size=64`.
[Hashing without labels](../unsupervised.md) explains how to compare the other methods.

Images with several labels are used like images with one. Training images without a label are
excluded and counted, unless the method reads no labels.
"""

PUBLISHED = """# Published numbers

All numbers of other sources in this repository (mAP as printed there), from
`src/deephash/report/published.yaml`. The reports of the sweeps listed below a title show its
values beside their results where dataset and bits agree. The other tables are for reference only:
their protocol, backbone or codes differ from those of every sweep. Verified: *primary* was read in
the authors' own paper, supplement, README, code or answer; *secondary* is quoted by another source;
*rerun* was measured by a third party.
"""


def published_page() -> str:
    """Return the page of all published numbers, with their sources and conditions."""
    users: dict[str, list[str]] = {}
    for path in sorted((ROOT / "sweeps").rglob("*.yaml")):
        names = (read_yaml(path).get("report") or {}).get("published") or []
        for name in [names] if isinstance(names, str) else names:
            users.setdefault(name, []).append(path.stem)
    lines = [PUBLISHED]
    for name, table in published.published_tables().items():
        lines += [f"## {name}", "", f"{table['source']}. Verified: {table['verified']}."]
        if name in users:
            shown = ", ".join(f"`+sweep={stem}`" for stem in users[name])
            lines += [f"Shown by {shown}."]
        for dataset in table["values"]:
            entry = published.published(name, dataset)
            assert entry is not None
            lines += ["", f"**{dataset}**, {entry.describe()}", "", *numbers(entry.values)]
            lines += [f"- {row}: {note}" for row, note in entry.notes.items()]
            if entry.curves:
                lines += ["", "By epoch:", "", *curves(entry.curves)]
        lines += [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def numbers(values: Mapping[Any, Mapping[int, float]]) -> list[str]:
    """Return a table of values by row and number of bits."""
    bits = sorted({bit for row in values.values() for bit in row})
    rows = {row: [of.get(bit, "-") for bit in bits] for row, of in values.items()}
    return [*grid(["", *(f"{bit} bits" for bit in bits)], rows), ""]


def curves(values: Mapping[Any, Mapping[int, Mapping[int, float]]]) -> list[str]:
    """Return a table of values by row, number of bits and epoch."""
    by_row = {
        f"{row}, {bits} bits": curve
        for row, by_bits in values.items()
        for bits, curve in by_bits.items()
    }
    epochs = sorted({epoch for curve in by_row.values() for epoch in curve})
    rows = {row: [curve.get(epoch, "-") for epoch in epochs] for row, curve in by_row.items()}
    return grid(["epoch", *map(str, epochs)], rows)


def grid(head: list[str], rows: Mapping[Any, list[Any]]) -> list[str]:
    """Return a Markdown table; each row begins with its name."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return lines + [f"| {' | '.join(map(str, [name, *row]))} |" for name, row in rows.items()]


def files() -> dict[Path, str]:
    """Return the content of every generated file by path."""
    docs = ROOT / "docs"
    pages = {docs / "methods" / f"{name}.md": page(name) for name in names()}
    return {
        docs / "methods" / "index.md": METHODS.format(table=table().strip()),
        docs / "published.md": published_page(),
        **pages,
    }


def main() -> int:
    """Write all generated files."""
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
