"""Stored text embeddings of a base into aligned ones, without encoding anything again."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from labclip.alignment import Alignment, align
from labclip.base import Base, describe_mark
from labclip.files import MANIFEST, atomic_file, path_of, read_json_object, remove_partial_files
from labclip.io.folder import matrix_sha256
from labclip.io.names import name_of
from labclip.packages import connected_ray, versions_of
from labclip.stored.formats import FORMATS, LEFT_ALONE, OF_IMAGES, Rows, copied

FORMAT_VERSION = 1
_COMPARED = ("source", "matrix_sha256", "strength", "normalize", "column")
_OTHER = "Pass another path, or force=True to start from scratch."
_TEXTS, _IMAGES, _METADATA = "text_emb", "img_emb", "metadata"  # the folders of clip-retrieval

AnyPath = Any
"""A `Path`, or a `UPath` of a URL."""


class Shard(NamedTuple):
    """A file: its name in the folder, where it is, where it goes, and whether it only is copied."""

    name: str
    source: AnyPath
    target: AnyPath
    copied: bool = False

    @property
    def version(self) -> str:
        """What changes when the source is written again."""
        if isinstance(self.source, Path):
            stat = self.source.stat()
            return f"{stat.st_size} {stat.st_mtime_ns}"
        return str(self.source.fs.checksum(self.source.path))


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
    Killed at any moment, the same call goes on with the files that are not done, and ends with the same bytes. The
    manifest stands beside the result; with it, a second transform of the result is refused.

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
        each of the `shards` `name`, `rows` and `bytes`. Rows keep their dtype; the product is float32.

    Raises:
        FileNotFoundError: If the source or the alignment does not exist.
        ValueError: If the source holds image embeddings by its name or folder, is aligned already, or is of another
            base as its feature folder says; if the target is there and was not made by the same call; if files are not
            whole, are of another dim, or have rows that are not finite: the first is named, and all others are done.
        OSError: If a file can't be read or written.
        MissingPackageError: If Parquet is to be read without pyarrow, or a URL without universal-pathlib.

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
    read, written = path_of(source), path_of(target)
    shards, is_folder = _find_shards(read, written), read.is_dir()
    _check_texts(read, shards, chosen.base)
    if os.path.realpath(str(written)) == os.path.realpath(str(read)):
        raise ValueError(f"{target} is the input itself. Pass another path to write to.")
    manifest = {
        "library_name": "labclip", "format_version": FORMAT_VERSION, "source": read.name,
        "alignment": name_of(alignment), "matrix_sha256": matrix_sha256(chosen.fitted), "strength": chosen.strength,
        "base": None if chosen.base is None else vars(chosen.base),
        "normalize": normalize, "column": column, "dim": chosen.dim,
    }  # fmt: skip
    manifest_file = _manifest_of(written, is_folder=is_folder)
    done = _done_before(written, manifest_file, manifest, shards, is_folder, force)

    def record() -> None:
        manifest["shards"] = [done[shard.name] for shard in shards if shard.name in done]
        if len(done) == len(shards):
            manifest["versions"] = versions_of("torch", "numpy")
        with _whole(manifest_file) as part:
            part.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")

    problems: list[str] = []
    if is_folder and isinstance(written, Path):
        written.mkdir(parents=True, exist_ok=True)
    record()  # before any file, so that after a kill it is known who wrote them
    try:
        left = [shard for shard in shards if shard.name not in done]
        work = partial(_aligned_file, matrix=chosen.matrix.detach().cpu(), normalize=normalize, column=column)
        with tqdm(desc="aligning", unit="B", unit_scale=True, disable=not progress) as bar:
            for shard, outcome in ENGINES[engine](work, left, bar.update):
                if isinstance(outcome, OSError):
                    raise outcome
                if isinstance(outcome, ValueError):
                    problems.append(f"{shard.name if is_folder else read} {outcome}.")
                else:
                    done[shard.name] = outcome
                    record()
    finally:
        if not done:
            manifest_file.unlink(missing_ok=True)
            if is_folder and isinstance(written, Path):
                with suppress(OSError):  # it holds something else
                    written.rmdir()
    if problems:
        others = f" {len(done):,} of {len(shards):,} files are done: repair the others and type the same call again."
        raise ValueError(problems[0] + (others if len(shards) > 1 else ""))
    return manifest


def _find_shards(source: AnyPath, target: AnyPath) -> list[Shard]:
    """The files of a source."""
    if source.is_file():
        if source.suffix.lower() not in FORMATS:
            raise ValueError(f"{source} is no file of {', '.join(FORMATS)}, from which stored embeddings are read.")
        if target.suffix.lower() != source.suffix.lower():
            raise ValueError(f"{target} does not end in {source.suffix}. The format is kept: end its name so.")
        return [Shard(source.name, source, target)]
    if not source.is_dir():
        raise FileNotFoundError(f"There is no {source}. Pass a file or folder of stored text embeddings.")
    if any((source / name).is_dir() for name in (_TEXTS, _IMAGES)):
        names = [f"{_TEXTS}/{path.name}" for path in _files_in(source / _TEXTS)]
        others = [f"{_METADATA}/{path.name}" for path in _files_in(source / _METADATA)]
    else:
        names, others = [path.name for path in _files_in(source)], []
    shards = [Shard(name, source / name, target / name) for name in names]
    shards = [shard for shard in shards if shard.source.suffix.lower() in FORMATS and shard.source.name[0] not in "_."]
    if not shards:
        raise ValueError(
            f"{source} holds no stored embeddings: no file that ends in {', '.join(FORMATS)}, and no {_TEXTS} of "
            f"clip-retrieval."
        )
    return shards + [Shard(name, source / name, target / name, copied=True) for name in others]


def _check_texts(source: AnyPath, shards: Sequence[Shard], base: Base | None) -> None:
    """Refuse with ValueError embeddings of images, of another base than the alignment's, and aligned ones."""
    path = source.parent / MANIFEST
    features = read_json_object(path) if path.is_file() else {}
    recorded = features.get("base") if "images_sha256" in features else None  # else it is no feature folder's
    if recorded and base is not None and not Base(**recorded).matches(base):
        raise ValueError(
            f"{source} holds embeddings of {Base(**recorded)}, as its {MANIFEST} says, but the alignment was fitted on "
            f"{base}. Pass the one of their base."
        )
    files = [shard.source for shard in shards if not shard.copied]
    inside = OF_IMAGES.match(source.parent.name)
    folders = [source.parent] if inside and inside[3] else []  # not a folder "images", which may hold anything
    for path in (source, *files, *folders):
        if OF_IMAGES.match(path.name):
            raise ValueError(f"{path} holds image embeddings by its name. {LEFT_ALONE}. Pass the text embeddings.")
    manifests = [_manifest_of(folder, is_folder=True) for folder in (source, source.parent, source.parent.parent)]
    for path in (*manifests, *(_manifest_of(file, is_folder=False) for file in files)):
        if path.is_file():
            by = describe_mark(read_json_object(path))
            raise ValueError(f"{source} is aligned already, by {by}, as {path} says. Pass the embeddings of the base.")


