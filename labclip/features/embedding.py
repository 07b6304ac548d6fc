"""Images and captions through a base into a feature folder."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from labclip.data import find_inputs, read_items
from labclip.features.corpus import REPAIR, Corpus
from labclip.features.encoder import Encoder, batched
from labclip.features.features import Features
from labclip.features.folder import FIELDS, Writer, counts_of, read_manifest
from labclip.features.origin import identity_of
from labclip.features.over_ray import RayEncoder
from labclip.files import MANIFEST, check_embed_target, check_folder, make_folder, path_of, sha256_of
from labclip.model import LABCLIP
from labclip.negatives.files import with_parts
from labclip.packages import versions_of
from labclip.towers.text import TruncationCount

ENGINES: dict[str, type[Encoder]] = {"local": Encoder, "ray": RayEncoder}
"""Who encodes, by name; the first is the default."""

BLOCK = 1024
"""Captions, each with its negatives, that are encoded together; those with a common prefix share the work."""

ENOUGH_CAPTIONS, ENOUGH_IMAGES = 1_000, 500
"""Captions with a negative, and images, below which a fit can hardly be judged."""

_OTHER = "Pass another folder, or force=True to start from scratch."
_OF_MODEL = "preprocess", "precision", "dim", "base", "weights_sha256"
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
    Killed at any moment and run again, it goes on, and the folder has the same bytes as after an unbroken run. The
    table is held in memory, about 1 kB for an image with a caption; images are not. A negative that says what a caption
    of its image says (but for case, punctuation and "a" or "an") counts as missing. Parts and keywords that come with
    the captions, as `labclip.negatives.add_parts` writes them, are texts of the image too: `Features.kind` tells them
    from captions. The keywords of a row are one text.

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
            for the first column of negatives, and so on.
        split: Take only the rows whose column `split` has this value, or one of these.
        clean: True cleans captions and negatives alike (`labclip.negatives.clean`, 40 words), False takes them as they
            are. None does too, but refuses a raw caption with a shuffled negative, which is cleaned: a fit would tell
            the two apart by the full stop.
        parts: Whether to make parts and keywords of the captions of rows that have none (HanTa finds them).
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one a processor, at most 16.
        on_error: What a missing or broken image or an empty caption does: "raise" stops with its name and keeps what is
            done, "skip" leaves it out, an image with its captions, and lists it in the manifest.
        engine: "local", or "ray" to share the work out over the Ray cluster of RAY_ADDRESS, or this machine's cores.
        force: Whether to start from scratch where the folder has other or unfinished features, and to write beside
            files of another kind.
        progress: Whether to show progress bars on stderr.

    Returns:
        The features, memory-mapped: unit-length float32 rows. A warning says where they are too few to judge a fit by.

    Raises:
        FileNotFoundError: If a file of captions or the folder of images does not exist.
        ValueError: If an item is bad and `on_error` is "raise", if nothing is left, if `clean` has to be said, if the
            folder has features of something else, or other files, or if another process is writing there.
        MissingPackageError: If Parquet, Ray or parts need a package that is not installed.

    Example:
        >>> import labclip
        >>> from PIL import Image
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
        raise FileNotFoundError(f"There is no folder of images {images}. Pass the one that image paths start from.")
    negatives, shown, splits = _listed(negative_columns), _listed(negative_images) or [], _listed(split)
    columns: dict[str, Any] = {"caption": column, "image": image_column, "negatives": negatives, "split": splits}
    columns |= {"negative_images": shown} if shown else {}
    columns |= {"parts": True} if parts else {}
    names = [path.name if path.is_absolute() else path.as_posix() for path in inputs]  # and never where it lay
    described = [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(names, inputs, strict=True)
    ]
    made_from = {**identity_of(model), "inputs": described, "columns": columns, "clean": clean}
    if not force:
        check_embed_target(folder)
    make_folder(folder)
    with Writer(folder, force=force) as state:
        finished = not force and (folder / MANIFEST).exists()
        if old := read_manifest(folder) if finished else state.values:
            _check_same(folder, old, made_from, skip=skip)
        if finished:
            return Features.load(folder)
        encoder = ENGINES[engine](model, batch_size=batch_size, workers=workers)
        items = read_items(
            inputs, images=images, column=column, image_column=image_column, negative_columns=negatives,
            negative_images=shown, split=splits, clean=clean,
        )  # fmt: skip
        items = with_parts(items) if parts else items
        corpus = Corpus(tqdm(items, "reading", unit=" rows", disable=not progress), skip=skip)
        state.values = state.values or {
            **made_from, "corpus": corpus.sha256, "images": 0, "digest": "", "left_out": [], "skipped": corpus.skipped,
            "texts": 0, "cut": {}, "sizes": {},
        }  # fmt: skip
        if state.values.get("corpus") != corpus.sha256:
            raise ValueError(
                f"{folder} has an unfinished run, but the rows of {captions} are read differently now. {_OTHER}"
            )
        _write(corpus, state, folder, encoder, record=made_from, skip=skip, progress=progress)
    features = Features.load(folder)
    counts = features.manifest["counts"]
    texts = counts["captions_with_negative"] + counts.get("parts", 0)
    if texts < ENOUGH_CAPTIONS or counts["images"] < ENOUGH_IMAGES:
        warnings.warn(
            f"{folder} has {texts:,} captions{' and parts' if counts.get('parts') else ''} with a negative and "
            f"{counts['images']:,} images: with fewer than {ENOUGH_CAPTIONS:,} and {ENOUGH_IMAGES:,}, what a fit gains "
            f"can hardly be told from chance. Embed more images, and make negatives with labclip.negatives.",
            stacklevel=2,
        )
    return features


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return None if names is None else [names] if isinstance(names, str) else list(names)


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, skip: bool) -> None:
    """Refuse to go on with what was made from something else; the names of its files and last digits do not count."""
    there, ours = ({**made, **made["columns"]} for made in (old, new))
    if [file["sha256"] for file in there["inputs"]] != [file["sha256"] for file in ours["inputs"]]:
        names = ", ".join(file["name"] for file in ours["inputs"])
        raise ValueError(f"{folder} has features of other captions: the content of {names} differs. {_OTHER}")
    for key in (*there["columns"], *ours["columns"], "clean", *_OF_MODEL):
        if there.get(key) != ours.get(key):
            what = f"their {key} is {there.get(key)!r}, not {ours.get(key)!r}"
            raise ValueError(f"{folder} has other features: {what}. {_OTHER}")
    if old["skipped"] and not skip:
        first = old["skipped"][0]
        raise ValueError(
            f'{first["where"]} {first["reason"]}; an earlier run with on_error="skip" left it out. {REPAIR}'
        )


def _write(
    corpus: Corpus, state: Writer, folder: Path, encoder: Encoder, *, record: Mapping[str, Any], skip: bool,
    progress: bool,
) -> None:  # fmt: skip
    """Encode what is left, and write the manifest."""
    values = state.values
    needs = 4 * record["dim"] * (len(corpus.images) + len(corpus.texts) + corpus.has_negative.size)
    check_folder(folder, needs=needs - sum(values["sizes"].values()))
    _logger.info("%s: %d images and %d texts to embed", folder, len(corpus.images), len(corpus.texts))
    state.begin()
    write_images(corpus, state, encoder, skip=skip, progress=progress)
    if corpus.captioned == sum(number < corpus.captioned for number in values["left_out"]):
        names = ", ".join(file["name"] for file in record["inputs"])
        why = "".join(f"; {row['where']}: {row['image'] or 'it'} {row['reason']}" for row in values["skipped"][:1])
        raise ValueError(f"{names} has no caption with an image that can be used{why}.")
    write_texts(corpus, state, encoder, progress=progress)
    if "counts" not in values:
        state.note(counts=write_rest(corpus, state, dim=record["dim"], texts_cut=encoder.cut.count))
    made = {"images_sha256": values["digest"], "counts": values["counts"], "skipped": values["skipped"]}
    versions = {"python": platform.python_version(), **versions_of("torch", "open_clip_torch", "numpy", "pillow")}
    state.finish({**record, **made}, versions)


def write_images(corpus: Corpus, state: Writer, encoder: Encoder, *, skip: bool, progress: bool) -> None:
    """Encode what is left of the images; one that can't be used is left out where `skip` says so, else an error."""
    done, total, values = state.values["images"], len(corpus.images), state.values
    digest, left_out, skipped = values["digest"], [*values["left_out"]], [*values["skipped"]]
    with closing(encoder.images(corpus.images[done:])) as stream:
        bar = tqdm(stream, "images", total, unit=" images", initial=done, disable=not progress or done == total)
        for batch in batched(bar, encoder.batch_size):
            for number, image in enumerate(batch, start=done):
                if image.row is not None:
                    state.append(FIELDS["images"], image.row)
                    digest = hashlib.sha256(digest.encode() + image.digest).hexdigest()
                elif skip:
                    left_out.append(number)
                    skipped.append(corpus.skip(number, image.problem))
                else:
                    raise ValueError(f"{image.source} {image.problem}. {REPAIR}")
            done += len(batch)  # a run that goes on begins with a whole batch: another one would round otherwise
            state.note(images=done, digest=digest, left_out=[*left_out], skipped=[*skipped])


