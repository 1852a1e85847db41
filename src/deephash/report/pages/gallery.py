"""Queries with their nearest images, as HTML figures of a page."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deephash.errors import FileError
from deephash.report.figures.evaluation import Array, Retrieved
from deephash.utils.files import Kind, expect, read_json, remove, write_json

SIDE = 256
"""Longest side of an image on a page, in pixels."""

LOSSLESS_SIDE = 64
"""Images up to this side are stored without loss."""

KINDS = {
    "selected": "Selected queries",
    "hardest": "Hardest queries",
    "easiest": "Easiest queries",
    "spread": "Spread from easy to hard",
}
"""Titles of the kinds of queries."""

QUERY: dict[str, Kind] = {"title": str, "images": [dict]}
IMAGE: dict[str, Kind] = {"url": str, "caption": str, "relevant": (bool, None), "name": str}

DATA_URL = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*")


def gallery_values(gallery: Mapping[str, Sequence[Retrieved]]) -> list[dict[str, Any]]:
    """Return the queries of each kind with their images as data URLs, for ``pieces.gallery``."""
    kinds = [
        {"title": KINDS.get(kind, kind), "queries": [_query_values(query) for query in queries]}
        for kind, queries in gallery.items()
    ]
    return [kind for kind in kinds if kind["queries"]]


def write_gallery(file: Path, queries: Sequence[Retrieved]) -> None:
    """Write queries as JSON, from which a page can be made again; without queries, no file."""
    if queries:
        write_json(file, {"schema": 1, "queries": [_query_values(query) for query in queries]})
    else:
        remove(file)


def read_gallery(file: Path) -> list[dict[str, Any]]:
    """Return what ``gallery_values`` does, from a file; empty if it is missing or damaged."""
    if not file.is_file() or file.is_symlink():
        return []
    try:
        queries = read_json(file, "nearest images")
        expect(queries, {"queries": [dict]}, file)
        for query in queries["queries"]:
            expect(query, QUERY, file)
            for image in query["images"]:
                expect(image, IMAGE, file)
                if not DATA_URL.fullmatch(image["url"]):
                    return []
    except FileError:
        return []
    return [{"title": KINDS["selected"], "queries": queries["queries"]}]


def _query_values(query: Retrieved) -> dict[str, Any]:
    """Return the title of a query and its images; the first is the query itself."""
    images = [query.query, *query.images]
    captions = ["", *query.captions]
    names = [*query.names, *[""] * (len(images) - len(query.names))]
    right: Sequence[bool | None] = query.right or [None] * len(query.images)
    rows = zip(images, captions, [None, *right], names, strict=False)
    shown = []
    for image, caption, relevant, name in rows:
        if caption.startswith(f"{name}, "):  # without classes, captions have the names of files
            name = ""
        url = _data_url(image)
        shown.append({"url": url, "caption": caption, "relevant": relevant, "name": name})
    return {"title": query.title, "images": shown}


def _data_url(image: Array) -> str:
    """Return an image, (H, W, 3) uint8, as a data URL."""
    from PIL import Image

    picture, file = Image.fromarray(image), io.BytesIO()
    if max(picture.size) <= LOSSLESS_SIDE:
        picture.save(file, "PNG")
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    picture.thumbnail((SIDE, SIDE))
    picture.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
