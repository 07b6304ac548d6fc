"""`transform`: align a base's stored text embeddings without encoding the texts again."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from labclip.alignment import Alignment, align
from labclip.base import Base, describe_mark
from labclip.checks import check_choice
from labclip.files import MANIFEST, atomic_file, path_of, read_json_object, remove_partial_files
from labclip.io.folder import matrix_sha256
from labclip.io.names import name_of
from labclip.packages import connected_ray, versions_of
from labclip.stored.formats import FORMATS, LEFT_ALONE, OF_IMAGES, Rows, copy_bytes

FORMAT_VERSION = 1
_COMPARED = ("source", "matrix_sha256", "strength", "normalize", "column")
_REMEDY = "Pass another path, or force=True to start from scratch."
_TEXTS, _IMAGES, _METADATA = "text_emb", "img_emb", "metadata"  # the folders of clip-retrieval

AnyPath = Any
"""A `Path`, or a `UPath` of a URL."""


class Shard(NamedTuple):
    """One file: its name in the source folder, its path, the path of its result, and whether it is only copied."""

    name: str
    source: AnyPath
    target: AnyPath
    copied: bool = False

    @property
    def version(self) -> str:
        """Size and modification time of the source, or the checksum of a URL: it changes if the source is rewritten."""
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
    """Align a base's stored text embeddings: multiply every row by the matrix, and change nothing else.

    Files are read and written in blocks, so memory does not grow with their size. A file gets its name when it is
    complete. If the process is killed, the same call continues with the files that are not done, and ends with the same
    bytes. A manifest is written next to the result; with it, aligning the result a second time is refused.

    Args:
        source: Text embeddings of the alignment's base, any scale, float16, float32 or float64: a `.npy` file
            [rows, dim], a `.safetensors` file with one such tensor, a `.parquet` file with a column of lists of floats,
            a folder of such files, or a folder of clip-retrieval, whose `metadata` is copied, but not its images'
            embeddings.
        target: A file with the same ending, or a folder.
        alignment: An alignment, or the name, folder or repository of one.
        strength: 0 is the base exactly, 1 the matrix as fitted; None keeps the alignment's own strength.
        normalize: Whether to write unit-length rows.
        column: The column or tensor of the embeddings, needed if there are several.
        engine: "local", or "ray" to distribute the files over the Ray cluster at RAY_ADDRESS, or over this machine's
            cores if that is not set. All machines need source and target under the same paths.
        force: Whether to start from scratch if the target exists.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The manifest: `source`, `alignment`, `matrix_sha256`, `strength`, `base`, `normalize`, `column`, `dim`, and for
        each of the `shards` its `name`, `rows` and `bytes`. Rows keep their dtype; the product is computed in float32.

    Raises:
        FileNotFoundError: If the source or the alignment does not exist.
        ValueError: If the name or folder of the source says that it holds image embeddings; if the source is already
            aligned, or its feature folder records another base; if the target exists and was not written by the same
            call; if a file is damaged, has another dim, or has rows that are not finite. The message names the first
            such file, and all others are aligned.
        OSError: If a file can't be read or written.
        MissingPackageError: If a Parquet file needs pyarrow, or a URL needs universal-pathlib.

    Example:
        >>> import labclip, numpy as np
        >>> np.save("texts.npy", np.random.default_rng(0).normal(size=(1000, 256)).astype(np.float16))
        >>> manifest = labclip.transform("texts.npy", "aligned.npy", "scenes", progress=False)
        >>> manifest["shards"][0]["rows"], np.load("aligned.npy").dtype
        (1000, dtype('float16'))
    """
    check_choice("engine", engine, ("local", "ray"))
    loaded = alignment if isinstance(alignment, Alignment) else Alignment.from_pretrained(alignment)
    loaded = loaded if strength is None else loaded.at(strength)
    source_path, target_path = path_of(source), path_of(target)
    shards, is_folder = _find_shards(source_path, target_path), source_path.is_dir()
    _check_source(source_path, shards, loaded.base)
    if os.path.realpath(str(target_path)) == os.path.realpath(str(source_path)):
        raise ValueError(f"{target} is the input itself. Pass another path to write to.")
    manifest = {
        "library_name": "labclip", "format_version": FORMAT_VERSION, "source": source_path.name,
        "alignment": name_of(alignment), "matrix_sha256": matrix_sha256(loaded.fitted), "strength": loaded.strength,
        "base": None if loaded.base is None else vars(loaded.base),
        "normalize": normalize, "column": column, "dim": loaded.dim,
    }  # fmt: skip
    manifest_path = _manifest_path(target_path, is_folder=is_folder)
    records = _earlier_records(target_path, manifest_path, manifest, shards, is_folder, force)

    def write_manifest() -> None:
        manifest["shards"] = [records[shard.name] for shard in shards if shard.name in records]
        if len(records) == len(shards):
            manifest["versions"] = versions_of("torch", "numpy")
        with _write_whole(manifest_path) as partial_path:
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            partial_path.write_text(text, encoding="utf-8", newline="\n")

    problems: list[str] = []
    if is_folder and isinstance(target_path, Path):
        target_path.mkdir(parents=True, exist_ok=True)
    write_manifest()  # before any file, so that after a kill it shows which call wrote the files
    try:
        remaining = [shard for shard in shards if shard.name not in records]
        work = partial(_align_file, matrix=loaded.matrix.detach().cpu(), normalize=normalize, column=column)
        with tqdm(desc="aligning", unit="B", unit_scale=True, disable=not progress) as bar:
            here = ((shard, work(shard, bar.update)) for shard in remaining)  # each product uses all threads
            for shard, outcome in _run_ray(work, remaining) if engine == "ray" else here:
                if isinstance(outcome, OSError):
                    raise outcome
                if isinstance(outcome, ValueError):
                    problems.append(f"{shard.name if is_folder else source_path} {outcome}.")
                else:
                    records[shard.name] = outcome
                    write_manifest()
    finally:
        if not records:
            manifest_path.unlink(missing_ok=True)
            if is_folder and isinstance(target_path, Path):
                with suppress(OSError):  # it holds other files
                    target_path.rmdir()
    if problems:
        done = f" {len(records):,} of {len(shards):,} files are done: repair the others and type the same call again."
        raise ValueError(problems[0] + (done if len(shards) > 1 else ""))
    return manifest


def _find_shards(source: AnyPath, target: AnyPath) -> list[Shard]:
    """Find the files of a source."""
    if source.is_file():
        if source.suffix.lower() not in FORMATS:
            raise ValueError(f"{source} does not end in {', '.join(FORMATS)}. Pass one of these, or a folder of them.")
        if target.suffix.lower() != source.suffix.lower():
            raise ValueError(f"{target} does not end in {source.suffix}, as the source does. Pass a name that does.")
        return [Shard(source.name, source, target)]
    if not source.is_dir():
        raise FileNotFoundError(f"There is no {source}. Pass a file or folder of stored text embeddings.")
    is_clip_retrieval = any((source / name).is_dir() for name in (_TEXTS, _IMAGES))
    paths = _files_in(source / _TEXTS if is_clip_retrieval else source)
    paths = [path for path in paths if path.suffix.lower() in FORMATS and path.name[0] not in "_."]
    if not paths:
        raise ValueError(
            f"{source} holds no stored embeddings: no file that ends in {', '.join(FORMATS)}, and no {_TEXTS} of "
            f"clip-retrieval."
        )
    names = [f"{_TEXTS}/{path.name}" if is_clip_retrieval else path.name for path in paths]
    metadata = [f"{_METADATA}/{path.name}" for path in _files_in(source / _METADATA)] if is_clip_retrieval else []
    shards = [Shard(name, source / name, target / name) for name in names]
    return shards + [Shard(name, source / name, target / name, copied=True) for name in metadata]


def _check_source(source: AnyPath, shards: Sequence[Shard], base: Base | None) -> None:
    """Raise ValueError for embeddings of images or of another base, and for those that are aligned already."""
    path = source.parent / MANIFEST
    features = read_json_object(path) if path.is_file() else {}
    recorded = features.get("base") if "images_sha256" in features else None  # only feature folders have this key
    if recorded and base is not None and not Base(**recorded).matches(base):
        raise ValueError(
            f"{source} holds embeddings of {Base(**recorded)}, as its {MANIFEST} says, but the alignment was fitted on "
            f"{base}. Pass an alignment for their base."
        )
    files = [shard.source for shard in shards if not shard.copied]
    parent_match = OF_IMAGES.match(source.parent.name)
    # A parent folder "img_emb" counts, but not one called "images", which may hold anything.
    folders = [source.parent] if parent_match and parent_match[3] else []
    for path in (source, *files, *folders):
        if OF_IMAGES.match(path.name):
            raise ValueError(f"{path} holds image embeddings, by its name. {LEFT_ALONE}. Pass the text embeddings.")
    manifests = [_manifest_path(folder, is_folder=True) for folder in (source, source.parent, source.parent.parent)]
    for path in (*manifests, *(_manifest_path(file, is_folder=False) for file in files)):
        if path.is_file():
            mark = describe_mark(read_json_object(path))
            raise ValueError(f"{source} is aligned already, by {mark}, as {path} says. Pass the base's embeddings.")


def _files_in(folder: AnyPath) -> list[AnyPath]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _manifest_path(path: AnyPath, *, is_folder: bool) -> AnyPath:
    """The manifest of a result: in a folder, or next to a file. Other readers skip names that begin with "_"."""
    return path / "_labclip.json" if is_folder else path.with_name(f"_{path.name}.labclip.json")


def _earlier_records(
    target: AnyPath, path: AnyPath, manifest: Mapping[str, Any], shards: Sequence[Shard], is_folder: bool, force: bool
) -> dict[str, Any]:
    """The records of the files that an earlier call with the same manifest finished. Its other files are removed.

    Raises ValueError if the target exists and another call wrote it, unless `force` is set.
    """
    earlier = read_json_object(path) if path.is_file() else {}
    exists = any(file.name[0] not in "._" for file in target.iterdir()) if target.is_dir() else target.exists()
    if exists and not earlier and (is_folder or not force):
        raise ValueError(
            f"{target} exists, and transform did not write it. {'Pass another path.' if is_folder else _REMEDY}"
        )
    changed_key = next((key for key in _COMPARED if earlier.get(key) != manifest[key]), None)
    if exists and changed_key and not force:
        raise ValueError(
            f"{target} is aligned by {describe_mark(earlier)}: its {changed_key} is {earlier.get(changed_key)!r}, not "
            f"{manifest[changed_key]!r}. {_REMEDY}"
        )
    records = {record["name"]: record for record in earlier.get("shards", ())}
    finished = {}
    for shard in () if changed_key or force else shards:
        record = records.get(shard.name, {})
        has_same_source = bool(record) and record["source_version"] == shard.version
        if has_same_source and shard.target.is_file() and shard.target.stat().st_size == record["bytes"]:
            finished[shard.name] = record
    for name in records.keys() - finished.keys() if is_folder else ():
        (target / name).unlink(missing_ok=True)
    if isinstance(target, Path):
        for file in (path, *(shard.target for shard in shards)):
            remove_partial_files(file.parent, {file.name})
    return finished


@contextmanager
def _write_whole(target: AnyPath) -> Iterator[Path]:
    """Yield a temporary path; when the block ends without an error, its file becomes `target`, a path or URL."""
    if isinstance(target, Path):
        if target.parent.name in (_TEXTS, _METADATA):
            target.parent.mkdir(exist_ok=True)
        with atomic_file(target) as partial_path:
            yield partial_path
    else:
        with tempfile.TemporaryDirectory(prefix="labclip-") as folder:
            yield Path(folder, "part")
            target.fs.put_file(f"{folder}/part", target.path)


def _align_file(
    shard: Shard, count_bytes: Callable[[int], Any], *, matrix: torch.Tensor, normalize: bool, column: str | None
) -> dict[str, Any] | Exception:
    """Align a file. Returns its record, an OSError, or a ValueError whose message is to follow the file's name."""
    count = 0

    def change(rows: Rows) -> Rows:
        nonlocal count
        if rows.shape[1] != len(matrix):
            raise ValueError(
                f"holds embeddings of dim {rows.shape[1]}, but the alignment has dim {len(matrix)}. Pass an alignment "
                f"for their base"
            )
        native = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        aligned = align(native, matrix, normalize=normalize)
        if not torch.stack(aligned.aminmax()).isfinite().all():
            row = count + int((~aligned.isfinite().all(dim=1)).nonzero()[0])
            raise ValueError(
                f"has in row {row:,}, counted from 0, numbers that are not finite, or become too large for "
                f"{rows.dtype}. Leave the row out; if they are too large, pass normalize=True or store float32"
            )
        count += len(rows)
        count_bytes(rows.nbytes)
        return aligned.numpy().astype(rows.dtype, copy=False)

    contents = copy_bytes if shard.copied else FORMATS[shard.source.suffix.lower()]
    try:
        version = shard.version
        with (
            torch.inference_mode(),
            shard.source.open("rb") as source_file,
            _write_whole(shard.target) as partial_path,
            partial_path.open("wb") as file,
        ):
            file.writelines(contents(source_file, change, column))
            size = file.tell()
    except (ValueError, OSError) as error:
        return error
    rows = None if shard.copied else count
    return {"name": shard.name, "rows": rows, "bytes": size, "source_version": version}


def _run_ray(work: Callable[..., Any], shards: Sequence[Shard]) -> Iterator[tuple[Shard, Any]]:
    """Align files with Ray Data, one task for each, on the cluster at RAY_ADDRESS or on this machine."""
    connected_ray()
    from ray import data

    data.DataContext.get_current().enable_progress_bars = False

    def align_shard(row: dict[str, Any]) -> dict[str, Any]:  # returns errors, since Ray wraps those that are raised
        return {"item": row["item"], "outcome": pickle.dumps(work(shards[row["item"]], lambda _: None))}

    rows = [{"item": number} for number in range(len(shards))]
    for row in data.from_items(rows, override_num_blocks=len(rows)).map(align_shard).iter_rows() if rows else ():
        yield shards[row["item"]], pickle.loads(row["outcome"])