def write_texts(corpus: Corpus, state: Writer, encoder: Encoder, *, progress: bool) -> None:
    """Encode what is left of the texts of the images kept, and their negatives: each distinct text once a block."""
    left_out, done, k = {*state.values["left_out"]}, state.values["texts"], corpus.has_negative.shape[1]
    kept = [row for row, text in enumerate(corpus.texts) if text.image not in left_out]
    encoder.cut = TruncationCount(**state.values["cut"])
    starts = range(done, len(kept), BLOCK)

    def distinct(start: int) -> list[str]:
        rows = ((corpus.texts[row], corpus.has_negative[row]) for row in kept[start : start + BLOCK])
        return list(dict.fromkeys(text for row, has in rows for text in (row.text, *compress(row.negatives, has))))

    bar = tqdm(
        zip(starts, encoder.texts(map(distinct, starts)), strict=True), "captions", -(-len(kept) // BLOCK),
        unit=" captions", initial=done // BLOCK, unit_scale=BLOCK, disable=not progress or not starts,
    )  # fmt: skip
    for start, (captions, features) in bar:
        row_of = {caption: row for row, caption in enumerate(captions)}
        block = kept[start : start + BLOCK]
        own = np.array([row_of[corpus.texts[row].text] for row in block])
        negatives = np.repeat(own[:, None], k, axis=1)  # where there is none, the text itself stands
        for row, column in np.argwhere(corpus.has_negative[block]):
            negatives[row, column] = row_of[corpus.texts[block[row]].negatives[column]]
        state.append(FIELDS["texts"], features[own])
        if k:
            state.append(FIELDS["negatives"], features[negatives])
        state.note(texts=start + len(block), cut={**vars(encoder.cut)})
    encoder.cut.warn("captions and negatives", stacklevel=4)


def write_rest(corpus: Corpus, state: Writer, *, dim: int, texts_cut: int) -> dict[str, int]:
    """What the corpus says of the rows: all files but those of embedded images and texts; the manifest's counts."""
    kept = np.ones(len(corpus.images), dtype=np.bool_)
    kept[state.values["left_out"]] = False
    used = kept[[text.image for text in corpus.texts]]
    texts, has_negative = [*compress(corpus.texts, used)], corpus.has_negative[used]
    kinds = np.array([text.kind for text in texts], dtype="|i1")
    row_of = kept.cumsum() - 1
    index = row_of[[text.image for text in texts]]
    shown = np.repeat(index[:, None], has_negative.shape[1], axis=1)  # where there is none, the caption's own
    shows = any(any(text.shown) for text in corpus.texts)
    for row, text in enumerate(texts):
        line: dict[str, Any] = {"caption": text.text, "negatives": text.negatives}
        if shows:
            line["negative_images"] = [None] * len(text.negatives)
            for column, key in enumerate(text.shown):
                if key and kept[number := corpus.number[key]]:
                    line["negative_images"][column] = corpus.images[number].name
                    if has_negative[row, column]:
                        shown[row, column] = row_of[number]
        if text.kind:
            line["kind"] = text.kind.name.lower()
        state.append("captions.jsonl", _line(line))
    for source in compress(corpus.images[: corpus.captioned], kept):
        state.append("images.jsonl", _line({"image": source.name}))
    state.append(FIELDS["image_index"], index.astype("<i8"))
    if kinds.any():
        state.append(FIELDS["kind"], kinds)
    if has_negative.size:
        state.append(FIELDS["has_negative"], has_negative)
    if has_negative.size and shows:
        encoded = state.embeddings(FIELDS["images"], dim)
        for start in range(0, len(texts), BLOCK):
            state.append(FIELDS["negative_images"], encoded[shown[start : start + BLOCK]])
        state.append(FIELDS["has_negative_image"], shown != index[:, None])
    true = sum(len(text.negatives) for text in texts) - int(has_negative.sum())
    return counts_of(int(kept[: corpus.captioned].sum()), kinds, has_negative, true_negatives=true, texts_cut=texts_cut)


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
