"""Images and captions through a base into a feature folder."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from labclip.data import Item, find_inputs, read_items
from labclip.data.items import Kind
from labclip.encode.encoder import Embeddings, Encoder, batched
from labclip.encode.fingerprint import identity_of
from labclip.features.features import Features
from labclip.features.folder import COUNTED, HEADER, Files, read_manifest
from labclip.features.over_ray import RayEncoder
from labclip.features.plan import Plan, Text
from labclip.files import (
    MANIFEST,
    UNFINISHED,
    check_embeds_into,
    check_folder,
    make_folder,
    path_of,
    sha256_of,
)
from labclip.model import LABCLIP
from labclip.negatives.files import with_parts
from labclip.negatives.taggers import get_tagger
from labclip.packages import versions_of
from labclip.towers.text import TruncationCount

ENGINES: dict[str, type[Encoder]] = {"local": Encoder, "ray": RayEncoder}
"""Who encodes, by name; the first is the default."""

BLOCK = 1024
"""Captions, each with its negatives, that are encoded together; those with a common prefix share the work."""

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
    parts: bool = False,
    batch_size: int = 64,
    workers: int | None = None,
    on_error: str = "raise",
    engine: str = "local",
    force: bool = False,
    progress: bool = True,
) -> Features:
    r"""Embed images and their captions into a folder that `labclip.fit` reads.

    Each image is encoded once however many captions it has. Text features are the base's own: no alignment is applied.
    Killed at any moment and run again, it goes on, and the folder has the same bytes as after an unbroken run. Memory
    is bounded by batches, not by the data. A negative that says what its caption or another caption of its image says
    (but for case, punctuation and "a" or "an") is no negative: it counts as missing.

    Where the captions come with parts and keywords, as `labclip.negatives.add_parts` writes them, these are texts of
    the image too, each once: `Features.kind` tells them from captions. The keywords of a row are one text.

    Args:
        model: The base, wrapped; its device and precision are used.
        captions: A csv, tsv, jsonl, json (a list of objects, COCO captions, Karpathy's) or Parquet file, a WebDataset
            tar, a pattern such as `shards/*.tar`, a folder of tars or of Parquet files, or several of these.
        out: The feature folder; made if it does not exist.
        images: The folder or URL (`s3://bucket/photos`) that paths of images are relative to; by default the folder of
            the file of captions.
        column: The captions' column; by default the first of the usual names that is there.
        image_column: The images' column; by default likewise.
        negative_columns: Columns of hard negatives; by default all that are there of `negative`, `negative_2`, ...,
            `negatives`, `neg_caption`, `negative_caption`.
        negative_images: The column of images that the negatives describe, a path each or none; of several, the first is
            for the first column of negatives, and so on. An image that no caption describes is in
            `Features.negative_images` only.
        split: Take only the rows whose column `split` has this value, or one of these.
        clean: True cleans captions and negatives alike (`labclip.negatives.clean`, 40 words), False takes them as they
            are. None does too, but refuses a caption that is not clean beside a negative that is its cleaned words in
            another order, as `negatives.shuffle` makes them: a fit would tell the two by their full stop.
        parts: Whether to make parts and keywords of the captions of rows that have none (HanTa finds them). All
            captions are then held in memory at once.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one a processor, at most 16.
        on_error: What a missing or broken image or an empty caption does: "raise" stops with its name and keeps what is
            done, "skip" leaves it out, an image with its captions, and lists it in the manifest.
        engine: "local", or "ray" to share the work out over the Ray cluster of RAY_ADDRESS, or this machine's cores.
        force: Whether to start from scratch where the folder has other or unfinished features, and to write beside
            files of another kind.
        progress: Whether to show progress bars on stderr.

    Returns:
        The features, memory-mapped: unit-length float32 rows.

    Raises:
        FileNotFoundError: If a file of captions or the folder of images does not exist.
        ValueError: If an item is bad and `on_error` is "raise", if nothing is left, if an embedding is not finite, if
            `clean` has to be said, if the folder has features of something else, or other files, or if another process
            is writing there; the message names the item.
        MissingPackageError: If Parquet is to be read without pyarrow, or `engine` is "ray" without Ray,
            or `parts` is True without HanTa.

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
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is {on_error!r}. Pass "raise" or "skip".')
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}. Pass {' or '.join(map(repr, ENGINES))}.")
    inputs, skip, folder = find_inputs(captions), on_error == "skip", Path(out)
    if images is not None and not path_of(images).is_dir():
        raise FileNotFoundError(f"There is no folder of images {images}.")
    negatives, shown, splits = _tuple(negative_columns), _tuple(negative_images) or (), _tuple(split)
    columns: dict[str, Any] = {"caption": column, "image": image_column, "negatives": negatives, "split": splits}
    columns |= {"negative_images": shown} if shown else {}
    columns |= {"parts": True} if parts else {}
    made_from = {**identity_of(model), "inputs": _described(inputs), "columns": columns, "clean": clean}
    made_from = json.loads(json.dumps(made_from))  # as it is read again
    if not force:
        if not (folder / UNFINISHED).exists() and (finished := _finished(folder, made_from, skip=skip)):
            return finished
        check_embeds_into(folder)
    if parts:
        get_tagger(None)
    encoder = ENGINES[engine](model, batch_size=batch_size, workers=workers, progress=progress)
    make_folder(folder)
    with Plan(folder) as plan:
        if force:
            plan.progress.clear()
        elif finished := _finished(folder, made_from, skip=skip):  # by another process, since it was looked for
            return finished
        # Where the files lie is no part of what is made, but the plan has their paths.
        roots = [path.parent if images is None else path_of(images) for path in inputs]
        where = [str(path.absolute()) for path in (*inputs, *roots)]
        if plan.progress:
            _check_same(f"{folder} has an unfinished run", plan.progress["made_from"], made_from)
        if plan.progress.get("where") != where:
            items = read_items(
                inputs, images=images, column=column, image_column=image_column, negative_columns=negatives,
                negative_images=shown, split=splits, clean=clean,
            )  # fmt: skip
            items = with_parts(items) if parts else items
            shown_items = tqdm(items, "reading", unit=" rows", disable=not progress)
            plan.read(_checked(shown_items, skip=skip), {"made_from": made_from, "where": where})
        _check_skipped(plan.skipped(), skip=skip)
        _write(plan, encoder, skip=skip)
    return Features.load(folder)


