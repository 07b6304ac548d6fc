"""Images and captions through a base into a feature folder."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labclip.data import Columns, Item, find_inputs, read_items
from labclip.encode.encoder import Encoder
from labclip.encode.fingerprint import describe_inputs, difference, identity_of
from labclip.features.features import Features
from labclip.features.folder import (
    CONTENT,
    IMAGES,
    PART,
    array_shapes,
    clear,
    read_manifest,
    write_manifest,
)
from labclip.features.journal import Journal
from labclip.features.over_ray import RayEncoder
from labclip.features.writing import on_bad, write_images, write_texts
from labclip.files import MANIFEST, UNFINISHED, check_folder, make_folder, path_of
from labclip.model import LABCLIP
from labclip.packages import versions_of

ENGINES: dict[str, type[Encoder]] = {"local": Encoder, "ray": RayEncoder}
"""Who encodes, by name; the first is the default."""

_logger = logging.getLogger(__name__)


def embed(
    model: LABCLIP,
    captions: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    images: str | Path | None = None,
    column: str | None = None,
    image_column: str | None = None,
    negative_columns: Sequence[str] | None = None,
    negative_images: str | Sequence[str] | None = None,
    split: str | Sequence[str] | None = None,
    clean: bool | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_error: str = "raise",
    engine: str = "local",
    force: bool = False,
    progress: bool = True,
) -> Features:
    r"""Embed images and their captions into a folder that `labclip.fit` reads.

    Each image is encoded once however many captions it has. Text features are the base's own: no alignment is applied.
    Killed at any moment and run again, it goes on, and the folder has the same bytes as after an unbroken run. Where
    the file of captions was corrected in between, the images before the first changed one stay done. Memory is bounded
    by batches, not by the data. A negative that says what its caption or another caption of its image says
    (but for case, punctuation and "a" or "an") is no negative: it counts as missing.

    Args:
        model: The base, wrapped; its device and precision are used.
        captions: A csv, tsv, jsonl, json (a list of objects, COCO captions, Karpathy's) or Parquet file, a WebDataset
            tar, a pattern such as `shards/*.tar`, a folder of tars or of Parquet files, or several of these.
        out: The feature folder; made if it does not exist.
        images: The folder that paths of images are relative to; by default the one that the file of captions is in. A
            URL such as `s3://bucket/photos` needs `pip install universal-pathlib s3fs`.
        column: The captions' column; by default `caption`, `title`, `captions`, `sentences` or `text`, or an archive's
            `.txt`.
        image_column: The images' column; by default `image`, `filename`, `filepath`, `image_path` or `file_name`.
        negative_columns: Columns of hard negatives; by default all that are there of `negative`, `negative_2`, ...,
            `negatives`, `neg_caption`, `negative_caption`.
        negative_images: The column of images that the negatives describe, a path each; of several, the first is for the
            first column of negatives, and so on. A cell may be empty. An image that no caption describes is in
            `Features.negative_images` only. By default none.
        split: Take only the rows whose column `split` has this value, or one of these.
        clean: True cleans captions and negatives alike (`labclip.negatives.clean`, 40 words), False takes them as they
            are. None does too, but refuses a caption that is not clean beside a negative that is its cleaned words in
            another order, as `negatives.shuffle` makes them: a fit would tell the two by their full stop.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one a processor, at most 16.
        on_error: What a missing or broken image or an empty caption, also one that cleaning empties, does: "raise"
            stops with its name and keeps what is done, "skip" leaves it out, an image with its captions, and lists it
            in the manifest.
        engine: "local", or "ray" to share the work out over the Ray cluster of RAY_ADDRESS, or this machine's cores
            where that is not set. All machines must see the images under these paths; this process alone writes.
        force: Whether to start from scratch where the folder has other or unfinished features, and to write beside
            files of another kind.
        progress: Whether to show progress bars on stderr.

    Returns:
        The features, memory-mapped: unit-length float32 rows.

    Raises:
        FileNotFoundError: If a file of captions or the folder of images does not exist.
        ValueError: If an item is bad and `on_error` is "raise", if nothing is left, if an embedding is not finite, if
            `clean` has to be said, or if the folder has features of something else, or other
            files; the message names the item.
        MissingPackageError: If Parquet is to be read without pyarrow, or `engine` is "ray" without Ray.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import labclip
        >>> scenes = labclip.scenes.sample(3)
        >>> rows = ["image,caption,negative"]
        >>> for number in range(3):
        ...     Image.fromarray(scenes.images[number]).save(f"{number}.png")
        ...     rows.append(f"{number}.png,{scenes.captions[number]},{scenes.swapped_captions[number]}")
        >>> _ = Path("captions.csv").write_text("\n".join(rows))
        >>> model = labclip.LABCLIP.from_pretrained("scenes")
        >>> features = labclip.features.embed(model, "captions.csv", "features", progress=False)
        >>> features.images.shape, features.negatives.shape, features.image_index.tolist()
        ((3, 256), (3, 1, 256), [0, 1, 2])
    """
    if not isinstance(model, LABCLIP):
        raise ValueError(
            f"model is a {type(model).__name__}. Pass LABCLIP.from_pretrained(NAME), or "
            f"LABCLIP(clip, Alignment.identity(dim)) for a base with no matrix yet."
        )
    if clean is not None and not isinstance(clean, bool):
        raise ValueError(f"clean is {clean!r}. Pass True, False or None.")
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError(f"batch_size is {batch_size} and workers {workers}; each is at least 1.")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}. Pass "raise" or "skip".')
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}. Pass {' or '.join(map(repr, ENGINES))}.")
    inputs = find_inputs(captions)
    if images is not None and not path_of(images).is_dir():
        raise FileNotFoundError(f"There is no folder of images {images}.")
    columns = Columns(column, image_column, _tuple(negative_columns), _tuple(split), _tuple(negative_images))
    named = {name: value for name, value in vars(columns).items() if name != "negative_images" or value}
    made_from = {**identity_of(model), "inputs": describe_inputs(inputs), "columns": named, "clean": clean}
    made_from = json.loads(json.dumps(made_from))  # as it is read again
    folder = Path(out)
    make_folder(folder)
    if force:
        clear(folder, (MANIFEST, *CONTENT))
    other = "Pass another folder, or force=True to start from scratch."
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if differs := difference(manifest, made_from):
            raise ValueError(f"{folder} has features already, but {differs}. {other}")
        _refuse_skipped(manifest["skipped"], on_error)
        clear(folder, ())
        return Features.load(folder)
    if (foreign := [name for name in CONTENT if (folder / name).exists()]) and not (folder / UNFINISHED).exists():
        raise ValueError(f"{folder / foreign[0]} is there, but no {MANIFEST}: not a feature folder. {other}")
    if not force and not (folder / UNFINISHED).exists():
        _refuse_foreign(folder)
    encoder = ENGINES[engine](model, batch_size=batch_size, workers=workers, progress=progress)
    roots = [path.parent if images is None else path_of(images) for path in inputs]
    # Where the files lie is no part of what is made, but the plan has their paths.
    facts = {**made_from, "where": [str(path.absolute()) for path in (*inputs, *roots)]}
    with Journal(folder) as journal:
        planned = journal.get("facts", facts)
        if differs := difference({**planned, "inputs": made_from["inputs"]}, made_from):
            raise ValueError(f"{folder} has an unfinished run, but {differs}. {other}")
        if not journal.planned or difference(planned, facts):
            with tqdm(desc="reading", unit=" rows", disable=not progress) as bar:
                rows = read_items(inputs, columns=columns, images=images, clean=clean, seen=bar.update)
                journal.plan(_checked(rows, on_error), facts, dim=made_from["dim"], batch_size=batch_size)
        journal.parts.open(journal.sealed)
        _refuse_skipped(list(journal.skipped()), on_error)
        if not journal.count("texts"):
            raise ValueError(f"{', '.join(map(str, inputs))} has no caption that could be embedded.")
        count = journal.count("images") + journal.count("texts") * (1 + journal.get("negatives_per_caption", 0))
        written = sum(path.stat().st_size for path in folder.iterdir() if path.suffix == PART)
        check_folder(folder, needs=4 * made_from["dim"] * count - written)
        _logger.info("%s: %d images and %d captions to embed", folder, journal.count("images"), journal.count("texts"))
        write_images(journal, encoder, skip=on_error == "skip")
        write_texts(journal, encoder)
        _finish(journal, made_from)
    clear(folder, ())
    return Features.load(folder)


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else, such as photos; hidden files are no content."""
    known = {MANIFEST, UNFINISHED, f"{UNFINISHED}-journal", *CONTENT}
    found = sorted(path.name for path in folder.iterdir() if path.name.removesuffix(PART) not in known)
    if strange := [name for name in found if not name.startswith(".")]:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ValueError(
            f"{folder} is no feature folder: it holds {strange[0]}{more}. Pass another folder, or "
            f"force=True to write beside what is there."
        )


def _tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _refuse_skipped(skipped: Sequence[dict[str, Any]], on_error: str) -> None:
    """What an earlier run skipped is an error for one that shall raise."""
    if skipped and on_error == "raise":
        first = skipped[0]
        where = f"{first['where']} {first['reason']}"
        raise ValueError(on_bad(f'{where}; an earlier run with on_error="skip" left it out'))


def _checked(rows: Iterator[Item], on_error: str) -> Iterator[Item]:
    for row in rows:
        if row.problem and on_error == "raise":
            raise ValueError(on_bad(f"{row.place}{f' ({row.name})' if row.name else ''} {row.problem}"))
        yield row


def _finish(journal: Journal, made_from: dict[str, Any]) -> None:
    """Name the arrays, then write the manifest, with which the folder counts as finished."""
    state = {
        "captions": "text_rows",
        "negatives_per_caption": "negatives_per_caption",
        "captions_with_negative": "with_negative",
        "true_negatives": "true_negatives",
    }
    counts = {"images": journal.get("rows", {})[IMAGES], **{name: journal.get(key, 0) for name, key in state.items()}}
    counts["texts_cut"] = journal.get("cut", {})["count"]
    files = journal.parts.finish(journal.sealed, array_shapes(counts, made_from["dim"]))
    packages = versions_of("torch", "open_clip_torch", "numpy", "pillow")
    manifest = {
        **made_from,
        "images_sha256": journal.get("digest", ""),
        "counts": counts,
        "skipped": list(journal.skipped()),
        "files": files,
        "versions": {"python": platform.python_version(), **packages},
    }
    write_manifest(journal.folder, manifest)
