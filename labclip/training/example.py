"""The held-out caption that the page of a fit shows."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from labclip.alignment import Alignment
from labclip.data.images import ImageSource
from labclip.features.features import Features
from labclip.report.example import ShownItem, choose
from labclip.training.change import right
from labclip.training.frontier import HeldOut


def example_of(held: HeldOut, features: Features, alignment: Alignment) -> ShownItem | None:
    """A held-out caption, the negative that the base prefers, and its image where that is found.

    `features` are what `held` was drawn from. None where they do not know their captions.
    """
    assert held.negatives is not None
    assert held.has_negative is not None
    asked = held.has_negative.any(dim=1).nonzero().flatten()
    place, chosen = choose([right(held, one)[asked].numpy() for one in (torch.eye(alignment.dim), alignment.matrix)])
    row = int(asked[place])
    caption = int(held.captions[row])
    known = row_of(features, "caption", caption)
    if known is None:
        return None
    image, negatives = held.images[held.image_index[row]], held.negatives[row]
    wrong = int((negatives @ image).masked_fill(~held.has_negative[row], -2.0).argmax())
    base = torch.stack([held.texts[row], negatives[wrong]])
    return ShownItem.of(
        _image(features, int(features.image_index[caption])),
        (known["caption"], known["negatives"][wrong]),
        image,
        {"base": base, "LABCLIP": alignment(base, normalize=True)},
        chosen,
    )


def row_of(features: Features, kind: str, row: int) -> dict[str, Any] | None:
    """What a feature folder knows of an "image" or a "caption"; None where it does not."""
    path = features.folder and features.folder / f"{kind}s.jsonl"
    if not path or not path.is_file():
        return None
    with path.open(encoding="utf-8") as lines:
        found: dict[str, Any] = json.loads(next(islice(lines, row, None)))
        return found


def _image(features: Features, row: int) -> ImageSource | None:
    """An image that lies beside the one file of captions, where that is still the one that was embedded."""
    inputs, named = features.manifest.get("inputs") or [], row_of(features, "image", row)
    if len(inputs) != 1 or named is None:
        return None
    captions = Path(inputs[0]["name"])
    if not captions.is_file() or captions.stat().st_size != inputs[0]["bytes"]:
        return None
    return ImageSource(named["image"], captions.parent / named["image"])
