"""The model's part: batches of pictures and blocks of captions into the files of a run."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from labclip.data.decoding import Decoded, Pictures
from labclip.encode.fingerprint import image_dtype
from labclip.features.folder import CAPTIONS, HAS_NEGATIVE, IMAGE_NAMES, IMAGES, INDEX, NEGATIVES, TEXTS
from labclip.features.journal import Work
from labclip.model import LABCLIP

BLOCK = 1024
"""Captions, each with its negatives, that are encoded together; those alike in their beginnings share the work."""

COMMIT_SECONDS = 5.0
"""How much work a kill may cost."""

_Rows = NDArray[np.float32]


def encode_images(
    work: Work, model: LABCLIP, pictures: Pictures, *, batch_size: int, skip: bool, progress: bool
) -> None:
    """Encode what is left of the pictures of a plan.

    Args:
        work: The run.
        model: The base; it must be in evaluation mode.
        pictures: Where they are read and decoded.
        batch_size: Pictures in one pass.
        skip: Whether a picture that can't be read is left out; else it is an error, after what came before is saved.
        progress: Whether to show a bar.

    Raises:
        ValueError: If a picture can't be read and `skip` is false, an embedding is not finite, or no picture is left.
    """
    done, total = work.get("next_image", 0), work.count("images")
    sink = _ImageSink(work, skip)
    waiting: tuple[list[Decoded], torch.Tensor | None] | None = None
    try:
        with tqdm(total=total, initial=done, desc="images", unit=" images", disable=not progress) as bar:
            for batch in pictures.batches(work.images(done), batch_size):
                # An accelerator runs on while the batch before is brought home.
                features = None if not skip and any(one.pixels is None for one in batch) else _run(model, batch)
                if waiting is not None:
                    sink.take(*waiting)
                    bar.update(len(waiting[0]))
                waiting = batch, features
            if waiting is not None:
                sink.take(*waiting)
                bar.update(len(waiting[0]))
    finally:
        sink.commit()  # what came before an error counts
    if not work.get("image_rows", 0):
        first = next(work.skipped())
        raise ValueError(
            f"None of the {total:,} images can be read; {first['where']}: {first['image']} {first['reason']}."
        )


def _run(model: LABCLIP, batch: Sequence[Decoded]) -> torch.Tensor | None:
    """The unit-length embeddings of a batch's pictures, float32 on the model's device; None where it has none."""
    pixels = [one.pixels for one in batch if one.pixels is not None]
    if not pixels:
        return None
    return embed_pixels(model, pixels)


@torch.no_grad()
def embed_pixels(model: LABCLIP, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Unit-length embeddings of decoded pictures, [3, height, width] each: float32 [n, dim] on the model's device."""
    stacked = torch.stack(list(pixels))
    device = model.matrix.device
    if device.type == "cuda":
        stacked = stacked.pin_memory()
    images = stacked.to(device, image_dtype(model), non_blocking=True)
    return F.normalize(model.encode_image(images, normalize=False).float(), dim=-1)


@contextmanager
def evaluating(model: LABCLIP) -> Iterator[None]:
    """Evaluation mode: dropout would make the features random."""
    training = model.training, model.clip.training
    model.eval()
    try:
        yield
    finally:
        model.train(training[0])
        model.clip.train(training[1])


