"""Captions and negatives in one form, so that nothing but what they say tells them apart."""

from __future__ import annotations

from labclip.data.records import Record
from labclip.negatives.cleaning import clean as clean_text
from labclip.negatives.shuffling import is_shuffle

WORDS = 40
"""Words that a cleaned text keeps, as many as shuffled negatives have."""


def worded(record: Record, clean: bool | None, place: str) -> Record:
    """A row's texts in the form in which they are to be encoded.

    Args:
        record: The row.
        clean: True cleans captions and negatives alike, False takes them as they are. None does too, but is an error
            where a caption that is not clean has a negative that `negatives.shuffle` has cleaned.
        place: The row, for people.

    Returns:
        The row; a caption of which cleaning leaves nothing is among its problems, a negative is gone.

    Raises:
        ValueError: If `clean` is None and a fit could tell caption and negative by their full stop.
    """
    if clean:
        return _cleaned(record)
    if clean is None:
        for caption, negatives in record.captions:
            _check(caption, negatives, place)
    return record


def _cleaned(record: Record) -> Record:
    cleaned = Record(record.picture, [], list(record.problems))
    for raw, negatives in record.captions:
        caption = clean_text(raw, WORDS)
        texts = [clean_text(negative, WORDS) for negative in negatives]
        if caption.strip():
            cleaned.captions.append((caption, list(dict.fromkeys(text for text in texts if text.strip()))))
        else:
            cleaned.problems.append(f"has an empty caption: cleaning leaves nothing of {raw!r}")
    return cleaned


def _check(caption: str, negatives: list[str], place: str) -> None:
    if not negatives or (cleaned := clean_text(caption, WORDS)) == caption:
        return
    for negative in negatives:
        if clean_text(negative, WORDS) == negative and is_shuffle(cleaned, negative):
            raise ValueError(
                f"{place}: the caption {caption!r} is not cleaned, but its negative {negative!r} is (lower case, no "
                f"full stop, {WORDS} words), so a fit would learn that difference instead of the order of words. Pass "
                "clean=True (--clean) to clean both, or clean=False (--as-is) to keep them so; or write the file with "
                "labclip negatives --clean."
            )
