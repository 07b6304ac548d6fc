"""`Corpus`: all that one `embed` run has to encode, the distinct images and the texts of a table of captions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from labclip.data.cleaning import comparable, digest
from labclip.data.images import ImageSource
from labclip.data.items import Item, Kind

REPAIR = 'Repair it and run again (finished work is kept), or pass on_error="skip" to leave it out.'
"""The remedy in every message about a row or image that can't be used."""


class Text(NamedTuple):
    """A caption, a part, or the keywords of a row, to be encoded."""

    image: int  # index in `Corpus.images`
    text: str
    negatives: tuple[str, ...]
    negative_images: tuple[bytes | None, ...] = ()  # key of the image that each negative describes, or None; may be ()
    kind: Kind = Kind.CAPTION


class Corpus:
    """The distinct images and the texts of a run, in memory: about 1 kB for an image with a caption.

    With `skip`, rows that can't be used are left out. Otherwise the first one raises ValueError.
    """

    def __init__(self, items: Iterable[Item], *, skip: bool) -> None:
        self.images: list[ImageSource] = []  # those that only negatives describe come last
        self.n_captions: list[int] = []  # of each image
        self.index: dict[bytes, int] = {}  # of each image in `images`, by its key
        self.texts: list[Text] = []  # captions, then parts and keywords that are no other text of their image
        self.skipped: list[dict[str, Any]] = []  # rows that can't be used, as the manifest lists them
        negative_images: dict[bytes, ImageSource] = {}
        true_digests = set[int]()  # of all texts of the images
        phrases: dict[int, Text] = {}  # parts and keywords by their digest
        for item in items:
            if item.problem and not skip:
                raise ValueError(f"{item.location}{item.name and f' ({item.name})'} {item.problem}. {REPAIR}")
            if item.image is None or item.problem:
                row = {"where": item.location, "image": item.name or None, "reason": item.problem, "captions": 1}
                self.skipped.append(row)
                continue
            image = self._add_image(item.image)
            self.n_captions[image] += len(item.captions)
            for position, caption in enumerate(item.captions):
                sources = item.negative_images[position] if item.negative_images else ()
                keys = tuple(source.key if source else None for source in sources)
                self.texts.append(Text(image, caption, item.negatives[position], keys))
                true_digests.add(_digest(image, caption))
                for source in filter(None, sources):
                    negative_images.setdefault(source.key, source)
            for phrase, negative, kind in (
                *((part.text, part.negative, Kind.PART) for part in item.parts),
                (" ".join(item.keywords), "", Kind.KEYWORDS),
            ):
                if phrase.strip():
                    text = Text(image, phrase, (negative,) if negative.strip() else (), (), kind)
                    phrases.setdefault(_digest(image, phrase), text)
        self.n_captioned = len(self.images)  # images with captions
        for source in negative_images.values():
            self._add_image(source)
        new_phrases = [text for key, text in phrases.items() if key not in true_digests]
        self.texts += sorted(new_phrases, key=lambda text: text.kind)
        true_digests |= phrases.keys()
        content = hashlib.sha256()
        k = max((len(text.negatives) for text in self.texts), default=0)
        self.has_negative = np.zeros((len(self.texts), k), dtype=np.bool_)  # False if a text of the image says the same
        for index, text in enumerate(self.texts):
            flags = [_digest(text.image, negative) not in true_digests for negative in text.negatives]
            self.has_negative[index, : len(flags)] = flags
            content.update(repr((*text[:3], [key and self.index[key] for key in text.negative_images])).encode())
        self.sha256 = content.hexdigest()  # of all texts, their negatives and the indices of their images

    def _add_image(self, image: ImageSource) -> int:
        """The index of the image, which is appended if it is new."""
        if (index := self.index.setdefault(image.key, len(self.images))) == len(self.images):
            assert image.file is not None
            image.file = image.file.absolute()  # a Ray worker may read it in another folder
            self.images.append(image)
            self.n_captions.append(0)
        return index


def _digest(image: int, text: str) -> int:
    """Equal for two texts of one image that differ only in case, punctuation, or "a" and "an"."""
    return digest(f"{image} {comparable(text)}")
