"""The two stages of a run: its images, then its captions, encoded into the files that its journal seals."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labclip.encode.encoder import Embeddings, Encoded, Encoder, batched
from labclip.features.folder import (
    CAPTIONS,
    HAS_NEGATIVE,
    HAS_NEGATIVE_IMAGE,
    IMAGE_NAMES,
    IMAGES,
    INDEX,
    NEGATIVE_IMAGES,
    NEGATIVES,
    SHOWN,
    TEXTS,
)
from labclip.features.journal import Journal, Text, image_line
from labclip.towers.text import Cut

BLOCK = 1024
"""Captions, each with its negatives, that are encoded together; those with a common prefix share the work."""

COMMIT_SECONDS = 5.0
"""How much work a kill may cost."""


def on_bad(what: str) -> str:
    """What to do about a row or an image that can't be used."""
    return f'{what}. Repair it and run again, which goes on from here, or pass on_error="skip" to leave it out.'


def write_images(journal: Journal, encoder: Encoder, *, skip: bool) -> None:
    """Encode what is left of the images of a plan.

    One that can't be used is left out where `skip` says so; else it is an error, after what came before is sealed.
    """
    total, sealed, whole = journal.count("images"), time.monotonic(), True
    state = {"next_image": journal.get("next_image", 0), "rows": journal.get("rows", {IMAGES: 0, SHOWN: 0}),
             "digest": journal.get("digest", "")}  # fmt: skip
    sources = journal.images(state["next_image"])
    try:
        with closing(encoder.images(sources, total=total, done=state["next_image"])) as stream:
            for batch in batched(stream, encoder.batch_size):
                broken = next((one for one in batch if one.row is None), None)
                if broken is not None and not skip:
                    raise ValueError(on_bad(f"{broken.source} {broken.problem}"))
                whole = False
                _write_batch(journal, batch, state)
                whole = True
                if time.monotonic() - sealed >= COMMIT_SECONDS:
                    journal.commit(**state)
                    sealed = time.monotonic()
    finally:
        if whole:  # what came before an error counts
            journal.commit(**state)
    if not state["rows"][IMAGES]:
        first = next(journal.skipped())
        raise ValueError(
            f"None of the {total:,} images can be used; {first['where']}: {first['image']} {first['reason']}."
        )


def _write_batch(journal: Journal, batch: Sequence[Encoded], state: dict[str, Any]) -> None:
    """Features to their file, names to theirs, the rows and what is wrong to the journal."""
    kept: dict[str, list[Any]] = {IMAGES: [], SHOWN: []}
    names: list[bytes] = []
    done: list[tuple[int | None, str | None, str | None, int]] = []
    captioned = journal.captioned
    for one in batch:
        state["next_image"] += 1
        file = IMAGES if state["next_image"] <= captioned else SHOWN
        if one.row is None:
            done.append((None, None, one.problem, state["next_image"]))
            continue
        state["digest"] = hashlib.sha256(state["digest"].encode() + one.digest).hexdigest()
        done.append((state["rows"][file], state["digest"], None, state["next_image"]))
        state["rows"][file] += 1
        kept[file].append(one.row)
        names += [image_line(one.source.name)] if file == IMAGES else []
    for file, found in kept.items():
        if found:
            journal.parts.append(file, np.stack(found))
    if names:
        journal.parts.append(IMAGE_NAMES, b"".join(names))
    journal.keep(done)


def write_texts(journal: Journal, encoder: Encoder) -> None:
    """Encode what is left of the captions of the images kept, and their negatives: each distinct text once a block."""
    total, most = journal.count("texts"), journal.get("negatives_per_caption", 0)
    state = {name: journal.get(name, 0) for name in ("next_text", "text_rows", "with_negative", "true_negatives")}
    encoder.cut = Cut(**journal.get("cut", {}))
    sealed = time.monotonic()
    with encoder.bar("captions", total, state["next_text"]) as bar:
        for (last, block, row_of), features in encoder.blocks(_blocks(journal, state["next_text"], total)):
            _write_block(journal, features, block, row_of, most, state)
            bar.update(last - state["next_text"])
            state["next_text"] = last
            if time.monotonic() - sealed >= COMMIT_SECONDS:
                journal.commit(**state, cut=vars(encoder.cut))
                sealed = time.monotonic()
    state["next_text"] = total  # behind the last block there may be captions of images that were left out
    journal.commit(**state, cut=vars(encoder.cut))
    encoder.cut.warn("captions and negatives", stacklevel=4)


_Block = tuple[int, list[Text], dict[str, int]]
"""The id of the last of some captions, these, and the row of each distinct text among their features."""


def _blocks(journal: Journal, after: int, total: int) -> Iterator[tuple[_Block, dict[str, str]]]:
    """Blocks of captions from behind an id on, with the distinct texts of each and where they occur first."""
    for start in range(after, total, BLOCK):
        last = min(start + BLOCK, total)
        if block := journal.texts(start, last):
            places: dict[str, str] = {}
            for text in block:
                for one in (text.caption, *itertools.compress(text.negatives, text.wrong)):
                    places.setdefault(one, text.place)
            yield (last, block, {one: row for row, one in enumerate(places)}), places


def _write_block(
    journal: Journal, features: Embeddings, block: Sequence[Text], row_of: Mapping[str, int], most: int,
    state: dict[str, Any],
) -> None:  # fmt: skip
    own = np.array([row_of[text.caption] for text in block])
    journal.parts.append(TEXTS, features[own])
    journal.parts.append(INDEX, np.array([text.image_row for text in block], dtype="<i8"))
    shown = journal.get("negative_images", False)
    journal.parts.append(CAPTIONS, "".join(_line(text, shown) for text in block).encode())
    if most:
        negatives = np.repeat(own[:, None], most, axis=1)  # where there is none, the caption itself stands
        for row, text in enumerate(block):
            for column, (one, wrong) in enumerate(zip(text.negatives, text.wrong, strict=True)):
                if wrong:
                    negatives[row, column] = row_of[one]
            state["true_negatives"] += text.wrong.count(False)
        real = negatives != own[:, None]
        journal.parts.append(NEGATIVES, features[negatives])
        journal.parts.append(HAS_NEGATIVE, real)
        state["with_negative"] += int(real.any(axis=1).sum())
        if shown:
            _write_shown(journal, block, real, features.shape[1])
    state["text_rows"] += len(block)


def _line(text: Text, shown: bool) -> str:
    """A caption's line in `captions.jsonl`."""
    said: dict[str, Any] = {"caption": text.caption, "negatives": text.negatives}
    if shown:
        said["negative_images"] = [one and one.name for one in text.images]
    return json.dumps(said, ensure_ascii=False) + "\n"


def _write_shown(journal: Journal, block: Sequence[Text], real: NDArray[np.bool_], dim: int) -> None:
    """The images of the negatives that are `real`, [n, k]; where one has none, the caption's own stands."""
    has, only = np.zeros_like(real), np.zeros_like(real)
    rows = np.repeat([[text.image_row] for text in block], real.shape[1], axis=1)
    for number, text in enumerate(block):
        for column, image in enumerate(text.images):
            if image and real[number, column] and image[1:] != (IMAGES, text.image_row):
                has[number, column], only[number, column], rows[number, column] = True, image.file == SHOWN, image.row
    found = np.empty((*real.shape, dim), dtype="<f4")
    for file, which in ((IMAGES, ~only), (SHOWN, only)):
        if which.any():
            found[which] = journal.parts.rows(file, rows[which], dim)
    journal.parts.append(NEGATIVE_IMAGES, found)
    journal.parts.append(HAS_NEGATIVE_IMAGE, has)
