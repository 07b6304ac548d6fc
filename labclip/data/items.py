"""One row of a table: an image, what is said of it, and what is wrongly said of it."""

from __future__ import annotations

from dataclasses import dataclass

from labclip.data.images import ImageSource


@dataclass(frozen=True)
class Item:
    """An image with its captions.

    Attributes:
        image: Where the image is; None where the table names none.
        captions: What is said of it.
        negatives: Per caption its hard negatives.
        place: Its row, for messages, for example "captions.csv row 7".
    """

    image: ImageSource | None
    captions: tuple[str, ...]
    negatives: tuple[tuple[str, ...], ...]
    place: str


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used: where it is, the image's name or "", and what is wrong with it."""

    place: str
    image: str
    reason: str
