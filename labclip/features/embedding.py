"""Images and captions through a base into a feature folder."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from labclip.data import find_inputs, read_items
from labclip.features.corpus import REPAIR, Corpus
from labclip.features.encoder import Encoder, batched
from labclip.features.features import Features
from labclip.features.folder import HEADER, Writer, counts_of, read_manifest
from labclip.features.origin import identity_of
from labclip.features.over_ray import RayEncoder
from labclip.files import MANIFEST, check_embeds_into, check_folder, make_folder, path_of, sha256_of
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
    negatives, shown, splits = _tuple(negative_columns), _tuple(negative_images) or (), _tuple(split)
    columns: dict[str, Any] = {"caption": column, "image": image_column, "negatives": negatives, "split": splits}
    columns |= {"negative_images": shown} if shown else {}
    columns |= {"parts": True} if parts else {}
    names = [path.name if path.is_absolute() else path.as_posix() for path in inputs]  # and never where it lay
    described = [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(names, inputs, strict=True)
    ]
    made_from = {**identity_of(model), "inputs": described, "columns": columns, "clean": clean}
    made_from = json.loads(json.dumps(made_from))  # as it is read again
    if not force:
        check_embeds_into(folder)
    make_folder(folder)
    with Writer(folder, force=force) as state:
        finished = not force and (folder / MANIFEST).exists()
        if old := read_manifest(folder) if finished else state.values:
            has = "features already" if finished else "an unfinished run"
            _check_same(f"{folder} has {has}", old, made_from, skip=skip)
        if finished:
            return Features.load(folder)
        encoder = ENGINES[engine](model, batch_size=batch_size, workers=workers, progress=progress)
        items = read_items(
            inputs, images=images, column=column, image_column=image_column, negative_columns=negatives,
            negative_images=shown, split=splits, clean=clean,
        )  # fmt: skip
        items = with_parts(items) if parts else items
        corpus = Corpus(tqdm(items, "reading", unit=" rows", disable=not progress), skip=skip)
        if state.values and state.values["rows"] != corpus.sha256:
            raise ValueError(
                f"{folder} has an unfinished run, but the rows of {captions} are read differently now. Pass another "
                f"folder, or force=True to start from scratch."
            )
        state.values = state.values or {
            **made_from, "rows": corpus.sha256, "images": 0, "digest": "", "left_out": [], "skipped": corpus.skipped,
            "texts": 0, "cut": {}, "sizes": {},
        }  # fmt: skip
        _write(corpus, state, folder, encoder, record=made_from, skip=skip)
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


def _tuple(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else (names,) if isinstance(names, str) else tuple(names)


def _check_same(has: str, old: Mapping[str, Any], new: Mapping[str, Any], *, skip: bool) -> None:
    """Refuse to go on with what was made from something else; the names of its files and last digits do not count."""
    unset = dict.fromkeys([*old["columns"], *new["columns"]])  # columns that one of them names
    there, mine = ({**one, **unset, **one["columns"], "columns": None} for one in (old, new))
    if [one["sha256"] for one in old["inputs"]] != [one["sha256"] for one in new["inputs"]]:
        differs = "the captions file has changed since this run started"
    elif changed := [key for key in mine if key not in ("inputs", "fingerprint") and there.get(key) != mine[key]]:
        differs = f"its {changed[0]} is {there.get(changed[0])!r}, not {mine[changed[0]]!r}"
    elif old["skipped"] and not skip:
        first = old["skipped"][0]
        what = f'{first["where"]} {first["reason"]}; an earlier run with on_error="skip" left it out'
        raise ValueError(f"{what}. {REPAIR}")
    else:
        return
    raise ValueError(f"{has}, but {differs}. Pass another folder, or force=True to start from scratch.")


def _write(
    corpus: Corpus, state: Writer, folder: Path, encoder: Encoder, *, record: Mapping[str, Any], skip: bool
) -> None:
    """Encode what is left, and write the manifest."""
    values, dim = state.values, record["dim"]
    needs = 4 * dim * (len(corpus.images) + len(corpus.texts) + corpus.has_negative.size)
    check_folder(folder, needs=needs - sum(values["sizes"].values()))
    _logger.info("%s: %d images and %d texts to embed", folder, len(corpus.images), len(corpus.texts))
    state.begin()
    write_images(corpus, state, encoder, skip=skip)
    images = corpus.captioned - sum(number < corpus.captioned for number in values["left_out"])
    if not images:
        names = ", ".join(one["name"] for one in record["inputs"])
        why = "".join(f"; {one['where']}: {one['image'] or 'it'} {one['reason']}" for one in values["skipped"][:1])
        raise ValueError(f"{names} has no caption with an image that can be used{why}.")
    write_texts(corpus, state, encoder)
    if "counts" not in values:
        state.note(counts=write_rest(corpus, state, images=images, texts_cut=encoder.cut.count))
        state.keep()
    # Behind the images that captions describe are those that only negatives do, which are not needed any more.
    state.cut("images", HEADER + 4 * dim * images)
    made = {"images_sha256": values["digest"], "counts": values["counts"], "skipped": values["skipped"]}
    versions = {"python": platform.python_version(), **versions_of("torch", "open_clip_torch", "numpy", "pillow")}
    state.finish({**record, **made}, versions)


def write_images(corpus: Corpus, state: Writer, encoder: Encoder, *, skip: bool) -> None:
    """Encode what is left of the images.

    One that can't be used is left out where `skip` says so; else it is an error, after what came before is kept.
    """
    done, digest = state.values["images"], state.values["digest"]
    left_out, skipped = [*state.values["left_out"]], [*state.values["skipped"]]
    try:
        left = islice(corpus.images, done, None)
        with closing(encoder.images(left, total=len(corpus.images), done=done)) as stream:
            for batch in batched(stream, encoder.batch_size):
                for number, one in enumerate(batch, start=done):
                    if one.row is not None:
                        digest = hashlib.sha256(digest.encode() + one.digest).hexdigest()
                        state.append("images", one.row)
                    elif skip:
                        left_out.append(number)
                        skipped.append(corpus.skip(number, one.problem))
                    else:
                        raise ValueError(f"{one.source} {one.problem}. {REPAIR}")
                done += len(batch)
                state.note(images=done, digest=digest, left_out=[*left_out], skipped=[*skipped])
    finally:
        state.keep()  # what came before an error counts


def write_texts(corpus: Corpus, state: Writer, encoder: Encoder) -> None:
    """Encode what is left of the texts of the images kept, and their negatives: each distinct text once a block."""
    done, k = state.values["texts"], corpus.has_negative.shape[1]
    encoder.cut = TruncationCount(**state.values["cut"])
    with encoder.bar("captions", len(corpus.texts), done) as bar:
        for (stop, texts, row_of), features in encoder.blocks(_blocks(corpus, done, {*state.values["left_out"]})):
            own = np.array([row_of[corpus.texts[index].text] for index in texts])
            negatives = np.repeat(own[:, None], k, axis=1)  # where there is none, the text itself stands
            for row, index in enumerate(texts):
                for column in np.flatnonzero(corpus.has_negative[index]):
                    negatives[row, column] = row_of[corpus.texts[index].negatives[column]]
            state.append("texts", features[own])
            if k:
                state.append("negatives", features[negatives])
            bar.update(stop - state.values["texts"])
            state.note(texts=stop, cut=vars(encoder.cut))
    state.keep()
    encoder.cut.warn("captions and negatives", stacklevel=4)


def _blocks(corpus: Corpus, done: int, left_out: Container[int]) -> Iterator[tuple[Any, dict[str, str]]]:
    """Blocks of the texts behind those done, as `Encoder.blocks` takes them.

    Beside the distinct texts of a block stand the index behind it, its texts by index, and each text's row.
    """
    for start in range(done, len(corpus.texts), BLOCK):
        stop = min(start + BLOCK, len(corpus.texts))
        block = [index for index in range(start, stop) if corpus.texts[index].image not in left_out]
        locations: dict[str, str] = {}
        for index in block:
            text = corpus.texts[index]
            for one in (text.text, *compress(text.negatives, corpus.has_negative[index])):
                locations.setdefault(one, text.location)
        if block:
            yield (stop, block, {one: row for row, one in enumerate(locations)}), locations


def write_rest(corpus: Corpus, state: Writer, *, images: int, texts_cut: int) -> dict[str, int]:
    """What the corpus says of the rows: all files but those of embedded images and texts; the manifest's counts."""
    kept = np.ones(len(corpus.images), dtype=bool)
    kept[state.values["left_out"]] = False
    rows = np.where(kept, kept.cumsum() - 1, -1)
    image = np.array([text.image for text in corpus.texts])
    used = kept[image]
    texts, index, has = [*compress(corpus.texts, used)], rows[image][used], corpus.has_negative[used]
    kinds = np.array([text.kind for text in texts], dtype="|i1")
    shown = np.repeat(index[:, None], has.shape[1], axis=1)  # where there is none, the caption's own
    for row, text in enumerate(texts):
        numbers = [None if key is None or not kept[corpus.number[key]] else corpus.number[key] for key in text.shown]
        for column, number in enumerate(numbers):
            if number is not None and has[row, column]:
                shown[row, column] = rows[number]
        line: dict[str, Any] = {"caption": text.text, "negatives": text.negatives}
        if corpus.shows_negatives:
            line["negative_images"] = [None if number is None else corpus.images[number].name for number in numbers]
        if text.kind:
            line["kind"] = text.kind.name.lower()
        state.append("captions.jsonl", _line(line))
    for source in compress(corpus.images[: corpus.captioned], kept):
        state.append("images.jsonl", _line({"image": source.name}))
    state.append("image_index", index.astype("<i8"))
    if corpus.has_kinds:
        state.append("kind", kinds)
    if has.size:
        state.append("has_negative", has)
    if has.size and corpus.shows_negatives:
        encoded = np.memmap(state.path("images"), "<f4", "r", offset=HEADER).reshape(int(kept.sum()), -1)
        for start in range(0, len(texts), BLOCK):
            state.append("negative_images", encoded[shown[start : start + BLOCK]])
        state.append("has_negative_image", shown != index[:, None])
    true = sum(len(text.negatives) for text in texts) - int(has.sum())
    return counts_of(images, kinds, has, has_kinds=corpus.has_kinds, true_negatives=true, texts_cut=texts_cut)


def _line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
