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

_GROUP_BYTES = 8 << 20  # of a row group; larger ones are split, since a writer takes several times their size
_COPIED = 1 << 20
_SAFETENSORS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_FLOATS = {*_SAFETENSORS, "BF16"}
_MAX_HEADER = 100 << 20  # as safetensors itself has it


OF_IMAGES = re.compile(r"(negative_)?(img|images?)([_-]?(?:emb|feat)|$)", re.IGNORECASE)
"""Names of files, folders and columns of image embeddings: clip-retrieval's, labclip's own, and others alike."""

LEFT_ALONE = "The matrix goes on text embeddings alone; image embeddings, and an index of them, stay as they are"


def rows_in(dim: int) -> int:
    """How many rows of a length make a block."""
    return max(1, BLOCK_BYTES // (4 * max(dim, 1)))


def copied(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A file as it is."""
    while data := source.read(_COPIED):
        yield data


def npy(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A NumPy file of one array [rows, dim]."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, by_columns, dtype = read[np.lib.format.read_magic(source)](source)
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header, and a hostile one raises a dozen types
        raise ValueError(f"is not a whole NumPy file ({' '.join(str(error).splitlines()[:1])})") from error
    if column is not None:
        raise ValueError(f"holds one array, and no {column!r}. Leave out `column`")
    rows, dim = _checked(shape, dtype)
    if by_columns:
        raise ValueError("holds its array column by column. Save numpy.ascontiguousarray(array)")
    size = source.tell()
    source.seek(0)
    yield source.read(size)
    yield from _changed(source, rows, dim, dtype, change)
    if source.read(1):
        raise ValueError(f"has bytes behind its {rows:,} rows of {dim}")


def safetensors(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A safetensors file with one tensor aligned: the only [rows, dim] one, or the one that `column` names."""
    length = source.read(8)
    size = int.from_bytes(length, "little")
    text = source.read(size) if size <= _MAX_HEADER else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: (one["dtype"], one["shape"], *one["data_offsets"]) for name, one in header.items()}
        for _, shape, start, stop in tensors.values():
            if not all(map(_is_count, (*shape, start, stop))):
                raise TypeError("a shape or an offset is no whole number")
        matrices = [name for name, (kind, shape, *_) in tensors.items() if len(shape) == 2 and kind in _FLOATS]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"is not a whole safetensors file ({type(error).__name__}: {error})") from error
    name = _chosen(column, matrices, list(tensors), "tensor")
    kind, shape, start, stop = tensors[name]
    if kind not in _SAFETENSORS:
        raise ValueError(f"holds {name!r} as {kind}, not F16, F32 or F64. Store it as one of these")
    rows, dim = _checked(shape, np.dtype(_SAFETENSORS[kind]))
    if stop - start != rows * dim * np.dtype(_SAFETENSORS[kind]).itemsize:
        raise ValueError(f"is not a whole safetensors file: {name!r} has {stop - start:,} bytes")
    yield length + text
    yield from _part(source, start)
    yield from _changed(source, rows, dim, np.dtype(_SAFETENSORS[kind]), change)
    yield from _part(source, max(end for *_, end in tensors.values()) - stop)
    if source.read(1):
        raise ValueError("has bytes behind its tensors")


def parquet(source: BinaryIO, change: Change, column: str | None) -> Iterator[Any]:
    """A Parquet file with one column aligned: the only one of lists of floats, or the one that `column` names."""
    pa = require("pyarrow", *PARQUET)
    reader = require("pyarrow.parquet", *PARQUET)
    require("pyarrow.compute", *PARQUET)
    try:
        with reader.ParquetFile(source, buffer_size=_COPIED, pre_buffer=False) as file:
            schema = file.schema_arrow
            vectors = [field.name for field in schema if _is_vector(pa, field.type)]
            name = _chosen(column, vectors, schema.names, "column")
            index = schema.get_field_index(name)
            if index < 0:
                raise ValueError(f"has several columns {name!r}. Rename all but one")
            if name not in vectors:
                raise ValueError(f"has {name!r} as {schema.field(index).type}, not as lists of floats")
            written = io.BytesIO()  # since the last time that it was emptied: pyarrow itself counts bytes
            with reader.ParquetWriter(
                pa.PythonFile(written), schema, compression=_compression(file.metadata)
            ) as writer:
                for group in range(file.num_row_groups):
                    for table in _aligned_group(pa, file, group, index, change):
                        writer.write_table(table)
                        yield written.getvalue()
                        written.seek(0)
                        written.truncate()
            yield written.getvalue()
    except pa.ArrowException as error:
        raise ValueError(f"is not a whole Parquet file ({first_line(error)})") from error


