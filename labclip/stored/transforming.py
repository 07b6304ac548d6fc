"""Stored text embeddings of a base into aligned ones, without encoding anything again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labclip.alignment import Alignment
from labclip.io.folder import matrix_sha256
from labclip.io.names import name_of
from labclip.packages import versions_of
from labclip.stored.output import UnwritableError
from labclip.stored.places import Place, Shard, find_shards, holders, place_of, version_of
from labclip.stored.run import Run, described, read_record
from labclip.stored.shards import ENGINES, Engine, Work

FORMAT_VERSION = 1
_SHOWN = 3  # files that a message names


def transform(
    source: str | Path,
    target: str | Path,
    alignment: Alignment | str | Path,
    *,
    strength: float | None = None,
    normalize: bool = False,
    column: str | None = None,
    engine: str = "local",
    force: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Align stored text embeddings of a base: every row times the matrix, nothing else changed.

    Files are read and written in blocks, so memory does not grow with them. Each is whole under its name or not there.
    Killed at any moment, the same call goes on with the files that are not done, and ends with the same bytes. A
    manifest beside the result says what it was made of and by; with it, a second transform of it is refused.

    Args:
        source: Text embeddings of the alignment's base, any scale, float16, float32 or float64: a `.npy` file
            [rows, dim], a `.safetensors` file with one such tensor, a `.parquet` file with a column of lists of floats,
            a folder of such files, or a folder of clip-retrieval, whose `metadata` is copied and whose image embeddings
            are left where they are.
        target: A file of the same ending, or a folder.
        alignment: An alignment, or the name, folder or repository of one.
        strength: 0 is the base exactly, 1 the matrix as fitted; by default what the alignment records.
        normalize: Whether to write unit-length rows.
        column: The column or tensor of the embeddings, where there are several.
        engine: "local", or "ray" to share the files out over the Ray cluster of RAY_ADDRESS, or this machine's cores
            where that is not set. All machines must see source and target under these paths.
        force: Whether to start from scratch where the target is there.
        progress: Whether to show a bar on stderr.

    Returns:
        The manifest: `source`, `alignment`, `matrix_sha256`, `strength`, `base`, `normalize`, `column`, `dim`, and of
        each of the `shards` `name`, `rows`, `bytes` and `sha256`. Rows keep their dtype; the product is float32.

    Raises:
        FileNotFoundError: If the source or the alignment does not exist.
        ValueError: If the source holds image embeddings or is aligned already; if the target is the source, is there,
            or is being written by another process; if files can't be read, are of another dim, have rows that are not
            finite, or would have: these are named, and the others done.
        OSError: If the target can't be written.
        MissingPackageError: If Parquet is to be read without pyarrow.

    Example:
        >>> import labclip, numpy as np
        >>> np.save("texts.npy", np.random.default_rng(0).normal(size=(1000, 256)).astype(np.float16))
        >>> manifest = labclip.transform("texts.npy", "aligned.npy", "scenes", progress=False)
        >>> manifest["shards"][0]["rows"], np.load("aligned.npy").dtype
        (1000, dtype('float16'))
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}. Pass {' or '.join(map(repr, ENGINES))}.")
    chosen = alignment if isinstance(alignment, Alignment) else Alignment.from_pretrained(alignment)
    chosen = chosen if strength is None else chosen.at(strength)
    read, written = place_of(source), place_of(target)
    shards, is_folder = find_shards(read, written)
    _check_apart(read, written, shards)
    _refuse_aligned(read, shards)
    facts = {
        "library_name": "labclip",
        "format_version": FORMAT_VERSION,
        "source": read.name,
        "alignment": name_of(alignment),
        "matrix_sha256": matrix_sha256(chosen.fitted),
        "strength": chosen.strength,
        "base": None if chosen.base is None else vars(chosen.base),
        "normalize": normalize,
        "column": column,
        "dim": chosen.dim,
    }
    run = Run(written, is_folder=is_folder)
    run.check(facts, force=force)
    with run, _explained():
        run.check(facts, force=force)  # another process may have finished in between
        if (finished := run.finished) and not force:
            return finished  # killed when all but tidying was done
        run.start(facts, force=force)
        work = Work(chosen, normalize, column, run.unfinished if written.is_local else None)
        records = run.records()
        left = [shard for shard in shards if not _is_done(records.get(shard.name), shard)]
        bad = _align(run, work, left, ENGINES[engine], progress)
        _refuse_bad(bad, len(shards), read)
        records = run.records()
        kept = [{key: value for key, value in records[shard.name].items() if key != "version"} for shard in shards]
        manifest = {**facts, "shards": kept, "versions": versions_of("torch", "numpy")}
        run.finish(manifest)
    return manifest


def _align(run: Run, work: Work, left: Sequence[Shard], engine: Engine, progress: bool) -> list[tuple[Shard, str]]:
    """Align what is left; gives the shards that can't be, with what is wrong with each."""
    bad: list[tuple[Shard, str]] = []
    with tqdm(desc="aligning", unit="B", unit_scale=True, disable=not progress) as bar:
        for number, (shard, found) in enumerate(engine(work, left, bar.update), start=1):
            if isinstance(found, str):
                bad.append((shard, found))
            else:
                run.keep(found)
            bar.set_postfix_str(f"{number:,} of {len(left):,} files")
    return bad


def _refuse_bad(bad: Sequence[tuple[Shard, str]], count: int, source: Place) -> None:
    """Refuse with ValueError shards that can't be aligned, of `count`, when the others are done."""
    if not bad:
        return
    said = [f"{source.shown if count == 1 else shard.name} {problem}." for shard, problem in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        said.append(f"And {len(bad) - _SHOWN:,} more.")
    if len(bad) < count:
        said.append(f"The other {count - len(bad):,} of {count:,} files are done: repair these and {_again()}.")
    raise ValueError(" ".join(said))


@contextmanager
def _explained() -> Iterator[None]:
    """Say what to do where a target can't be written."""
    try:
        yield
    except UnwritableError as error:
        raise OSError(f"{error}. Make room, or make it writable, and {_again()}.") from error


def _again() -> str:
    return "type the same call again"


def _is_done(record: dict[str, Any] | None, shard: Shard) -> bool:
    """Whether a shard was written of the file that is there now, and still is."""
    if record is None:
        return False
    fs, path = shard.target.fs, shard.target.root
    return fs.isfile(path) and fs.size(path) == record["bytes"] and record["version"] == version_of(shard.source)


def _check_apart(source: Place, target: Place, shards: Sequence[Shard]) -> None:
    """Refuse with ValueError a target that is the source, or one of its files."""
    real = os.path.realpath if source.is_local and target.is_local else str
    inputs = {real(shard.source.root) for shard in shards} | {real(source.root)}
    if any(real(path) in inputs for path in (target.root, *(shard.target.root for shard in shards))):
        raise ValueError(f"{target.shown} is the input itself. Pass another path to write to.")


def _refuse_aligned(source: Place, shards: Sequence[Shard]) -> None:
    """Refuse with ValueError what a manifest says is aligned already."""
    for path, name in holders(source, shards):
        found = read_record(source.fs, path)
        if found is None:
            continue
        names = [shard["name"] for shard in found.get("shards", [])]
        if not name or any(one == name or one.startswith(f"{name}/") for one in names):
            raise ValueError(
                f"{source.shown} is aligned already, by {described(found)}, as {path} says. Pass the embeddings of "
                f"the base."
            )
