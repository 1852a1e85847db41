"""Files of codes for other programs: ``.npz``, ``.parquet`` and ``.jsonl``.

All of them hold the id, the packed code and, where there are any, the label of each image, and what
identifies the encoder: ``CodeEncoder.describe()``, with its fingerprint and its preprocessing.

``codes.npz``
    arrays ``nbit``; ``codes`` (N, ceil(K / 8)) uint8; ``ids`` (N,) text; ``labels`` (N,) text,
    empty for none; ``signatures`` (N,) text; ``encoder``, JSON.
``codes.parquet``
    columns ``id``, ``code`` (binary of fixed size), ``hex``, ``int8`` (a list), ``label``,
    ``signature``; the encoder as JSON in the file's metadata under ``deephash``.
``codes.jsonl``
    a JSON object on each line: ``id``, ``hex``, ``int8``, ``label``, ``signature``; the encoder in
    ``codes.encoder.json`` beside it.

Bit k of a code is bit ``7 - k % 8`` of byte ``k // 8``; unused bits of the last byte are 0. The
column ``int8`` has the same bytes as signed numbers, as search engines take them.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deephash import retrieval
from deephash.config.checks import CODE_FILES
from deephash.errors import DataError, FileError
from deephash.retrieval.codes import check_packed
from deephash.search.collection import Collection, Item, label_text
from deephash.search.encode import UnreadableImage, encode_items, raise_if_none
from deephash.training.code_encoder import CodeEncoder
from deephash.utils.extras import import_extra
from deephash.utils.files import (
    parse_json,
    read_arrays,
    read_json,
    read_text,
    remove_temporaries,
    write_arrays,
    write_atomic,
    write_json,
)

WHAT = "code file"
ADVICE = (
    "deephash encode writes such files; StoredCodes.read of deephash.retrieval reads the codes.npz"
    " of a run."
)
VERSION = 1
METADATA = b"deephash"

log = logging.getLogger("deephash")


@dataclass(frozen=True)
class CodeFile:
    """The codes of N images, with their ids.

    Example:
        >>> encoder = {"fingerprint": "f" * 64, "nbit": 8}
        >>> file = CodeFile(8, np.array([[3]], np.uint8), ["a.jpg"], encoder)
        >>> file.write("codes.jsonl")
        >>> Path("codes.jsonl").read_text().strip()
        '{"id": "a.jpg", "hex": "03", "int8": [3]}'
        >>> CodeFile.read("codes.jsonl").ids
        ['a.jpg']
    """

    nbit: int  # K
    codes: npt.NDArray[np.uint8]  # (N, ceil(K / 8)), packed
    ids: list[str]
    encoder: Mapping[str, Any]
    labels: list[str | None] | None = None
    signatures: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def index(self) -> retrieval.Index:
        """Return the codes as an index for exact search."""
        index = retrieval.Index(self.nbit)
        index.add(self.codes, self.ids)
        return index

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, atomically, in the format of its ending.

        Raises:
            DataError: the ending is unknown, or pyarrow is not installed.
            WriteError: the file cannot be written.
        """
        path = Path(path)
        writers = {
            ".npz": self._write_npz,
            ".parquet": self._write_parquet,
            ".jsonl": self._write_jsonl,
        }
        for written in (path, _encoder_file(path)):
            remove_temporaries(written)
        writers[format_of(path)](path)

    @classmethod
    def of(
        cls, codes: npt.NDArray[np.uint8], items: Sequence[Item], encoder: Mapping[str, Any]
    ) -> Self:
        """Return the codes of images of a collection.

        Args:
            codes: (N, ceil(K / 8)) uint8.
            items: the N images.
            encoder: as ``CodeEncoder.describe()``.
        """
        labels = [label_text(item.label) or None for item in items]
        return cls(
            int(encoder["nbit"]),
            codes,
            [item.id for item in items],
            encoder,
            labels=None if all(label is None for label in labels) else labels,
            signatures=[item.signature for item in items],
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read and check a file.

        Raises:
            FileError: it is missing or damaged, or of a later version.
        """
        path = Path(path)
        readers = {".npz": _read_npz, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
        values = readers[format_of(path)](path)
        encoder = values["encoder"]
        try:
            if not isinstance(encoder, dict) or not isinstance(encoder.get("fingerprint"), str):
                raise DataError("it does not say which encoder made it")
            nbit = encoder.get("nbit")
            if not isinstance(nbit, int) or not 1 <= nbit <= np.iinfo(np.int16).max:
                raise DataError(f"its number of bits is {nbit!r}")
            codes = check_packed(values["codes"], nbit, "codes")
            for name in ("ids", "labels", "signatures"):
                if values[name] is not None and len(values[name]) != len(codes):
                    raise DataError(f"it has {len(codes)} codes and {len(values[name])} {name}")
        except DataError as error:
            raise FileError(path, str(error), WHAT) from error
        return cls(nbit, codes, values["ids"], encoder, values["labels"], values["signatures"])

    @property
    def hex(self) -> list[str]:
        """The codes as hexadecimal digits, two for each byte."""
        width = 2 * self.codes.shape[1]
        text = np.ascontiguousarray(self.codes).tobytes().hex()
        return [text[start : start + width] for start in range(0, len(text), width)]

    def _write_npz(self, path: Path) -> None:
        arrays: dict[str, Any] = {
            "nbit": self.nbit,
            "codes": self.codes,
            "ids": np.array(self.ids, dtype=np.str_),
            "encoder": json.dumps(_versioned(self.encoder)),
        }
        if self.labels is not None:
            arrays["labels"] = np.array([label or "" for label in self.labels], dtype=np.str_)
        if self.signatures is not None:
            arrays["signatures"] = np.array(self.signatures, dtype=np.str_)
        write_arrays(path, arrays)

    def _write_parquet(self, path: Path) -> None:
        arrow, parquet = _pyarrow()
        width = self.codes.shape[1]
        codes = np.ascontiguousarray(self.codes)
        signed = arrow.ListArray.from_arrays(
            np.arange(len(codes) + 1, dtype=np.int32) * width, codes.view(np.int8).reshape(-1)
        )
        columns: dict[str, Any] = {
            "id": arrow.array(self.ids, arrow.string()),
            "code": arrow.FixedSizeBinaryArray.from_buffers(
                arrow.binary(width), len(codes), [None, arrow.py_buffer(codes.tobytes())]
            ),
            "hex": arrow.array(self.hex, arrow.string()),
            "int8": signed,
        }
        if self.labels is not None:
            columns["label"] = arrow.array(self.labels, arrow.string())
        if self.signatures is not None:
            columns["signature"] = arrow.array(self.signatures, arrow.string())
        table = arrow.table(columns).replace_schema_metadata(
            {METADATA: json.dumps(_versioned(self.encoder)).encode()}
        )
        write_atomic(path, lambda temporary: parquet.write_table(table, temporary))

    def _write_jsonl(self, path: Path) -> None:
        def write(temporary: Path) -> None:
            signed = np.ascontiguousarray(self.codes).view(np.int8)
            with temporary.open("w", encoding="utf-8") as file:
                for row, (name, digits) in enumerate(zip(self.ids, self.hex, strict=True)):
                    line: dict[str, Any] = {"id": name, "hex": digits, "int8": signed[row].tolist()}
                    if self.labels is not None:
                        line["label"] = self.labels[row]
                    if self.signatures is not None:
                        line["signature"] = self.signatures[row]
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

        write_json(_encoder_file(path), _versioned(self.encoder))
        write_atomic(path, write)


def encode_collection(
    encoder: CodeEncoder, collection: Collection, unreadable: list[UnreadableImage] | None = None
) -> CodeFile:
    """Encode all images of a collection; unreadable ones are left out.

    Args:
        encoder: of images.
        collection: the images.
        unreadable: receives the images that cannot be read; None to log a warning.

    Raises:
        DataError: none of the images can be read.
    """
    failed: list[UnreadableImage] = []
    parts = list(encode_items(encoder, collection, collection.items, failed))
    encoded = (item.id for part in parts for item in part.items)
    row_of = {name: row for row, name in enumerate(encoded)}
    raise_if_none(len(row_of), failed, collection)
    if unreadable is not None:
        unreadable += failed
    elif failed:
        log.warning(
            "%d of %d images cannot be read, the first is %s (%s)",
            len(failed),
            len(collection),
            failed[0].id,
            failed[0].cause,
        )
    items = [item for item in collection.items if item.id in row_of]
    codes = np.concatenate([part.codes for part in parts])[[row_of[item.id] for item in items]]
    return CodeFile.of(codes, items, encoder.describe())


def format_of(path: Path) -> str:
    """Return the ending of a code file.

    Raises:
        DataError: it is none of ``CODE_FILES``.
    """
    for ending in CODE_FILES:
        if path.name.lower().endswith(ending):
            return ending
    raise DataError(
        f"{path}  has no ending of a code file: give a file such as"
        f" {path.with_suffix('.npz').name} ({', '.join(CODE_FILES)})"
    )


def check_format(path: Path) -> None:
    """Check the ending of a file, and that its format can be written, before hours of work.

    Raises:
        DataError: the ending is unknown, or a package is missing.
    """
    if format_of(path) == ".parquet":
        _pyarrow()


def _versioned(encoder: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": VERSION, **encoder}


def _unversioned(path: Path, encoder: Any) -> Any:
    """Return the description of an encoder without the version of the file, which is checked."""
    if not isinstance(encoder, dict):
        return encoder
    version = encoder.pop("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise FileError(path, f"it is of version {version}; this deephash reads {VERSION}", WHAT)
    return encoder


def _encoder_file(path: Path) -> Path:
    return path.with_suffix(".encoder.json")


def _read_npz(path: Path) -> dict[str, Any]:
    arrays = read_arrays(
        path, WHAT, ["codes", "ids", "encoder"], ["labels", "signatures"], advice=ADVICE
    )
    texts = {name: arrays.get(name) for name in ("ids", "labels", "signatures")}
    for name, array in texts.items():
        if array is not None and (array.ndim != 1 or array.dtype.kind != "U"):
            raise FileError(path, f"its {name} are {array.dtype} {array.shape}, not text", WHAT)
    encoder = parse_json(path, str(arrays["encoder"]), WHAT)
    lists = {name: None if array is None else array.tolist() for name, array in texts.items()}
    if lists["labels"] is not None:
        lists["labels"] = [label or None for label in lists["labels"]]
    return {"codes": arrays["codes"], "encoder": _unversioned(path, encoder), **lists}


def _read_parquet(path: Path) -> dict[str, Any]:
    _, parquet = _pyarrow()
    if not path.is_file():
        raise FileError(path, "it does not exist", WHAT, ADVICE)
    try:
        table = parquet.read_table(path)
        text = (table.schema.metadata or {}).get(METADATA, b"null").decode()
        names = table.column_names
        codes = b"".join(table["code"].to_pylist())
        width = table.schema.field("code").type.byte_width
        lists = {
            name: table[column].to_pylist() if column in names else None
            for name, column in (("ids", "id"), ("labels", "label"), ("signatures", "signature"))
        }
    except Exception as error:  # pyarrow's own, KeyError
        raise FileError(path, " ".join(str(error).split())[:400], WHAT) from error
    encoder = parse_json(path, text, WHAT, kind=None)
    array = np.frombuffer(codes, np.uint8).reshape(len(table), width)
    return {"codes": array, "encoder": _unversioned(path, encoder), **lists}


def _read_jsonl(path: Path) -> dict[str, Any]:
    encoder = _unversioned(path, read_json(_encoder_file(path), "description of the encoder"))
    ids, labels, signatures, codes = [], [], [], []
    for number, line in enumerate(read_text(path, WHAT, limit=None).splitlines(), 1):
        try:
            values = json.loads(line)
            ids.append(str(values["id"]))
            codes.append(bytes.fromhex(values["hex"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(path, f"line {number} is not as expected ({error})", WHAT) from error
        labels.append(values.get("label"))
        signatures.append(values.get("signature"))
    widths = {len(code) for code in codes}
    if len(widths) > 1:
        raise FileError(path, f"its codes have {sorted(widths)} bytes", WHAT)
    width = widths.pop() if widths else -(-int(encoder.get("nbit", 8)) // 8)
    return {
        "codes": np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), width),
        "ids": ids,
        "labels": labels if any(label is not None for label in labels) else None,
        "signatures": None if None in signatures or not signatures else signatures,
        "encoder": encoder,
    }


def _pyarrow() -> tuple[Any, Any]:
    otherwise = "write .npz or .jsonl"
    return (
        import_extra("pyarrow", "a Parquet file", otherwise),
        import_extra("pyarrow.parquet", "a Parquet file", otherwise),
    )
