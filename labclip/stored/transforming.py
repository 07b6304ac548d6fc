"""Stored text embeddings of a base into aligned ones, without encoding anything again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from labclip.alignment import Alignment
from labclip.files import check_file, remove_parts
from labclip.io.folder import matrix_sha256
from labclip.io.names import name_of
from labclip.packages import connected_ray, versions_of
from labclip.stored.aligning import Work, whole_at
from labclip.stored.places import Place, Shard, aligned_by, find_shards, place_of, read_record

FORMAT_VERSION = 1
_COMPARED = ("source", "matrix_sha256", "strength", "normalize", "column")
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
    Killed at any moment, the same call goes on with the files that are not done, and ends with the same bytes; files
    that are done and whole are not aligned again. A manifest beside the result says what it was made of and by; with
    it, a second transform of the result is refused.

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
        ValueError: If the source holds image embeddings by its name or folder, is aligned already, or is of another
            base as its feature folder says; if the target is the source, or is there and was not made by the same call;
            if files can't be read, are of another dim, have rows that are not finite, or would have: these are named,
            and the others done.
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
    if chosen.matrix.is_meta:
        raise ValueError("The alignment is on the device 'meta', where it has no values. Load its matrix first.")
    read, written = place_of(source), place_of(target)
    shards, is_folder = find_shards(read, written, chosen.base)
    _check_apart(read, written, shards)
    for path, found in aligned_by(read, shards):
        by = _described(found)
        raise ValueError(f"{read.shown} is aligned already, by {by}, as {path} says. Pass the embeddings of the base.")
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
    record = _Record(written, is_folder, facts, shards)
    left = record.begin(force=force)
    work = Work(chosen.matrix.detach().cpu(), chosen.base, normalize, column)
    bad: list[tuple[Shard, str]] = []
    try:
        with tqdm(desc="aligning", unit="B", unit_scale=True, disable=not progress) as bar:
            for number, (shard, outcome) in enumerate(ENGINES[engine](work, left, bar.update), start=1):
                if isinstance(outcome, str):
                    bad.append((shard, outcome))
                else:
                    record.keep(shard, outcome)
                bar.set_postfix_str(f"{number:,} of {len(left):,} files")
    finally:
        record.end()
    _refuse_bad(bad, len(shards), read)
    return record.manifest


def _check_apart(source: Place, target: Place, shards: Sequence[Shard]) -> None:
    """Refuse with ValueError a target that is the source, or one of its files."""
    real = os.path.realpath if source.is_local and target.is_local else str
    inputs = {real(shard.source.root) for shard in shards} | {real(source.root)}
    if any(real(path) in inputs for path in (target.root, *(shard.target.root for shard in shards))):
        raise ValueError(f"{target.shown} is the input itself. Pass another path to write to.")


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


def _again() -> str:
    return "type the same call again"


def _described(manifest: Mapping[str, Any]) -> str:
    """In words what a manifest says embeddings were aligned by."""
    by = manifest.get("alignment") or f"a matrix with SHA-256 {str(manifest.get('matrix_sha256'))[:12]}..."
    return f"{by} at strength {manifest.get('strength')}"


class _Record:
    """The manifest of a target: what is made of what, and which files are done, written after each of them.

    There is no lock: a run that finds the manifest of another there ends. When all files are done, it has `versions`,
    and no longer the `source_version` of each file, by which one that was written again is noticed.
    """

    def __init__(self, target: Place, is_folder: bool, facts: dict[str, Any], shards: Sequence[Shard]) -> None:
        self._target, self._is_folder, self._shards, self._facts = target, is_folder, shards, facts
        self._path = target.record(is_folder=is_folder)
        self._done: dict[str, dict[str, Any]] = {}

    @property
    def manifest(self) -> dict[str, Any]:
        """What it says."""
        done = [self._done[shard.name] for shard in self._shards if shard.name in self._done]
        if len(done) < len(self._shards):
            return {**self._facts, "shards": done}
        done = [{key: value for key, value in one.items() if key != "source_version"} for one in done]
        return {**self._facts, "shards": done, "versions": versions_of("torch", "numpy")}

    def begin(self, *, force: bool) -> list[Shard]:
        """Check what is there, and remove what is not to stay; the files that are left to be done.

        Raises:
            ValueError: If the target is there and was not made by the same call, unless with `force`.
        """
        target, fs = self._target, self._target.fs
        found = recorded = read_record(fs, self._path) or {}
        paths = {one["name"]: self._path_of(one["name"]) for one in found.get("shards", ())}
        if paths and not any(map(fs.isfile, paths.values())):  # somebody removed what it tells of
            found = {}
        there = fs.ls(target.root, detail=False) if self._is_folder and not recorded and fs.isdir(target.root) else ()
        if any(not PurePosixPath(path).name.startswith(".") for path in there):
            raise ValueError(f"{target.shown} is not empty, and this command did not write it. Pass another folder.")
        self._check(found, force=force)
        done = {one["name"]: one for one in found.get("shards", ()) if not force}
        self._done = {one.name: done[one.name] for one in self._shards if _is_done(one, done.get(one.name))}
        for name in paths.keys() - self._done.keys() if self._is_folder else ():
            if fs.isfile(paths[name]):
                fs.rm_file(paths[name])
        left = [one for one in self._shards if one.name not in self._done]
        if target.is_local:
            files = [Path(self._path), *(Path(one.target.root) for one in left)]
            for folder in {file.parent for file in files}:
                remove_parts(folder, {file.name for file in files})
        self._write()
        return left

    def _check(self, found: Mapping[str, Any], *, force: bool) -> None:
        """Refuse with ValueError a target that is there and is not of this call."""
        target, fs = self._target, self._target.fs
        other = "Pass another path, or force=True to start from scratch."
        if self._is_folder and fs.isfile(target.root):
            raise ValueError(f"{target.shown} is a file, but the input is a folder. Pass the path of a folder.")
        if not self._is_folder and target.is_local:
            check_file(Path(target.root))
        if force:
            return
        if differs := self._differs(found):
            raise ValueError(f"{target.shown} is aligned by {_described(found)}: {differs}. {other}")
        if "versions" in found and all(fs.isfile(self._path_of(one["name"])) for one in found["shards"]):
            raise ValueError(f"{target.shown} is finished, aligned by {_described(found)}. {other}")
        if not found and not self._is_folder and fs.exists(target.root):
            raise ValueError(f"{target.shown} exists already. {other}")

    def _differs(self, found: Mapping[str, Any]) -> str | None:
        """In words the first thing in which a manifest is of another call."""
        key = next((key for key in _COMPARED if found and found.get(key) != self._facts[key]), None)
        return key and f"its {key} is {found.get(key)!r}, not {self._facts[key]!r}"

    def _path_of(self, name: str) -> str:
        return f"{self._target.root}/{name}" if self._is_folder else self._target.root

    def keep(self, shard: Shard, done: dict[str, Any]) -> None:
        """Count a file as done."""
        if self._differs(read_record(self._target.fs, self._path) or {}):
            raise ValueError(f"{self._target.shown} is being written by another run. Wait for that one to end.")
        self._done[shard.name] = done
        self._write()

    def _write(self) -> None:
        data = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        with whole_at(Place(self._target.fs, self._path, self._target.shown)) as part:
            part.write_text(data, encoding="utf-8", newline="\n")

    def end(self) -> None:
        """Leave nothing where nothing is done."""
        with suppress(OSError):
            if not self._done:
                self._target.fs.rm_file(self._path)
                if self._is_folder and self._target.is_local:
                    self._target.fs.rmdir(self._target.root)  # where it is empty


def _is_done(shard: Shard, record: Mapping[str, Any] | None) -> bool:
    """Whether a shard was written of the file that is there now, and still is."""
    if record is None or record.get("source_version") != shard.source.version:
        return False
    return shard.target.fs.isfile(shard.target.root) and shard.target.fs.size(shard.target.root) == record["bytes"]


Outcome = tuple[Shard, dict[str, Any] | str]
"""A shard with its record, or with what is wrong with it."""

Engine = Callable[[Work, Sequence[Shard], Callable[[int], Any]], Iterable[Outcome]]
"""What aligns shards; the last argument is told of bytes that are done. OSError if a target can't be written."""


