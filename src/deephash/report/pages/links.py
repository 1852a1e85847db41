"""Links between pages, and from pages to the files of a run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from deephash.errors import FileError
from deephash.utils import filenames, program
from deephash.utils.files import SWEEPS, read_yaml
from deephash.utils.nested import get_nested
from deephash.utils.run_paths import RunPaths

INDEX = "index.html"
"""Page of all sweeps and runs, in the folder of outputs."""

PAGE = "report.html"
"""Page of a run, and of a sweep."""

PAPERS = "https://dblp.org/search?q="
"""Search for the title of a paper. Recipes contain titles, which unlike addresses do not change."""

Link = tuple[str, str]
"""Title and address."""


def address(target: Path, folder: Path) -> str:
    """Return the address of a file, relative to the folder of a page."""
    path = os.path.relpath(target.resolve(), folder.resolve())
    return quote(path.replace(os.sep, "/"))


def outputs_of(run: Path, name: str) -> Path | None:
    """Return the folder of outputs that contains a run.

    Args:
        run: its folder.
        name: as in its report.

    Returns:
        None if the folder was moved or renamed.
    """
    folder, parts = run.resolve(), tuple(name.split("/"))
    if not filenames.is_below(name) or folder.parts[-len(parts) :] != parts:
        return None
    return folder.parents[len(parts) - 1]


def page_links(folder: Path, run: Path, name: str) -> list[Link]:
    """Return links from a page of a run to the other pages that show it.

    Args:
        folder: of the page.
        run: folder of the run.
        name: of the run, as in its report.
    """
    paths, links = RunPaths(run), []
    outputs = outputs_of(run, name)
    if outputs is not None:
        links.append(("all runs", address(outputs / INDEX, folder)))
        group = _config(paths).get("group")
        if filenames.name_fault(group) is None and (outputs / SWEEPS / str(group)).is_dir():
            page = outputs / SWEEPS / str(group) / PAGE
            links.append((f"sweep {group}", address(page, folder)))
    for title, page in (("run", paths.report_page), ("evaluation", paths.evaluation_page)):
        if page.is_file():
            links.append((title, address(page, folder)))
    return links


def file_links(folder: Path, run: Path) -> list[Link]:
    """Return links from a page to the files of a run, its method and its paper."""
    paths = RunPaths(run)
    files = {
        "configuration": paths.config_file,
        "log": paths.history,
        "codes": paths.codes(),
        "report.json": paths.report_file,
        "evaluation.json": paths.evaluation_file,
    }
    links = [(title, address(file, folder)) for title, file in files.items() if file.is_file()]
    return links + method_links(folder, _config(paths))


def method_links(folder: Path, config: Mapping[str, Any]) -> list[Link]:
    """Return links to the description of a method and to its paper.

    The description is a file of the repository. Pages elsewhere have no link to it, since they are
    copied to places without the repository, and an installed package has no such file.
    """
    links, root = [], program.checkout()
    name = get_nested(config, "method", "name")
    within = root is not None and folder.resolve().is_relative_to(root)
    if root is not None and within and filenames.name_fault(name) is None:
        page = root / "docs" / "methods" / f"{name}.md"
        if page.is_file():
            links.append((f"method {name}", address(page, folder)))
    paper = get_nested(config, "method", "paper")
    if isinstance(paper, str) and paper.strip():
        facts = [get_nested(config, "method", key) for key in ("authors", "venue", "year")]
        listed = ", ".join(str(fact) for fact in facts if isinstance(fact, str | int))
        links.append((f"paper: {listed}" if listed else "paper", PAPERS + quote_plus(paper)))
    return links


def _config(paths: RunPaths) -> Mapping[str, Any]:
    """Return the configuration of a run; empty if it is missing or damaged."""
    try:
        config: Mapping[str, Any] = read_yaml(paths.config_file, "configuration of a run")
    except FileError:
        return {}
    return config
