"""The formats of stored embeddings: a function for each yields a file's bytes, with only the embeddings changed."""

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
"""A function of embeddings [n, dim] that returns as many of the same dtype."""

BLOCK_BYTES = 4 << 20
"""Bytes of float32 that are multiplied at a time: more do not fit the cache, fewer make threads wait more often."""

_GROUP_BYTES = 2 << 20  # batch size for Parquet: reading and writing a row group takes ten times its size in memory
_READ_BYTES = 1 << 20
_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}

OF_IMAGES = re.compile(r"(negative_)?(img|images?)([_-]?(?:emb|feat)|$)", re.IGNORECASE)
"""Names of files, folders and columns with image embeddings: clip-retrieval's, labclip's own, and similar ones."""

LEFT_ALONE = "The matrix is for text embeddings only; image embeddings, and an index of them, stay as they are"


def copy_bytes(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """Copy a file without a change."""
    while data := source.read(_READ_BYTES):
        yield data


def npy(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """Change a NumPy file with one array [rows, dim]."""
    try:
        np.lib.format.read_magic(source)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(source)
    except ValueError as error:
        raise ValueError(f"is not a complete NumPy file ({first_line(error)})") from error
    if column is not None:
        raise ValueError(f"holds one array, which has no name, but column is {column!r}. Leave out `column`")
    if fortran_order:
        raise ValueError("holds its array column by column. Save numpy.ascontiguousarray(array)")
    yield from _with_array(source, source.tell(), shape, dtype, change)


def safetensors(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """Change one tensor of a safetensors file: the one named `column`, else the only one with shape [rows, dim]."""
    size = int.from_bytes(source.read(8), "little")
    try:
        header = json.loads(source.read(size))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        matrices = [name for name, tensor in tensors.items() if len(tensor["shape"]) == 2 and "F" in tensor["dtype"]]
    except (ValueError, AttributeError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"is not a complete safetensors file ({type(error).__name__}: {error})") from error
    name = _select(column, matrices, list(tensors), "tensor")
    dtype = tensors[name]["dtype"]
    if dtype not in _SAFETENSORS:
        raise ValueError(f"holds {name!r} as {dtype}, not F16, F32 or F64. Store it as one of these")
    start = 8 + size + tensors[name]["data_offsets"][0]
    yield from _with_array(source, start, tensors[name]["shape"], np.dtype(_SAFETENSORS[dtype]), change)


def parquet(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """Change one column of a Parquet file: the one named `column`, else the only one with lists of floats."""
    pa = require("pyarrow", *PARQUET)
    reader = require("pyarrow.parquet", *PARQUET)
    try:
        with reader.ParquetFile(source, buffer_size=_READ_BYTES, pre_buffer=False) as file:
            schema, groups = file.schema_arrow, [file.metadata.row_group(n) for n in range(file.num_row_groups)]
            is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
            lists = [field for field in schema if any(is_kind(field.type) for is_kind in is_list)]
            vectors = [field.name for field in lists if pa.types.is_floating(field.type.value_type)]
            name = _select(column, vectors, schema.names, "column")
            if vectors.count(name) != 1:
                types = ", ".join(str(field.type) for field in schema if field.name == name)
                raise ValueError(f"has {name!r} as {types}, not as one column of lists of floats")
            index = schema.names.index(name)
            chunks = [groups[0].column(number) for number in range(groups[0].num_columns)] if groups else []
            codecs = {chunk.path_in_schema: chunk.compression.replace("UNCOMPRESSED", "NONE") for chunk in chunks}
            # No dictionary for the embeddings: their numbers do not repeat.
            with_dictionary = [path for path in codecs if not path.startswith(f"{name}.")]
            buffer = io.BytesIO()  # emptied after each batch; pyarrow counts the bytes that were written
            sink = pa.PythonFile(buffer)
            with reader.ParquetWriter(sink, schema, compression=codecs, use_dictionary=with_dictionary) as writer:
                for number, group in enumerate(groups):
                    rows = max(1, group.num_rows * _GROUP_BYTES // max(group.total_byte_size, 1))
                    for batch in file.iter_batches(min(rows, group.num_rows), row_groups=[number], use_threads=False):
                        changed = _change_lists(pa, batch.column(index), change)
                        writer.write_batch(batch.set_column(index, schema.field(index), changed))
                        yield buffer.getvalue()
                        buffer.seek(0)
                        buffer.truncate()
            yield buffer.getvalue()
    except pa.ArrowException as error:
        raise ValueError(f"is not a complete Parquet file ({first_line(error)})") from error


FORMATS: dict[str, Callable[[BinaryIO, Change, str | None], Iterator[Any]]] = {
    ".npy": npy,
    ".safetensors": safetensors,
    ".parquet": parquet,
}
"""The functions of the formats, keyed by the ending of the file. Their arguments are the open source, the change, and
the name of the column or tensor. Messages of their ValueErrors are to follow the file's name."""


def _with_array(
    source: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], change: Change
) -> Iterator[Any]:
    """Change the array [rows, dim] that is stored in a file from byte `start` on, in row-major order."""
    if len(shape) != 2:
        raise ValueError(f"holds an array {list(shape)}, not embeddings [rows, dim]")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"holds {dtype}, not float16, float32 or float64")
    source.seek(0)
    while start:
        data = source.read(min(start, _READ_BYTES))
        if not data:
            raise ValueError("is truncated")
        yield data
        start -= len(data)
    count, dim = shape
    block = max(1, BLOCK_BYTES // (4 * max(dim, 1)))
    for row in range(0, count, block):
        rows = np.empty((min(block, count - row), dim), dtype)
        size = source.readinto(rows.reshape(-1).view(np.uint8))  # type: ignore[attr-defined]
        if size < rows.nbytes:
            raise ValueError(f"is truncated: row {row + size // rows.strides[0]:,} of {count:,} is not complete")
        yield change(rows).reshape(-1).view(np.uint8).data
    yield from copy_bytes(source, change, None)


def _select(column: str | None, usable: list[str], names: list[str], noun: str) -> str:
    """The column or tensor to change: the one named `column`, else the only `usable` one, but none of images."""
    usable = [name for name in usable if not OF_IMAGES.match(name)]
    if column not in (None, *names) or (column is None and not usable):
        missing = f"{noun} {column!r}" if column else f"{noun} of embeddings"
        raise ValueError(f"has no {missing}; it has {', '.join(map(repr, names)) or 'none'}")
    if column is not None and OF_IMAGES.match(column):
        raise ValueError(f"has image embeddings in {column!r}, by its name. {LEFT_ALONE}")
    if column is None and len(usable) > 1:
        choices = ", ".join(map(repr, usable))
        raise ValueError(f'has several {noun}s of embeddings, {choices}. Name one, as in column="{usable[0]}"')
    return column or usable[0]


def _change_lists(pa: Any, lists: Any, change: Change) -> Any:
    """Change a column of lists of floats; rows that are null stay null."""
    vectors = lists.drop_null()
    lengths = vectors.value_lengths().unique().to_pylist()
    if len(lengths) > 1:
        raise ValueError(f"has embeddings of different dimensions, {min(lengths)} to {max(lengths)}")
    numbers = vectors.flatten()
    if numbers.null_count:
        raise ValueError(f"has embeddings with missing numbers, {numbers.null_count:,} of them")
    if not len(numbers):
        return lists
    rows = change(np.array(numbers).reshape(len(vectors), -1))
    changed = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), lists.type.value_type), rows.shape[1])
    if lists.null_count:
        has_list = lists.is_valid().to_numpy(zero_copy_only=False)
        changed = changed.take(pa.array(has_list.cumsum() - 1, mask=~has_list))
    return changed.cast(lists.type)