def in_turn(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards one after the other in this process, whose threads each product uses."""
    for shard in shards:
        try:
            yield shard, work(shard, seen)
        except ValueError as error:
            yield shard, str(error)


def over_ray(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Iterator[Outcome]:
    """Align shards with Ray Data, a task for each, on the cluster of RAY_ADDRESS or else on this machine."""
    connected_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    def align(row: dict[str, Any]) -> dict[str, Any]:  # Ray would rename errors
        found: dict[str, Any] = {"record": None, "problem": None, "unwritable": None}
        try:
            found["record"] = json.dumps(work(shards[row["item"]], lambda _: None))
        except OSError as error:
            found["unwritable"] = str(error)
        except ValueError as error:
            found["problem"] = str(error)
        return {"item": row["item"], **found}

    rows = [{"item": number} for number in range(len(shards))]
    for row in data.from_items(rows, override_num_blocks=len(rows)).map(align).iter_rows() if rows else ():
        if row["unwritable"]:
            raise OSError(row["unwritable"])
        found = json.loads(row["record"] or "{}")
        seen(found.get("bytes", 0))
        yield shards[row["item"]], row["problem"] or found


ENGINES: dict[str, Engine] = {"local": in_turn, "ray": over_ray}
"""Engines by their names; the first is the default."""
