"""Images and captions through a base into a feature folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labclip.data import BadRow, Columns, ImageSource, Item, find_inputs, read_items
from labclip.data.decoding import Pictures, decoders, decoding
from labclip.encode.fingerprint import describe_inputs, difference, identity_of
from labclip.features.encoding import encode_images, encode_texts, evaluating
from labclip.features.features import Features
from labclip.features.folder import FILES, FORMAT_VERSION, MANIFEST, array_shapes, load, read_manifest
from labclip.features.journal import PART, UNFINISHED, Work, clear
from labclip.model import LABCLIP
from labclip.packages import versions_of

_MEND = 'Mend it and run again, which goes on from here, or pass on_error="skip" (--on-error skip) to leave it out.'


def embed(
    model: LABCLIP,
    *,
    captions: str | Path | Sequence[str | Path],
    out: str | Path,
    images: str | Path | None = None,
    column: str | None = None,
    image_column: str | None = None,
    negative_columns: Sequence[str] | None = None,
    split: str | Sequence[str] | None = None,
    clean: bool | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    on_error: str = "raise",
    force: bool = False,
    progress: bool = True,
) -> Features:
    r"""Embed images and their captions into a folder that `labclip.fit` reads.

    Each image is encoded once however many captions it has. Text features are the base's own: no alignment is applied.
    Killed at any moment and run again, it goes on, and the folder has the same bytes as after an unbroken run. Memory
    is bounded by batches, not by the data. A negative that says what its caption or another caption of its image says
    (but for case, punctuation and "a" or "an") is no negative: it counts as missing.

    Args:
        model: The base, wrapped; its device and precision are used.
        captions: A csv, tsv, jsonl, json (a list of objects, COCO captions, Karpathy's) or Parquet file, a webdataset
            tar, a pattern such as "shards/*.tar", a folder of tars or of Parquet files, or several of these.
        out: The feature folder; made if it does not exist.
        images: The folder that paths of images are relative to; by default the one that the file of captions is in.
        column: The captions' column; by default `caption` or `title`, or an archive's `.txt`.
        image_column: The images' column; by default `image`, `filename`, `filepath` or `image_path`.
        negative_columns: Columns of hard negatives; by default `negative`, `negative_2`, ..., else `neg_caption` or
            `negative_caption`, where there are any.
        split: Take only the rows whose column `split` has this value, or one of these.
        clean: True cleans captions and negatives alike (`labclip.negatives.clean`, 40 words), False takes them as they
            are. None does too, but refuses a caption that is not clean beside a negative that is its cleaned words in
            another order, as `negatives.shuffle` makes them: a fit would tell the two by their full stop.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one a processor, at most 16.
        on_error: What a missing or broken image or an empty caption, also one that cleaning empties, does: "raise"
            stops with its name and keeps what is done, "skip" leaves it out, an image with its captions, and lists it
            in the manifest.
        force: Whether to start anew where the folder has other or unfinished features.
        progress: Whether to show progress bars on stderr.

    Returns:
        The features, memory-mapped: unit-length float32 rows.

    Raises:
        FileNotFoundError: If a file of captions or the folder of images does not exist.
        ValueError: If an item is bad and `on_error` is "raise", if nothing is left, if an embedding is not finite, if
            `clean` has to be said, or if the folder has features of something else; the message names the item.
        MissingPackageError: If Parquet is to be read without pyarrow.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import labclip
        >>> pictures = labclip.scenes.sample(3)
        >>> rows = ["image,caption,negative"]
        >>> for number in range(3):
        ...     Image.fromarray(pictures.images[number]).save(f"{number}.png")
        ...     rows.append(f"{number}.png,{pictures.captions[number]},{pictures.swapped_captions[number]}")
        >>> _ = Path("captions.csv").write_text("\n".join(rows))
        >>> model = labclip.LABCLIP.from_pretrained("scenes")
        >>> features = labclip.features.embed(model, captions="captions.csv", out="features", progress=False)
        >>> features.images.shape, features.negatives.shape, features.image_index.tolist()
        ((3, 256), (3, 1, 256), [0, 1, 2])
    """
    _check(model, clean, batch_size, workers, on_error)
    inputs = find_inputs(captions)
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"There is no folder of images {images}.")
    columns = Columns(column, image_column, _tuple(negative_columns), _tuple(split))
    made_from = {
        **identity_of(model),
        "inputs": describe_inputs(inputs),
        "columns": {
            "caption": column,
            "image": image_column,
            "negatives": None if columns.negatives is None else list(columns.negatives),
            "split": None if columns.split is None else list(columns.split),
        },
        "clean": clean,
    }
    roots = [path.parent if images is None else Path(images) for path in inputs]
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Pass the path of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if force:
        clear(folder, FILES)
    if (folder / MANIFEST).exists():
        return _finished(folder, made_from, on_error)
    _refuse_foreign(folder)
    with Work(folder, made_from) as work:
        if differs := difference(work.made_from, made_from):
            raise ValueError(f"{folder} has an unfinished run, but {differs}. {_ANEW}")
        try:
            _plan(work, inputs, roots, images, columns, clean, on_error, progress)
        except BaseException:
            work.discard_if_unplanned()
            raise
        threads = decoders(workers)
        with (
            evaluating(model),
            decoding(threads) as pool,
            Pictures(inputs, roots, columns.images, _preprocess(model), pool, threads) as pictures,
        ):
            encode_images(work, model, pictures, batch_size=batch_size, skip=on_error == "skip", progress=progress)
            encode_texts(work, model, progress=progress)
        _finish(work, made_from)
    clear(folder, ())
    return load(folder)


_ANEW = "Pass another folder, or force=True (--force) to start anew."


def _check(model: Any, clean: Any, batch_size: int, workers: int | None, on_error: str) -> None:
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


def _tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _preprocess(model: LABCLIP) -> Any:
    assert model.preprocess is not None  # identity_of has looked
    return model.preprocess


def _finished(folder: Path, made_from: dict[str, Any], on_error: str) -> Features:
    manifest = read_manifest(folder)
    if differs := difference(manifest, made_from):
        raise ValueError(f"{folder} has features already, but {differs}. {_ANEW}")
    _refuse_skipped(manifest["skipped"][:1], on_error)
    clear(folder, ())
    return load(folder)


def _refuse_foreign(folder: Path) -> None:
    if not (folder / UNFINISHED).exists():
        for name in FILES:
            if (folder / name).exists():
                raise ValueError(f"{folder / name} is there, but no {MANIFEST}: not a feature folder. {_ANEW}")


def _refuse_skipped(skipped: Sequence[dict[str, Any]], on_error: str) -> None:
    """What an earlier run skipped is an error for one that shall raise."""
    if skipped and on_error == "raise":
        first = skipped[0]
        raise ValueError(
            f'{first["where"]} {first["reason"]}; an earlier run with on_error="skip" left it out. {_MEND}'
        )


def _plan(
    work: Work,
    inputs: Sequence[Path],
    roots: Sequence[Path],
    images: str | Path | None,
    columns: Columns,
    clean: bool | None,
    on_error: str,
    progress: bool,
) -> None:
    """Read all rows into the plan, unless a run before this one did."""
    if not work.get("planned", False):
        with tqdm(desc="reading", unit=" rows", disable=not progress) as bar:

            def sound() -> Iterator[tuple[int, Item | BadRow]]:
                for found in read_items(inputs, columns=columns, images=images, clean=clean, seen=bar.update):
                    if isinstance(found, BadRow):
                        if on_error == "raise":
                            raise ValueError(
                                f"{found.place}{f' ({found.image})' if found.image else ''} {found.reason}. {_MEND}"
                            )
                        yield 0, found
                    elif found.image is not None:
                        yield _source(found.image, inputs, roots), found

            work.plan(sound())
    _refuse_skipped(list(work.skipped()), on_error)
    if not work.count("texts"):
        asked = f" with split {' or '.join(columns.split)}" if columns.split else ""
        raise ValueError(f"{', '.join(map(str, inputs))} has no caption{asked} that could be embedded.")


def _source(image: ImageSource, inputs: Sequence[Path], roots: Sequence[Path]) -> int:
    """Which of the inputs an image is in, or relative to."""
    files = enumerate(zip(inputs, roots, strict=True))
    return next(number for number, (path, root) in files if image.file in (path, root / image.name))


def _finish(work: Work, made_from: dict[str, Any]) -> None:
    """Name the arrays, then write the manifest, with which the folder counts as finished."""
    counts = {
        "images": work.get("image_rows", 0),
        "captions": work.get("text_rows", 0),
        "negatives_per_caption": work.get("negatives_per_caption", 0),
        "captions_with_negative": work.get("with_negative", 0),
        "true_negatives": work.get("true_negatives", 0),
        "texts_cut": work.get("cut", 0),
    }
    work.finish(array_shapes(counts, made_from["dim"]))
    write_manifest(
        work.folder,
        {
            "library_name": "labclip",
            "format_version": FORMAT_VERSION,
            **made_from,
            "images_sha256": work.get("digest", ""),
            "counts": counts,
            "skipped": list(work.skipped()),
            "versions": {
                "python": platform.python_version(),
                **versions_of("torch", "open_clip_torch", "numpy", "pillow"),
            },
        },
    )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest: whole, or not at all."""
    part = folder / (MANIFEST + PART)
    with part.open("w", encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / MANIFEST)
