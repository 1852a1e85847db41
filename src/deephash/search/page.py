"""Pages of search results: the pictures are in the page, which loads and sends nothing."""

import base64
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from deephash.data.decoding import opened, to_rgb
from deephash.data.prefetch import default_workers, prefetch
from deephash.errors import DataError
from deephash.report.pages.base import render
from deephash.search.collection import Collection, Item, Read, absolute, label_names, label_text
from deephash.search.image_index import Answer, Group, Hit, ImageIndex
from deephash.utils.files import write_text

SIDE = 224
"""Longest side of a picture in pixels."""

MOST_QUERIES, MOST_HITS = 50, 100
"""Queries on a page, and images of each."""

MOST_GROUPS, MOST_MEMBERS = 100, 24
"""Groups of duplicates on a page, and images of each."""

PACKAGE = "deephash.search"


class PageQuery(NamedTuple):
    """A query and its answer."""

    name: str
    collection: Collection
    item: Item
    answer: Answer


def write_search_page(
    path: Path, index: ImageIndex, queries: Sequence[PageQuery], radius: int | None
) -> Path:
    """Write the page of a search.

    Args:
        path: of the page.
        index: that was searched.
        queries: with their answers; of very many, the first are shown.
        radius: of the search; None for the nearest images.

    Returns:
        The path.
    """
    shown = queries[:MOST_QUERIES]
    names = [hit.id for query in shown for hit in query.answer.hits[:MOST_HITS]]
    pictures = _pictures(index.collection, names)
    own: dict[tuple[int, str], str] = {}
    for collection in {id(query.collection): query.collection for query in shown}.values():
        wanted = [query.item.id for query in shown if query.collection is collection]
        for name, picture in _pictures(collection, wanted).items():
            own[id(collection), name] = picture
    sections: list[dict[str, Any]] = [
        {
            "title": query.name,
            "code": query.answer.hex,
            "query": {
                "name": query.name,
                "picture": own.get((id(query.collection), query.item.id), ""),
                "link": _link(path, query.collection, query.item.id),
                "caption": label_text(query.item.label),
            },
            "images": [
                _card(path, index.collection, hit, pictures, query.item)
                for hit in query.answer.hits[:MOST_HITS]
            ],
            "note": _note(query.answer, radius),
        }
        for query in shown
    ]
    title = queries[0].name if len(queries) == 1 else f"{len(queries):,} queries"
    values = {
        **_head(index),
        "title": title,
        "what": "all images" if radius is not None else "the nearest images",
        "radius": radius,
        "sections": sections,
        "compared": any(one["same"] is not None for it in sections for one in it["images"]),
        "left_out": len(queries) - len(shown),
    }
    write_text(path, render("search.html.j2", values, PACKAGE))
    return path


def write_duplicates_page(
    path: Path, index: ImageIndex, groups: Sequence[Group], radius: int
) -> Path:
    """Write the page of groups of near images.

    Args:
        path: of the page.
        index: that was searched.
        groups: of very many, the first are shown.
        radius: of the groups.

    Returns:
        The path.
    """
    shown = groups[:MOST_GROUPS]
    names = [hit.id for group in shown for hit in group.hits[:MOST_MEMBERS]]
    pictures = _pictures(index.collection, names)
    sections = [
        {
            "count": len(group.hits),
            "width": group.width,
            "left_out": max(0, len(group.hits) - MOST_MEMBERS),
            "images": [
                _card(path, index.collection, hit, pictures, None)
                | {"copy_of": group.copies.get(hit.id, "")}
                for hit in group.hits[:MOST_MEMBERS]
            ],
        }
        for group in shown
    ]
    values = {
        **_head(index),
        "radius": radius,
        "count": len(groups),
        "images": sum(len(group.hits) for group in groups),
        "sections": sections,
        "left_out": len(groups) - len(shown),
    }
    write_text(path, render("duplicates.html.j2", values, PACKAGE))
    return path


def _head(index: ImageIndex) -> dict[str, Any]:
    encoder = index.encoder.describe()
    chips = {
        "images": f"{len(index.snapshot()):,}",
        "bits": encoder["nbit"],
        "method": encoder["method"],
        "trained on": encoder["dataset"],
        "encoder": encoder["fingerprint"][:12],
    }
    return {
        "collection": index.collection.path.name,
        "chips": [(name, str(value)) for name, value in chips.items() if value is not None],
    }


def _note(answer: Answer, radius: int | None) -> str:
    if not answer.hits:
        return "No image." if radius is None else f"No image within distance {radius}."
    left_out = answer.more + max(0, len(answer.hits) - MOST_HITS)
    if not left_out:
        return ""
    if radius is None and len(answer.hits) <= MOST_HITS:
        return f"{left_out:,} more at distance {answer.hits[-1].distance}."
    return f"{left_out:,} more images."


def _card(
    page: Path,
    collection: Collection,
    hit: Hit,
    pictures: Mapping[str, str],
    query: Item | None,
) -> dict[str, Any]:
    """Return the values of an image on a page."""
    same = None
    if query is not None and query.label is not None and hit.label is not None:
        same = not set(label_names(query.label)).isdisjoint(label_names(hit.label))
    return {
        "name": hit.id,
        "distance": hit.distance,
        "label": label_text(hit.label),
        "same": same,
        "picture": pictures.get(hit.id, ""),
        "link": _link(page, collection, hit.id),
    }


def _link(page: Path, collection: Collection, name: str) -> str:
    """Return a relative link from a page to the file of an image; empty in an archive."""
    file = collection.file(name)
    if file is None:
        return ""
    try:
        return quote(Path(os.path.relpath(file, absolute(page.parent))).as_posix())
    except ValueError:  # on another disk of Windows
        return file.as_uri()


def _pictures(collection: Collection, names: Iterable[str]) -> dict[str, str]:
    """Return small JPEGs of images as URLs that contain them; none of unreadable images."""
    wanted = set(names)
    items = [item for item in collection.items if item.id in wanted]

    def picture(read: Read) -> tuple[str, str]:
        return read.item.id, "" if read.cause else thumbnail_url(read.path, read.content)

    return dict(prefetch(picture, collection.read(items), default_workers()))


def thumbnail_url(path: Path, content: bytes | None = None) -> str:
    """Return a small JPEG of an image file as a ``data:`` URL; empty if it cannot be read.

    Args:
        path: the file; with ``content``, only a name.
        content: its bytes; None to read it.
    """
    try:
        data = thumbnail(path, content)
    except DataError:  # removed or changed since it was encoded
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def thumbnail(path: Path, content: bytes | None = None, side: int = SIDE) -> bytes:
    """Return a small JPEG of an image file, upright, without its metadata.

    Raises:
        DataError: the file cannot be read.
    """
    with opened(path, content) as image:
        image.draft("RGB", (2 * side, 2 * side))  # JPEG: decode only what is needed
        small = to_rgb(image)
        small.thumbnail((side, side))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=82)
    return file.getvalue()