def _tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _described(inputs: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of each file; a name is as given, where that was relative, and never says where it lay."""
    names = (path.name if path.is_absolute() else path.as_posix() for path in inputs)
    return [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(names, inputs, strict=True)
    ]


def _finished(folder: Path, made_from: Mapping[str, Any], *, skip: bool) -> Features | None:
    """The features of a folder that is finished; ValueError if they are of something else."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    _check_same(f"{folder} has features already", manifest, made_from)
    _check_skipped(manifest["skipped"], skip=skip)
    return Features.load(folder)


def _check_same(has: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse to go on with what was made from something else; the names of its files and last digits do not count."""
    if [one["sha256"] for one in old["inputs"]] != [one["sha256"] for one in new["inputs"]]:
        differs = "the captions file has changed since this run started"
    elif changed := [key for key in new if key not in ("inputs", "fingerprint") and old[key] != new[key]]:
        differs = f"its {changed[0]} is {old[changed[0]]!r}, not {new[changed[0]]!r}"
    else:
        return
    raise ValueError(f"{has}, but {differs}. Pass another folder, or force=True to start from scratch.")


def _on_bad(what: str) -> str:
    """What to do about a row or an image that can't be used."""
    return f'{what}. Repair it and run again, which goes on from here, or pass on_error="skip" to leave it out.'


def _check_skipped(skipped: Sequence[Mapping[str, Any]], *, skip: bool) -> None:
    """What an earlier run left out is an error for one that shall raise."""
    if skipped and not skip:
        where = f"{skipped[0]['where']} {skipped[0]['reason']}"
        raise ValueError(_on_bad(f'{where}; an earlier run with on_error="skip" left it out'))


def _checked(items: Iterable[Item], *, skip: bool) -> Iterator[Item]:
    for item in items:
        if item.problem and not skip:
            raise ValueError(_on_bad(f"{item.location}{f' ({item.name})' if item.name else ''} {item.problem}"))
        yield item


def _write(plan: Plan, encoder: Encoder, *, skip: bool) -> None:
    """Encode what is left, and write the manifest."""
    progress, made_from = plan.progress, plan.progress["made_from"]
    images, texts = plan.count("images"), plan.count("texts")
    rows = images + texts * (1 + progress["negatives_per_caption"])
    check_folder(plan.folder, needs=4 * made_from["dim"] * rows - sum(progress["sizes"].values()))
    _logger.info("%s: %d images and %d texts to embed", plan.folder, images, texts)
    with closing(Files(plan.folder, progress["sizes"])) as files:
        write_images(plan, files, encoder, skip=skip)
        if not (images := _image_count(plan)):
            names, why = ", ".join(one["name"] for one in made_from["inputs"]), ""
            for first in plan.skipped()[:1]:
                why = f"; {first['where']}: {first['image'] or 'it'} {first['reason']}"
            raise ValueError(f"{names} has no caption with an image that can be used{why}.")
        write_texts(plan, files, encoder)
        # Behind the images that captions describe are those that only negatives do.
        files.cut("images", HEADER + 4 * made_from["dim"] * images)
        counted = ("captions", "negatives_per_caption", "captions_with_negative", "true_negatives")
        counts = {"images": images, **{name: progress[name] for name in counted}}
        more = {name: progress[name] for name in COUNTED[1:] if progress["kinds"]}
        record = {
            **made_from,
            "images_sha256": progress["digest"],
            "counts": {**counts, "texts_cut": progress["cut"]["count"], **more},
            "skipped": plan.skipped(),
        }
        versions = versions_of("torch", "open_clip_torch", "numpy", "pillow")
        files.finish(record, {"python": platform.python_version(), **versions})


def _image_count(plan: Plan) -> int:
    """How many images that captions describe are not left out."""
    captioned: int = plan.progress["captioned"]
    return captioned - sum(image <= captioned for image in plan.left_out())


def write_images(plan: Plan, files: Files, encoder: Encoder, *, skip: bool) -> None:
    """Encode what is left of the images of a plan.

    One that can't be used is left out where `skip` says so; else it is an error, after what came before is kept.
    """
    total, done, digest = plan.count("images"), plan.progress["images"], plan.progress["digest"]
    try:
        with closing(encoder.images(plan.images(done), total=total, done=done)) as stream:
            for batch in batched(stream, encoder.batch_size):
                skipped = {}
                for image, one in enumerate(batch, start=done + 1):
                    if one.row is None:
                        if not skip:
                            raise ValueError(_on_bad(f"{one.source} {one.problem}"))
                        skipped[image] = one.source, one.problem
                        continue
                    digest = hashlib.sha256(digest.encode() + one.digest).hexdigest()
                    files.append("images", one.row)
                    if image <= plan.progress["captioned"]:
                        files.append("images.jsonl", _line({"image": one.source.name}))
                done += len(batch)
                plan.note(files, {"images": done, "digest": digest}, skipped)
    finally:
        plan.keep(files)  # what came before an error counts


def write_texts(plan: Plan, files: Files, encoder: Encoder) -> None:
    """Encode what is left of the captions of the images kept, and their negatives: each distinct text once a block."""
    total, done = plan.count("texts"), plan.progress["texts"]
    encoder.cut = TruncationCount(**plan.progress["cut"])
    with encoder.bar("captions", total, done) as bar:
        for (last, block, row_of), features in encoder.blocks(_blocks(plan, done, total)):
            bar.update(last - plan.progress["texts"])
            counts = _write_block(plan, files, features, block, row_of)
            plan.note(files, {**counts, "texts": last, "cut": vars(encoder.cut)}, {})
    plan.keep(files)
    encoder.cut.warn("captions and negatives", stacklevel=4)


_Block = tuple[int, list[Text], dict[str, int]]
"""The id of the last of some captions, these, and the row of each distinct text among their features."""


def _blocks(plan: Plan, after: int, total: int) -> Iterator[tuple[_Block, dict[str, str]]]:
    """Blocks of captions from behind an id on, with the distinct texts of each and where they occur first."""
    left_out = plan.left_out()
    for start in range(after, total, BLOCK):
        last = min(start + BLOCK, total)
        if block := plan.texts(start, last, left_out):
            locations: dict[str, str] = {}
            for text in block:
                for one in (text.caption, *(negative.text for negative in text.negatives if negative.is_negative)):
                    locations.setdefault(one, text.location)
            yield (last, block, {one: row for row, one in enumerate(locations)}), locations


def _write_block(
    plan: Plan, files: Files, features: Embeddings, block: Sequence[Text], row_of: Mapping[str, int]
) -> dict[str, int]:
    """Everything of some texts to its file; the counts after it."""
    counts = {name: plan.progress[name] for name in (*COUNTED, "captions_with_negative", "true_negatives")}
    most, has_images = plan.progress["negatives_per_caption"], plan.progress["negative_images"]
    own, own_image = np.array([(row_of[text.caption], text.image) for text in block]).T
    files.append("texts", features[own])
    files.append("image_index", own_image.astype("<i8"))
    # Where there is no negative, the caption itself stands, and its image.
    negatives, images = np.repeat(own[:, None], most, axis=1), np.repeat(own_image[:, None], most, axis=1)
    for row, text in enumerate(block):
        for column, negative in enumerate(text.negatives):
            if negative.is_negative:
                negatives[row, column] = row_of[negative.text]
                images[row, column] = negative.image[1] if negative.image else own_image[row]
            else:
                counts["true_negatives"] += 1
        line: dict[str, Any] = {"caption": text.caption, "negatives": [negative.text for negative in text.negatives]}
        if has_images:
            line["negative_images"] = [negative.image and negative.image[0] for negative in text.negatives]
        if text.kind:
            line["kind"] = text.kind.name.lower()
        counts[COUNTED[text.kind]] += 1
        files.append("captions.jsonl", _line(line))
    kind = np.array([text.kind for text in block], dtype="|i1")
    if plan.progress["kinds"]:
        files.append("kind", kind)
    if most:
        has = negatives != own[:, None]
        files.append("negatives", features[negatives])
        files.append("has_negative", has)
        counts["captions_with_negative"] += int(has[kind == Kind.CAPTION].any(axis=1).sum())
    if most and has_images:
        encoded = np.memmap(files.path("images"), "<f4", "r", offset=HEADER).reshape(-1, features.shape[1])
        files.append("negative_images", encoded[images])
        files.append("has_negative_image", images != own_image[:, None])
    return counts


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