def _files_in(folder: AnyPath) -> list[AnyPath]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _manifest_of(path: AnyPath, *, is_folder: bool) -> AnyPath:
    """The manifest of a result: in a folder, beside a file. Readers of folders skip names that begin with "_"."""
    return path / "_labclip.json" if is_folder else path.with_name(f"_{path.name}.labclip.json")


def _done_before(
    target: AnyPath, path: AnyPath, manifest: Mapping[str, Any], shards: Sequence[Shard], is_folder: bool, force: bool
) -> dict[str, Any]:
    """The records of the files that an earlier call with the same manifest has done; its other files are removed.

    ValueError if the target is there and was not made by the same call, unless with `force`.
    """
    earlier = read_json_object(path) if path.is_file() else {}
    there = any(file.name[0] not in "._" for file in target.iterdir()) if target.is_dir() else target.exists()
    if there and not earlier and (is_folder or not force):
        raise ValueError(
            f"{target} is there, and transform did not write it. {'Pass another path.' if is_folder else _OTHER}"
        )
    differs = next((key for key in _COMPARED if earlier.get(key) != manifest[key]), None)
    if there and differs and not force:
        raise ValueError(
            f"{target} is aligned by {describe_mark(earlier)}: its {differs} is {earlier.get(differs)!r}, not "
            f"{manifest[differs]!r}. {_OTHER}"
        )
    records = {record["name"]: record for record in earlier.get("shards", ())}
    same = {shard.name: shard for shard in shards if shard.name in records and not (differs or force)}
    done = {name: records[name] for name, shard in same.items() if _is_done(shard, records[name])}
    for name in records.keys() - done.keys() if is_folder else ():
        (target / name).unlink(missing_ok=True)
    if isinstance(target, Path):
        for file in (path, *(shard.target for shard in shards)):
            remove_partial_files(file.parent, {file.name})
    return done


