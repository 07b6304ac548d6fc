"""The formats of stored embeddings: each function gives a file's bytes, with nothing changed but the embeddings."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from labclip.checks import first_line
from labclip.packages import PARQUET, require

Rows = NDArray[np.floating[Any]]
Change = Callable[[Rows], Rows]
"""Embeddings [n, dim] in, as many of the same dtype out."""

BLOCK_BYTES = 4 << 20
"""Bytes of float32 that are multiplied at a time: more would leave the cache, fewer stop threads more often."""

_GROUP_BYTES = 2 << 20  # of a row group; larger ones are split, since reading and writing take ten times their size
_COPIED = 1 << 20
_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}

OF_IMAGES = re.compile(r"(negative_)?(img|images?)([_-]?(?:emb|feat)|$)", re.IGNORECASE)
"""Names of files, folders and columns of image embeddings: clip-retrieval's, labclip's own, and others alike."""

LEFT_ALONE = "The matrix goes on text embeddings alone; image embeddings, and an index of them, stay as they are"


def copied(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A file as it is."""
    while data := source.read(_COPIED):
        yield data


def npy(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A NumPy file of one array [rows, dim]."""
    try:
        np.lib.format.read_magic(source)
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(source)
    except ValueError as error:
        raise ValueError(f"is not a whole NumPy file ({first_line(error)})") from error
    if column is not None:
        raise ValueError(f"holds one array, and no {column!r}. Leave out `column`")
    if by_columns:
        raise ValueError("holds its array column by column. Save numpy.ascontiguousarray(array)")
    yield from _with_array(source, source.tell(), shape, dtype, change)


def safetensors(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A safetensors file with one tensor aligned: the only [rows, dim] one, or the one that `column` names."""
    size = int.from_bytes(source.read(8), "little")
    try:
        header = json.loads(source.read(size))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        matrices = [name for name, tensor in tensors.items() if len(tensor["shape"]) == 2 and "F" in tensor["dtype"]]
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"is not a whole safetensors file ({type(error).__name__}: {error})") from error
    name = _chosen(column, matrices, list(tensors), "tensor")
    kind = tensors[name]["dtype"]
    if kind not in _SAFETENSORS:
        raise ValueError(f"holds {name!r} as {kind}, not F16, F32 or F64. Store it as one of these")
    start = 8 + size + tensors[name]["data_offsets"][0]
    yield from _with_array(source, start, tensors[name]["shape"], np.dtype(_SAFETENSORS[kind]), change)


def parquet(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A Parquet file with one column aligned: the only one of lists of floats, or the one that `column` names."""
    pa = require("pyarrow", *PARQUET)
    reader = require("pyarrow.parquet", *PARQUET)
    try:
        with reader.ParquetFile(source, buffer_size=_COPIED, pre_buffer=False) as file:
            schema, groups = file.schema_arrow, [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            vectors = [field.name for field in schema if _is_vector(pa, field.type)]
            name = _chosen(column, vectors, schema.names, "column")
            if vectors.count(name) != 1:
                kinds = ", ".join(str(field.type) for field in schema if field.name == name)
                raise ValueError(f"has {name!r} as {kinds}, not as one column of lists of floats")
            index = schema.names.index(name)
            columns = [groups[0].column(number) for number in range(groups[0].num_columns)] if groups else []
            codecs = {chunk.path_in_schema: chunk.compression.replace("UNCOMPRESSED", "NONE") for chunk in columns}
            # A dictionary of numbers that do not repeat takes time and memory for nothing.
            repeating = [path for path in codecs if not path.startswith(f"{name}.")]
            written = io.BytesIO()  # emptied after each group: pyarrow itself counts bytes
            sink = pa.PythonFile(written)
            with reader.ParquetWriter(sink, schema, compression=codecs, use_dictionary=repeating) as writer:
                for number, group in enumerate(groups):
                    rows = max(1, group.num_rows * _GROUP_BYTES // max(group.total_byte_size, 1))
                    for batch in file.iter_batches(min(rows, group.num_rows), row_groups=[number], use_threads=False):
                        aligned = _aligned_lists(pa, batch.column(index), change)
                        writer.write_batch(batch.set_column(index, schema.field(index), aligned))
                        yield written.getvalue()
                        written.seek(0)
                        written.truncate()
            yield written.getvalue()
    except pa.ArrowException as error:
        raise ValueError(f"is not a complete Parquet file ({first_line(error)})") from error


FORMATS: dict[str, Callable[[BinaryIO, Change, str | None], Iterator[Any]]] = {
    ".npy": npy,
    ".safetensors": safetensors,
    ".parquet": parquet,
}
"""By its ending what gives a file's bytes, with the embeddings changed: source, change, name of column or tensor.

What is wrong with the source is a ValueError that goes on after its name.
"""


def _with_array(
    source: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], change: Change
) -> Iterator[Any]:
    """A file with the array [rows, dim] changed that lies in it row by row from byte `start` on."""
    if len(shape) != 2:
        raise ValueError(f"holds an array {list(shape)}, not embeddings [rows, dim]")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"holds {dtype}, not float16, float32 or float64")
    source.seek(0)
    while start:
        data = source.read(min(start, _COPIED))
        if not data:
            raise ValueError("is cut off")
        yield data
        start -= len(data)
    count, dim = shape
    block = max(1, BLOCK_BYTES // (4 * max(dim, 1)))
    for row in range(0, count, block):
        rows = np.empty((min(block, count - row), dim), dtype)
        size = source.readinto(rows.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
        if size < rows.nbytes:
            raise ValueError(f"is cut off: row {row + size // rows.strides[0]:,} of {count:,} is not whole")
        yield change(rows).reshape(-1).view(np.uint8).data
    yield from copied(source, change, None)


def _chosen(asked: str | None, usable: list[str], there: list[str], what: str) -> str:
    """The column or tensor that is asked for, or the only one that can be meant, never one of images."""
    usable = [name for name in usable if not OF_IMAGES.match(name)]
    if asked not in (None, *there) or (asked is None and not usable):
        named = f"{what} {asked!r}" if asked else f"{what} of embeddings"
        raise ValueError(f"has no {named}; it has {', '.join(map(repr, there)) or 'none'}")
    if asked is not None and OF_IMAGES.match(asked):
        raise ValueError(f"has in {asked!r} image embeddings by its name. {LEFT_ALONE}")
    if asked is None and len(usable) > 1:
        names = ", ".join(map(repr, usable))
        raise ValueError(f'has several {what}s of embeddings, {names}. Name one, as in column="{usable[0]}"')
    return asked or usable[0]


def _is_vector(pa: Any, kind: Any) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and pa.types.is_floating(kind.value_type)


def _aligned_lists(pa: Any, lists: Any, change: Change) -> Any:
    """A column of lists of floats, aligned; where there is no list, there is none afterwards."""
    vectors = lists.drop_null()
    lengths = vectors.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"has embeddings of different lengths, {min(lengths)} to {max(lengths)} numbers")
    numbers = vectors.flatten()
    if numbers.null_count:
        raise ValueError(f"has embeddings in which numbers are missing, {numbers.null_count:,} of them")
    if not len(numbers):
        return lists
    aligned = change(np.array(numbers).reshape(len(vectors), -1))
    made = pa.FixedSizeListArray.from_arrays(pa.array(aligned.reshape(-1), lists.type.value_type), aligned.shape[1])
    if lists.null_count:
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        made = made.take(pa.array(there.cumsum() - 1, mask=~there))
    return made.cast(lists.type)
