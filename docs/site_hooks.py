"""Hooks of mkdocs: list the pages of all methods, and render formulas as MathML.

So pages need no script. mkdocs calls `on_config` and `on_page_markdown`; griffe loads `Docstrings`
for the docstrings of the API reference.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert

FENCE = re.compile(r"^( *)```math\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
DOCTEST = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)
DIRECTIVE = re.compile(r"^( *)\.\. math::((?:.|\n)*?)(?=\n\n\1?\S|\Z)", re.MULTILINE)


def rendered(formula: str) -> str:
    """Return a formula in LaTeX as a block of MathML."""
    return f'<div class="math">{convert(" ".join(formula.split()), display="block")}</div>'


def on_config(config: Any) -> Any:
    """Put the pages of all methods below the entry "Methods"."""
    pages = sorted(Path(config["docs_dir"], "methods").glob("*.md"))
    others = [f"methods/{page.name}" for page in pages if page.stem != "index"]
    for entry in config["nav"]:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *others]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace fences of formulas on a page."""
    return FENCE.sub(lambda match: f"\n{rendered(match[2])}\n", markdown)


class Docstrings(griffe.Extension):
    """Render formulas and doctests of docstrings, which griffe takes for text."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class or function."""
        if obj.docstring is not None:
            text = inspect.cleandoc(obj.docstring.value)
            text = DIRECTIVE.sub(lambda match: f"{match[1]}{rendered(match[2])}", text)
            text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
            obj.docstring.value = DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", text)