def _is_done(shard: Shard, record: Mapping[str, Any]) -> bool:
    """Whether a shard was written of the file that is there now, and still is."""
    if record["source_version"] != shard.version or not shard.target.is_file():
        return False
    return bool(shard.target.stat().st_size == record["bytes"])


@contextmanager
def _whole(target: AnyPath) -> Iterator[Path]:
    """A path to write to: the target has the file when the block ends, whole or not at all."""
    if isinstance(target, Path):
        if target.parent.name in (_TEXTS, _METADATA):
            target.parent.mkdir(exist_ok=True)
        with atomic_file(target) as part:
            yield part
    else:
        with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
            yield Path(folder, "part")
            target.fs.put_file(f"{folder}/part", target.path)


def _aligned_file(
    shard: Shard, seen: Callable[[int], Any], *, matrix: torch.Tensor, normalize: bool, column: str | None
) -> dict[str, Any] | Exception:
    """Align a file: its record, or a ValueError that goes on after its name, or an OSError. `seen` counts bytes."""
    count = 0

    def change(rows: Rows) -> Rows:
        nonlocal count
        if rows.shape[1] != len(matrix):
            raise ValueError(
                f"holds embeddings of {rows.shape[1]} numbers, but the alignment has dim {len(matrix)}. Pass the one "
                f"of their base"
            )
        native = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        aligned = align(native, matrix, normalize=normalize)
        if not torch.stack(aligned.aminmax()).isfinite().all():
            row = count + int((~aligned.isfinite().all(dim=1)).nonzero()[0])
            raise ValueError(
                f"has in row {row:,}, from 0, numbers that are not finite, or that aligned are too large for "
                f"{rows.dtype}. Leave it out; what is too large fits with normalize=True, or as float32"
            )
        count += len(rows)
        seen(rows.nbytes)
        return aligned.numpy().astype(rows.dtype, copy=False)

    contents = copied if shard.copied else FORMATS[shard.source.suffix.lower()]
    try:
        version = shard.version
        with (
            torch.inference_mode(),
            shard.source.open("rb") as read,
            _whole(shard.target) as part,
            part.open("wb") as file,
        ):
            file.writelines(contents(read, change, column))
            size = file.tell()
    except (ValueError, OSError) as error:
        return error
    rows = None if shard.copied else count
    return {"name": shard.name, "rows": rows, "bytes": size, "source_version": version}


Work = Callable[[Shard, Callable[[int], Any]], dict[str, Any] | Exception]
Outcomes = Iterable[tuple[Shard, dict[str, Any] | Exception]]


def _in_turn(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Outcomes:
    """Align files one after the other in this process, whose threads each product uses."""
    return ((shard, work(shard, seen)) for shard in shards)


def _over_ray(work: Work, shards: Sequence[Shard], seen: Callable[[int], Any]) -> Outcomes:
    """Align files with Ray Data, a task for each, on the cluster of RAY_ADDRESS or else on this machine."""
    connected_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    def align_one(row: dict[str, Any]) -> dict[str, Any]:  # Ray would rename an error that is raised
        return {"item": row["item"], "outcome": pickle.dumps(work(shards[row["item"]], lambda _: None))}

    rows = [{"item": number} for number in range(len(shards))]
    for row in data.from_items(rows, override_num_blocks=len(rows)).map(align_one).iter_rows() if rows else ():
        yield shards[row["item"]], pickle.loads(row["outcome"])


ENGINES = {"local": _in_turn, "ray": _over_ray}
"""Engines by their names; the first is the default."""
