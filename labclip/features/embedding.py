"""`embed`: encode images and captions with a base into a feature folder."""

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

from labclip.checks import check_choice
from labclip.data import find_inputs, read_items
from labclip.features.corpus import REPAIR, Corpus
from labclip.features.encoder import Encoder, batched
from labclip.features.features import Features
from labclip.features.folder import Writer, counts_of, read_manifest
from labclip.features.origin import identity_of
from labclip.features.over_ray import RayEncoder
from labclip.files import MANIFEST, check_embed_target, check_folder, path_of, sha256_of
from labclip.model import LABCLIP
from labclip.negatives.files import with_parts
from labclip.packages import versions_of
from labclip.towers.text import TruncationCount

ENGINES: dict[str, type[Encoder]] = {"local": Encoder, "ray": RayEncoder}
"""The encoders by name; the first is the default."""

BLOCK = 1024
"""Number of texts that are encoded together with their negatives. Those with a common prefix share the work."""

ENOUGH_CAPTIONS, ENOUGH_IMAGES = 1_000, 500
"""With fewer captions with a negative, or fewer images, a fit can hardly be judged."""

_REMEDY = "Pass another folder, or force=True to start from scratch."
_MODEL_KEYS = "preprocess", "precision", "dim", "base", "weights_sha256"
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

    Each image is encoded once, however many captions it has. Text features are the base's own, without any alignment.
    If the run is killed, run it again: it continues, and the folder gets the same bytes as from an uninterrupted run.
    The table is held in memory, about 1 kB for an image with a caption; the images are not.

    A negative that equals a caption of its image, except for case, punctuation, and "a" or "an", counts as missing.
    Parts and keywords from the file (`labclip.negatives.add_parts` writes them) are encoded as further texts of the
    image; the keywords of a row are one text. `Features.kind` marks each text as caption, part or keywords.

    Args:
        model: The wrapped base. Its device and precision are used.
        captions: A csv, tsv, jsonl, json (a list of objects, COCO captions, Karpathy's) or Parquet file, a WebDataset
            tar, a pattern such as `shards/*.tar`, a folder of tars or of Parquet files, or several of these.
        out: The feature folder; made if it does not exist.
        images: The folder or URL (`s3://bucket/photos`) that image paths are relative to; by default the folder of
            the file of captions.
        column: The column of captions. [default: caption, title, captions, sentences or text]
        image_column: The column of images. [default: image, filename, filepath, image_path or file_name]
        negative_columns: The columns of hard negatives. [default: all that exist of negative, negative_2, ...,
            negatives, neg_caption and negative_caption]
        negative_images: The columns of images that the negatives describe, in the order of the columns of negatives.
            Each cell is a path, or empty.
        split: Read only the rows whose column `split` has this value, or one of these.
        clean: True cleans captions and negatives (`labclip.negatives.clean`, 40 words), False leaves them as they are.
            None leaves them too, but refuses a raw caption with a shuffled negative, which is cleaned: a fit would tell
            the two apart by the full stop.
        parts: Whether to make parts and keywords, with HanTa, for captions of rows that have none.
        batch_size: Images in one pass of the model.
        workers: Threads that read and decode images; by default one per processor, at most 16.
        on_error: What to do about a missing or broken image or an empty caption. "raise" stops with its name and keeps
            what is encoded. "skip" leaves it out, an image with all its captions, and lists it in the manifest.
        engine: "local", or "ray" to share the work over the Ray cluster of RAY_ADDRESS, or this machine's cores.
        force: Whether to start from scratch in a folder with other or unfinished features, and to write next to other
            files.
        progress: Whether to show progress bars on stderr.

    Returns:
        The features, memory-mapped, with unit-length float32 rows. A warning says if they are too few to judge a fit.

    Raises:
        FileNotFoundError: If a file of captions or the folder of images does not exist.
        ValueError: If an image or caption can't be used and `on_error` is "raise", if none can be used, if `clean` must
            be given, if the folder has other features or other files, or if another process is writing to it.
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
            f"LABCLIP(clip, Alignment.identity(dim)) for a base without a matrix."
        )
    check_choice("on_error", on_error, ("raise", "skip"))
    check_choice("engine", engine, ENGINES)
    inputs, skip, folder = find_inputs(captions), on_error == "skip", Path(out)
    if images is not None and not path_of(images).is_dir():
        raise FileNotFoundError(f"There is no folder of images {images}. Pass the one that image paths start from.")
    negatives, negative_images, splits = map(_as_list, (negative_columns, negative_images, split))
    columns: dict[str, Any] = {"caption": column, "image": image_column, "negatives": negatives, "split": splits}
    columns |= {"negative_images": negative_images} if negative_images else {}
    columns |= {"parts": True} if parts else {}
    names = [path.name if path.is_absolute() else path.as_posix() for path in inputs]  # no folders of this machine
    input_records = [
        {"name": name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for name, path in zip(names, inputs, strict=True)
    ]
    record = {**identity_of(model), "inputs": input_records, "columns": columns, "clean": clean}
    check_embed_target(folder, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    with Writer(folder, force=force) as writer:
        is_finished = not force and (folder / MANIFEST).exists()
        if old_record := read_manifest(folder) if is_finished else writer.values:
            _check_same(folder, old_record, record, skip=skip)
        if is_finished:
            return Features.load(folder)
        encoder = ENGINES[engine](model, batch_size=batch_size, workers=workers)
        items = read_items(
            inputs, images=images, column=column, image_column=image_column, negative_columns=negatives,
            negative_images=negative_images or (), split=splits, clean=clean,
        )  # fmt: skip
        items = with_parts(items) if parts else items
        corpus = Corpus(tqdm(items, "reading", unit=" rows", disable=not progress), skip=skip)
        writer.values = writer.values or {
            **record, "corpus": corpus.sha256, "images": 0, "digest": "", "left_out": [], "skipped": corpus.skipped,
            "texts": 0, "cut": {}, "sizes": {},
        }  # fmt: skip
        if writer.values.get("corpus") != corpus.sha256:
            raise ValueError(
                f"{folder} has an unfinished run, but the rows of {captions} are read differently now. {_REMEDY}"
            )
        _write(corpus, writer, folder, encoder, record=record, skip=skip, progress=progress)
    features = Features.load(folder)
    counts = features.manifest["counts"]
    n_texts = counts["captions_with_negative"] + counts.get("parts", 0)
    if n_texts < ENOUGH_CAPTIONS or counts["images"] < ENOUGH_IMAGES:
        warnings.warn(
            f"{folder} has {n_texts:,} captions{' and parts' if counts.get('parts') else ''} with a negative and "
            f"{counts['images']:,} images: with fewer than {ENOUGH_CAPTIONS:,} and {ENOUGH_IMAGES:,}, the gain of a "
            f"fit can hardly be told from chance. Embed more images, and make negatives with labclip.negatives.",
            stacklevel=2,
        )
    return features


def _as_list(names: str | Sequence[str] | None) -> list[str] | None:
    return None if names is None else [names] if isinstance(names, str) else list(names)


def _check_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, skip: bool) -> None:
    """Refuse to continue a folder whose record differs. File names and the fingerprint's last digits do not matter."""
    old_values, new_values = ({**record, **record["columns"]} for record in (old, new))
    if [file["sha256"] for file in old["inputs"]] != [file["sha256"] for file in new["inputs"]]:
        names = ", ".join(file["name"] for file in new["inputs"])
        raise ValueError(f"{folder} has features of other captions: the content of {names} differs. {_REMEDY}")
    for key in (*old["columns"], *new["columns"], "clean", *_MODEL_KEYS):
        if old_values.get(key) != new_values.get(key):
            difference = f"their {key} is {old_values.get(key)!r}, not {new_values.get(key)!r}"
            raise ValueError(f"{folder} has other features: {difference}. {_REMEDY}")
    if old["skipped"] and not skip:
        first = old["skipped"][0]
        raise ValueError(
            f'{first["where"]} {first["reason"]}; an earlier run with on_error="skip" left it out. {REPAIR}'
        )


def _write(
    corpus: Corpus, writer: Writer, folder: Path, encoder: Encoder, *, record: Mapping[str, Any], skip: bool,
    progress: bool,
) -> None:  # fmt: skip
    """Encode the rest of the corpus and write the manifest."""
    values = writer.values
    needs = 4 * record["dim"] * (len(corpus.images) + len(corpus.texts) + corpus.has_negative.size)
    check_folder(folder, needs=needs - sum(values["sizes"].values()))
    _logger.info("%s: %d images and %d texts to embed", folder, len(corpus.images), len(corpus.texts))
    writer.begin()
    write_images(corpus, writer, encoder, skip=skip, progress=progress)
    if corpus.n_captioned == sum(image < corpus.n_captioned for image in values["left_out"]):
        names = ", ".join(file["name"] for file in record["inputs"])
        example = "".join(f"; {row['where']}: {row['image'] or 'it'} {row['reason']}" for row in values["skipped"][:1])
        raise ValueError(f"{names} has no caption with an image that can be used{example}.")
    write_texts(corpus, writer, encoder, progress=progress)
    if "counts" not in values:
        writer.note(counts=write_rest(corpus, writer, dim=record["dim"], texts_cut=encoder.cut.count))
    outcome = {"images_sha256": values["digest"], "counts": values["counts"], "skipped": values["skipped"]}
    versions = {"python": platform.python_version(), **versions_of("torch", "open_clip_torch", "numpy", "pillow")}
    writer.finish({**record, **outcome}, versions)


def write_images(corpus: Corpus, writer: Writer, encoder: Encoder, *, skip: bool, progress: bool) -> None:
    """Encode the remaining images. One that can't be used is left out if `skip`, else it raises ValueError."""
    done, total, values = writer.values["images"], len(corpus.images), writer.values
    digest, left_out, skipped = values["digest"], [*values["left_out"]], [*values["skipped"]]
    with closing(encoder.images(corpus.images[done:])) as stream:
        bar = tqdm(stream, "images", total, unit=" images", initial=done, disable=not progress or done == total)
        for batch in batched(bar, encoder.batch_size):
            for index, image in enumerate(batch, start=done):
                if image.row is not None:
                    writer.append("images", image.row)
                    digest = hashlib.sha256(digest.encode() + image.digest).hexdigest()
                elif skip:
                    left_out.append(index)
                    row = {"where": image.source.location, "image": image.source.name, "reason": image.problem}
                    skipped.append({**row, "captions": corpus.n_captions[index]})
                else:
                    raise ValueError(f"{image.source} {image.problem}. {REPAIR}")
            done += len(batch)  # whole batches only: a resumed run with other batches would round differently
            writer.note(images=done, digest=digest, left_out=[*left_out], skipped=[*skipped])


def write_texts(corpus: Corpus, writer: Writer, encoder: Encoder, *, progress: bool) -> None:
    """Encode the remaining texts of the kept images, and their negatives. A block encodes each distinct text once."""
    left_out, done, k = {*writer.values["left_out"]}, writer.values["texts"], corpus.has_negative.shape[1]
    kept_rows = [row for row, text in enumerate(corpus.texts) if text.image not in left_out]
    encoder.cut = TruncationCount(**writer.values["cut"])
    starts = range(done, len(kept_rows), BLOCK)

    def distinct_texts(start: int) -> list[str]:
        rows = ((corpus.texts[row], corpus.has_negative[row]) for row in kept_rows[start : start + BLOCK])
        return list(dict.fromkeys(text for row, has in rows for text in (row.text, *compress(row.negatives, has))))

    bar = tqdm(
        zip(starts, encoder.texts(map(distinct_texts, starts)), strict=True), "captions", -(-len(kept_rows) // BLOCK),
        unit=" captions", initial=done // BLOCK, unit_scale=BLOCK, disable=not progress or not starts,
    )  # fmt: skip
    for start, (encoded_texts, features) in bar:
        feature_row = {text: row for row, text in enumerate(encoded_texts)}
        block = kept_rows[start : start + BLOCK]
        text_rows = np.array([feature_row[corpus.texts[row].text] for row in block])
        negative_rows = np.repeat(text_rows[:, None], k, axis=1)  # a missing negative is the text itself
        for row, column in np.argwhere(corpus.has_negative[block]):
            negative_rows[row, column] = feature_row[corpus.texts[block[row]].negatives[column]]
        writer.append("texts", features[text_rows])
        if k:
            writer.append("negatives", features[negative_rows])
        writer.note(texts=start + len(block), cut={**vars(encoder.cut)})
    encoder.cut.warn("captions and negatives", stacklevel=4)


def write_rest(corpus: Corpus, writer: Writer, *, dim: int, texts_cut: int) -> dict[str, int]:
    """Write every file that needs no encoding: indices, flags, names. Returns the manifest's counts."""
    kept = np.ones(len(corpus.images), dtype=np.bool_)
    kept[writer.values["left_out"]] = False
    is_kept_text = kept[[text.image for text in corpus.texts]]
    texts, has_negative = [*compress(corpus.texts, is_kept_text)], corpus.has_negative[is_kept_text]
    kinds = np.array([text.kind for text in texts], dtype="|i1")
    image_row = kept.cumsum() - 1  # row of each kept image in the file of image features
    image_index = image_row[[text.image for text in texts]]
    negative_image_rows = np.repeat(image_index[:, None], has_negative.shape[1], axis=1)  # default: the text's image
    has_images = any(any(text.negative_images) for text in corpus.texts)
    for row, text in enumerate(texts):
        line: dict[str, Any] = {"caption": text.text, "negatives": text.negatives}
        if has_images:
            line["negative_images"] = [None] * len(text.negatives)
            for column, key in enumerate(text.negative_images):
                if key and kept[image := corpus.index[key]]:
                    line["negative_images"][column] = corpus.images[image].name
                    if has_negative[row, column]:
                        negative_image_rows[row, column] = image_row[image]
        if text.kind:
            line["kind"] = text.kind.name.lower()
        writer.append("captions.jsonl", _json_line(line))
    for source in compress(corpus.images[: corpus.n_captioned], kept):
        writer.append("images.jsonl", _json_line({"image": source.name}))
    writer.append("image_index", image_index)
    if kinds.any():
        writer.append("kind", kinds)
    if has_negative.size:
        writer.append("has_negative", has_negative)
    if has_negative.size and has_images:
        image_features = writer.images(dim)
        for start in range(0, len(texts), BLOCK):
            writer.append("negative_images", image_features[negative_image_rows[start : start + BLOCK]])
        writer.append("has_negative_image", negative_image_rows != image_index[:, None])
    n_true = sum(len(text.negatives) for text in texts) - int(has_negative.sum())
    n_images = int(kept[: corpus.n_captioned].sum())
    return counts_of(n_images, kinds, has_negative, true_negatives=n_true, texts_cut=texts_cut)


def _json_line(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
