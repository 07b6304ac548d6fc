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
    shown: tuple[bytes | None, ...] = ()  # the key of the image that each negative describes, or None; empty if of none
    kind: Kind = Kind.CAPTION


class Corpus:
    """The distinct images and the texts of a run in order, in memory: about 1 kB for an image with a caption.

    Captions come first, then the parts of all, then the keywords, each text of an image once.

    With `skip`, rows that can't be used are left out; else the first is an error.

    Attributes:
        images: The images; those that only negatives describe come last.
        captions: How many captions each has.
        captioned: How many images have captions.
        number: The number of an image by its key.
        texts: The texts.
        has_negative: Which negatives no text of the image says, bool [texts, k], for the k that one text has at most.
        skipped: The rows that can't be used, as the manifest lists them.
        sha256: Of all texts and whose they are.
    """

    def __init__(self, items: Iterable[Item], *, skip: bool) -> None:
        self.images: list[ImageSource] = []
        self.captions: list[int] = []
        self.texts: list[Text] = []
        self.skipped: list[dict[str, Any]] = []
        self.number: dict[bytes, int] = {}
        shown: dict[bytes, ImageSource] = {}
        meanings = set[int]()
        short: dict[int, Text] = {}
        for item in items:
            if item.problem and not skip:
                raise ValueError(f"{item.location}{item.name and f' ({item.name})'} {item.problem}. {REPAIR}")
            if item.image is None or item.problem:
                self.skipped.append(_skipped(item.location, item.name or None, item.problem, 1))
                continue
            number = self._number_of(item.image)
            self.captions[number] += len(item.captions)
            for row, caption in enumerate(item.captions):
                sources = item.negative_images[row] if item.negative_images else ()
                keys = tuple(source.key if source else None for source in sources)
                self.texts.append(Text(number, caption, item.negatives[row], keys))
                meanings.add(_meaning_of(number, caption))
                shown |= {source.key: source for source in sources if source and source.key not in shown}
            for phrase, negative, kind in (
                *((part.text, part.negative, Kind.PART) for part in item.parts),
                (" ".join(item.keywords), "", Kind.KEYWORDS),
            ):
                if phrase.strip():
                    text = Text(number, phrase, (negative,) if negative.strip() else (), (), kind)
                    short.setdefault(_meaning_of(number, phrase), text)
        self.captioned = len(self.images)
        for source in shown.values():
            self._number_of(source)
        more = (text for meaning, text in short.items() if meaning not in meanings)
        self.texts += sorted(more, key=lambda text: text.kind)
        meanings |= short.keys()
        content = hashlib.sha256()
        k = max((len(text.negatives) for text in self.texts), default=0)
        self.has_negative = np.zeros((len(self.texts), k), dtype=np.bool_)
        for row, text in enumerate(self.texts):
            self.has_negative[row, : len(text.negatives)] = [
                _meaning_of(text.image, negative) not in meanings for negative in text.negatives
            ]
            content.update(repr((*text[:3], [key and self.number[key] for key in text.shown])).encode())
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
