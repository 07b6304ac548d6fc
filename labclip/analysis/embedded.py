"""Labelled pictures as embeddings: everything a diagnosis looks at, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.analysis.labels import Labels, labels_of
from labclip.analysis.permutations import shuffled_words
from labclip.data.scene_files import LabelledScenes
from labclip.encode.cache import Cache
from labclip.encode.encoding import encode
from labclip.model import LABCLIP


@dataclass(frozen=True, eq=False)
class Embedded:
    """Unit-length embeddings of n scenes by the base, float32 [n, dim] each.

    Attributes:
        labels: What is in the scenes.
        images: Of the pictures.
        captions: Of the captions.
        swapped: Of the captions with two attributes exchanged; the caption's own where there is none.
        exchanged: Whether there is one, bool [n].
        shuffled: Of the captions' words in another order; the caption's own where there is none.
        reordered: Whether there is one, bool [n].
        tags: Of captions that name objects and attributes without saying which goes with which.
    """

    labels: Labels
    images: Tensor
    captions: Tensor
    swapped: Tensor
    exchanged: NDArray[np.bool_]
    shuffled: Tensor
    reordered: NDArray[np.bool_]
    tags: Tensor

    def rows(self, keep: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures, captions and exchanged captions of some scenes: what a fit takes."""
        rows = torch.from_numpy(np.flatnonzero(keep))
        return self.images[rows], self.captions[rows], self.swapped[rows]


def embed(
    model: LABCLIP, labelled: LabelledScenes, *, seed: int = 0, cache: Cache | None = None, progress: bool = True
) -> Embedded:
    """Encode labelled pictures and all that is said about them, each caption once.

    Args:
        model: The base, wrapped; its matrix plays no part.
        labelled: The pictures.
        seed: Of the shuffled words.
        cache: Embeddings of earlier runs; None keeps none.
        progress: Whether to show bars on stderr.

    Raises:
        ValueError: If there is no picture, a single attribute or object, no caption that can be exchanged, or a picture
            can't be read.
    """
    if not len(labelled):
        raise ValueError(f"{labelled.name} holds no picture. Pass labelled pictures, or none for the embedded scenes.")
    labels = labels_of(labelled.objects)
    exchanged = np.array([text is not None and text != own for text, own in _beside(labelled, labelled.swapped)])
    if not exchanged.any():
        raise ValueError(
            f"No caption of {labelled.name} can have two attributes exchanged, so binding can't be measured. Pass "
            f"scenes of two or more things with different attributes."
        )
    shuffled = shuffled_words(labelled.captions, seed)
    reordered = np.array([text is not None for text in shuffled])
    parts = [
        list(labelled.captions),
        [text if text is not None else own for text, own in _beside(labelled, labelled.swapped)],
        [text if text is not None else own for text, own in _beside(labelled, shuffled)],
        [tags_of(things) for things in labelled.objects],
    ]
    texts = {text: row for row, text in enumerate(dict.fromkeys(text for part in parts for text in part))}
    images, features = encode(model, labelled.images, list(texts), cache=cache, progress=progress)
    captions, swapped, words, tags = (features[[texts[text] for text in part]] for part in parts)
    return Embedded(labels, images, captions, swapped, exchanged, words, reordered, tags)


def _beside(labelled: LabelledScenes, texts: Sequence[str | None]) -> zip[tuple[str | None, str]]:
    return zip(texts, labelled.captions, strict=True)


def tags_of(things: Sequence[tuple[str, str]]) -> str:
    """The words of a scene without its binding: objects, then attributes, each in the order of the alphabet.

    Example:
        >>> tags_of([("red", "sphere"), ("blue", "cube")])
        'cube sphere blue red'
    """
    return " ".join([*sorted(name for _, name in things), *sorted(attribute for attribute, _ in things)])
