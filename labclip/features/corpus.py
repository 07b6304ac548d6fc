"""The corpus of a run, what it has to encode: the distinct images and the texts of a table of captions, read whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from labclip.data.cleaning import comparable, digest
from labclip.data.images import ImageSource
from labclip.data.items import Item, Kind

REPAIR = 'Repair it and run again, which goes on from here, or pass on_error="skip" to leave it out.'
"""What to do about a row or an image that can't be used."""


class Text(NamedTuple):
    """A caption, part or keywords to be encoded."""

    image: int  # the number of its image
    text: str
    negatives: tuple[str, ...]
    shown: tuple[bytes | None, ...]  # the key of the image that each negative describes, or None
    kind: Kind
    location: str


class Corpus:
    """The distinct images and the texts of a run in order, in memory: about 1 kB for an image with a caption.

    Captions come first, then the parts of all, then the keywords, each text of an image once.

    With `skip`, rows that can't be used are left out; else the first is an error.

    Attributes:
        images: The images; those that only negatives describe come last.
        captioned: How many have captions.
        captions: How many captions each has.
        number: The number of an image by its key.
        texts: The texts.
        has_negative: Which negatives no text of the image says, bool [texts, k], for the k that one text has at most.
        shows_negatives: Whether an image of a negative is named.
        has_kinds: Whether there are parts or keywords.
        skipped: The rows that can't be used, as the manifest lists them.
        sha256: Of all texts and whose they are.
    """

    def __init__(self, items: Iterable[Item], *, skip: bool) -> None:
        self.captions: list[int] = []
        self.images: list[ImageSource] = []
        self.number: dict[bytes, int] = {}
        self.texts: list[Text] = []
        self.skipped: list[dict[str, Any]] = []
        k, meanings = 0, set[int]()
        shown: dict[bytes, ImageSource] = {}
        short: dict[int, Text] = {}
        for item in items:
            if item.problem and not skip:
                raise ValueError(f"{item.location}{item.name and f' ({item.name})'} {item.problem}. {REPAIR}")
            if item.image is None or item.problem:
                self.skipped.append(_skipped(item.location, item.name or None, item.problem, 1))
                continue
            image = self._number_of(item.image)
            self.captions[image] += len(item.captions)
            negative_images = item.negative_images or [[None] * len(negatives) for negatives in item.negatives]
            for caption, negatives, described in zip(item.captions, item.negatives, negative_images, strict=True):
                keys = tuple(None if source is None else source.key for source in described)
                self.texts.append(Text(image, caption, negatives, keys, Kind.CAPTION, item.location))
                meanings.add(_meaning_of(image, caption))
                for source in filter(None, described):
                    shown.setdefault(source.key, source)
            parts = [(Kind.PART, part.text, part.negative) for part in item.parts]
            for kind, text, negative in [*parts, (Kind.KEYWORDS, " ".join(item.keywords), "")]:
                if text.strip():
                    wrong = (negative,) if negative.strip() else ()
                    entry = Text(image, text, wrong, (None,) * len(wrong), kind, item.location)
                    short.setdefault(_meaning_of(image, text), entry)
            has_wrong_part = int(any(part.negative.strip() for part in item.parts))
            k = max(k, has_wrong_part, *map(len, item.negatives))
        self.captioned, self.shows_negatives = len(self.images), bool(shown)
        for source in shown.values():
            self._number_of(source)
        more = [text for key, text in short.items() if key not in meanings]
        self.has_kinds = bool(more)
        self.texts += sorted(more, key=lambda text: text.kind)
        meanings |= short.keys()
        content = hashlib.sha256()
        self.has_negative = np.zeros((len(self.texts), k), dtype=np.bool_)
        for row, (image, text, negatives, keys, _, _) in enumerate(self.texts):
            self.has_negative[row, : len(negatives)] = [
                _meaning_of(image, negative) not in meanings for negative in negatives
            ]
            content.update(repr((image, text, negatives, [key and self.number[key] for key in keys])).encode())
        self.sha256 = content.hexdigest()

    def _number_of(self, image: ImageSource) -> int:
        if (number := self.number.setdefault(image.key, len(self.images))) == len(self.images):
            assert image.file is not None
            image.file = image.file.absolute()  # it may be read on another machine
            self.images.append(image)
            self.captions.append(0)
        return number

    def skip(self, image: int, problem: str) -> dict[str, Any]:
        """What the manifest says of an image that is left out."""
        return _skipped(self.images[image].location, self.images[image].name, problem, self.captions[image])


def _skipped(where: str, image: str | None, reason: str, captions: int) -> dict[str, Any]:
    return {"where": where, "image": image, "reason": reason, "captions": captions}


def _meaning_of(image: int, text: str) -> int:
    """Equal for texts of one image that differ in nothing but case, punctuation and "a" or "an"."""
    return digest(f"{image} {comparable(text)}")