FORMATS: dict[str, Callable[[BinaryIO, Change, str | None], Iterator[Any]]] = {
    ".npy": npy,
    ".safetensors": safetensors,
    ".parquet": parquet,
}
"""By its ending what gives a file's bytes, with the embeddings changed: source, change, name of column or tensor.

What is wrong with the source is a ValueError that goes on after its name.
"""


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _checked(shape: Any, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Rows and dim of an array of embeddings."""
    if len(shape) != 2 or not all(map(_is_count, shape)):
        raise ValueError(f"holds an array {list(shape)}, not embeddings [rows, dim]")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"holds {dtype}, not float16, float32 or float64")
    return shape[0], shape[1]


def _changed(source: BinaryIO, rows: int, dim: int, dtype: np.dtype[Any], change: Change) -> Iterator[Any]:
    """The rows of an array that lies in a file row by row, changed; each block takes the memory of the one before."""
    memory, block = np.empty((min(rows_in(dim), rows), dim), dtype), rows_in(dim)
    for start in range(0, rows, block):
        found = memory[: rows - start]
        flat = found.reshape(-1).view(np.uint8)
        done = 0
        while done < len(flat):
            if not (count := source.readinto(flat[done:])):  # type: ignore[attr-defined]
                raise ValueError(f"is cut off: row {start + done // found.strides[0]:,} of {rows:,} is not whole")
            done += count
        yield np.ascontiguousarray(change(found)).reshape(-1).view(np.uint8).data


def _part(source: BinaryIO, size: int) -> Iterator[bytes]:
    """The next bytes of a file."""
    while size > 0:
        if not (data := source.read(min(size, _COPIED))):
            raise ValueError(f"is cut off: {size:,} bytes are missing")
        yield data
        size -= len(data)


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


def _compression(metadata: Any) -> dict[str, str] | str:
    """Of each column the codec that the file has it in."""
    if not metadata.num_row_groups:
        return "snappy"
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {one.path_in_schema: one.compression.replace("UNCOMPRESSED", "NONE") for one in columns}


def _aligned_group(pa: Any, file: Any, group: int, index: int, change: Change) -> Iterator[Any]:
    """A row group as one table or, where it is large, as several."""
    pending: list[Any] = []
    kind = file.schema_arrow.field(index).type
    rows = rows_in(kind.list_size) if pa.types.is_fixed_size_list(kind) else 2048
    for batch in file.iter_batches(rows, row_groups=[group]):
        aligned = _aligned_list(pa, batch.column(index), change)
        pending.append(batch.set_column(index, batch.schema.field(index), aligned))
        if sum(one.nbytes for one in pending) >= _GROUP_BYTES:
            yield pa.Table.from_batches(pending)
            pending = []
    if pending:
        yield pa.Table.from_batches(pending)


def _aligned_list(pa: Any, lists: Any, change: Change) -> Any:
    """A column of lists of floats, aligned; where there is no list, there is none afterwards."""
    kind, there = lists.type, lists.is_valid().to_numpy(zero_copy_only=False)
    flat = lists.flatten()  # without those that are null
    count = int(there.sum())
    dim = len(flat) // max(count, 1)
    lengths = np.asarray(pa.compute.list_value_length(lists).fill_null(dim))
    if flat.null_count:
        raise ValueError(f"has embeddings in which numbers are missing, {flat.null_count:,} of them")
    if not (lengths == dim).all():
        raise ValueError(f"has embeddings of different lengths, {lengths.min()} to {lengths.max()} numbers")
    numbers = flat.to_numpy(zero_copy_only=False)
    rows = np.zeros((len(lists), dim), numbers.dtype)
    rows[there] = numbers.reshape(count, dim)
    aligned = change(rows)
    mask = None if count == len(lists) else pa.array(~there)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(pa.array(aligned.reshape(-1), kind.value_type), type=kind, mask=mask)
    large = pa.types.is_large_list(kind)
    # Where there is no list there are no numbers: older pyarrow writes none that are masked.
    offsets = np.concatenate([[0], there.cumsum() * dim]).astype(np.int64 if large else np.int32)
    numbers = (aligned if mask is None else aligned[there]).reshape(-1)
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(pa.array(offsets), pa.array(numbers, kind.value_type), type=kind, mask=mask)