class _ImageSink:
    """Takes batches in order: features to their file, broken pictures to the list of what is left out."""

    def __init__(self, work: Work, skip: bool) -> None:
        self._work, self._skip = work, skip
        self._rows: int = work.get("image_rows", 0)
        self._digest: str = work.get("digest", "")
        self._next: int = work.get("next_image", 0)
        self._sealed = time.monotonic()
        self._whole = True

    def take(self, batch: Sequence[Decoded], features: torch.Tensor | None) -> None:
        """Write one batch."""
        broken = [one for one in batch if one.pixels is None]
        if broken and not self._skip:
            item = broken[0].item
            raise ValueError(
                f"{item.name} ({item.place}) {broken[0].problem}. Mend it and run again, which goes on from here, or "
                f'pass on_error="skip" (--on-error skip) to leave it out.'
            )
        kept = [one for one in batch if one.pixels is not None]
        names = [f"{one.item.name} ({one.item.place})" for one in kept]
        rows = None if features is None else checked(features, names)
        self._whole = False
        if rows is not None:
            self._work.append(IMAGES, rows)
            lines = (json.dumps({"image": one.item.name}, ensure_ascii=False) + "\n" for one in kept)
            self._work.append(IMAGE_NAMES, "".join(lines).encode())
        self._work.begin()
        for one in broken:
            self._work.leave_out(one.item, one.problem)
        for one in kept:
            self._work.keep(one.item, self._rows)
            self._rows += 1
            self._digest = hashlib.sha256(self._digest.encode() + one.digest).hexdigest()
        self._next = batch[-1].item.id
        self._whole = True
        if time.monotonic() - self._sealed >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Seal what was taken, unless an error came in the middle of taking it."""
        if not self._whole:
            return
        self._work.commit(next_image=self._next, image_rows=self._rows, digest=self._digest)
        self._sealed = time.monotonic()


def encode_texts(work: Work, model: LABCLIP, *, progress: bool) -> None:
    """Encode what is left of the captions of the pictures kept, and their negatives: each distinct text once a block.

    Args:
        work: The run; its pictures are done.
        model: The base; it must be in evaluation mode.
        progress: Whether to show a bar.

    Raises:
        ValueError: If an embedding is not finite.
    """
    total, most = work.count("texts"), work.get("negatives_per_caption", 0)
    names = ("next_text", "text_rows", "with_negative", "true_negatives", "cut", "encoded")
    state: dict[str, Any] = {**{name: work.get(name, 0) for name in names}, "cut_warning": work.get("cut_warning", "")}
    sealed = time.monotonic()
    with tqdm(total=total, initial=state["next_text"], desc="captions", unit=" captions", disable=not progress) as bar:
        while state["next_text"] < total:
            last = min(state["next_text"] + BLOCK, total)
            if block := work.texts(state["next_text"], last):
                _encode_block(work, model, block, most, state)
            bar.update(last - state["next_text"])
            state["next_text"] = last
            if time.monotonic() - sealed >= COMMIT_SECONDS:
                work.commit(**state)
                sealed = time.monotonic()
    work.commit(**state)
    warn_of_cut(state, "captions and negatives")


def warn_of_cut(state: Mapping[str, Any], what: str) -> None:
    """Give the one warning for all that `counting_cut` kept."""
    if state["cut"]:
        said = f"{state['cut']} of {state['encoded']} {what} are longer than"
        warnings.warn(_CUT.sub(said, state["cut_warning"]), stacklevel=4)


_CUT = re.compile(r"^(\d+) of \d+ captions are longer than")


def _encode_block(work: Work, model: LABCLIP, block: Sequence[Any], most: int, state: dict[str, Any]) -> None:
    places: dict[str, str] = {}  # every distinct text, with where it occurs first
    for text in block:
        for one in (text.caption, *itertools.compress(text.negatives, text.wrong)):
            places.setdefault(one, text.place)
    with torch.no_grad(), counting_cut(state):
        raw = model.encode_text(list(places), normalize=False, aligned=False)
        features = checked(F.normalize(raw.float(), dim=-1), [f"{one!r} ({place})" for one, place in places.items()])
    row_of = {one: row for row, one in enumerate(places)}
    own = np.array([row_of[text.caption] for text in block])
    work.append(TEXTS, features[own])
    work.append(INDEX, np.array([text.image_row for text in block], dtype="<i8"))
    lines = (json.dumps({"caption": t.caption, "negatives": t.negatives}, ensure_ascii=False) + "\n" for t in block)
    work.append(CAPTIONS, "".join(lines).encode())
    if most:
        negatives = np.repeat(own[:, None], most, axis=1)  # where there is none, the caption itself stands
        for row, text in enumerate(block):
            for column, (one, wrong) in enumerate(zip(text.negatives, text.wrong, strict=True)):
                if wrong:
                    negatives[row, column] = row_of[one]
            state["true_negatives"] += text.wrong.count(False)
        real = negatives != own[:, None]
        work.append(NEGATIVES, features[negatives])
        work.append(HAS_NEGATIVE, real)
        state["with_negative"] += int(real.any(axis=1).sum())
    state["text_rows"] += len(block)
    state["encoded"] += len(places)


@contextmanager
def counting_cut(state: dict[str, Any]) -> Iterator[None]:
    """Keep the warning about captions cut at the context length, to give one for all instead of one a block.

    Args:
        state: Gets `cut`, how many captions, and `cut_warning`, the first warning; both must be there.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        said = str(warning.message)
        if found := _CUT.match(said):
            state["cut"] += int(found[1])
            state["cut_warning"] = state["cut_warning"] or said
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def checked(features: torch.Tensor, names: Sequence[str]) -> _Rows:
    """Rows for the file; one that is not finite or all zeros is an error that names its item.

    Raises:
        ValueError: If there is such a row.
    """
    rows: _Rows = features.cpu().numpy().astype("<f4", copy=False)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) < 0.01))
    if len(wrong):
        what = "all zeros" if lengths[wrong[0]] == 0 else "not finite"
        raise ValueError(
            f"The embedding of {names[wrong[0]]} is {what}. The model's weights are damaged, or its precision too low: "
            f'try precision="fp32".'
        )
    return rows
