"""LabelledScenes images as embeddings: everything a diagnosis looks at, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labclip.analysis.permutations import shuffled_words
from labclip.analysis.scene_labels import SceneLabels, labels_of
from labclip.checks import described
from labclip.data.scene_files import LabelledScenes, labelled_scenes, read_labelled_scenes
from labclip.encode.cache import Cache, default_cache, encode
from labclip.messages import typed
from labclip.model import LABCLIP


@dataclass(frozen=True, eq=False)
class SceneFeatures:
    """Unit-length embeddings of n scenes by the base, float32 [n, dim] each.

    Attributes:
        labels: What is in the scenes.
        images: Of the images.
        captions: Of the captions.
        swapped: Of the captions with two attributes swapped; the caption's own where there is none.
        has_swapped: Whether there is one, bool [n].
        shuffled: Of the captions' words in another order; the caption's own where there is none.
        has_shuffled: Whether there is one, bool [n].
        tags: Of captions that name objects and attributes without saying which goes with which.
        name: The data in words.
        notes: What was left out, which captions were asked about.
    """

    labels: SceneLabels
    images: Tensor
    captions: Tensor
    swapped: Tensor
    has_swapped: NDArray[np.bool_]
    shuffled: Tensor
    has_shuffled: NDArray[np.bool_]
    tags: Tensor
    name: str = "embeddings"
    notes: Sequence[str] = ()

    def rows(self, keep: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Tensor]:
        """Images, captions and swapped captions of some scenes: what a fit takes."""
        rows = torch.from_numpy(np.flatnonzero(keep))
        return self.images[rows], self.captions[rows], self.swapped[rows]


def read_scenes(
    data: LabelledScenes | str | Path | None, images: str | Path | None = None, *, scenes: int, seed: int
) -> LabelledScenes:
    """LabelledScenes images: those passed, those of a file, or else scenes drawn here.

    Raises:
        FileNotFoundError: If the file or images are missing.
        ValueError: If the file is malformed, `images` is passed without a file, or a number is outside its range.
    """
    if isinstance(data, str | Path):
        return read_labelled_scenes(Path(data).expanduser(), None if images is None else Path(images).expanduser())
    if images is not None:
        raise ValueError(
            f"{typed('images', '--images')} is the folder of the images of {typed('data=PATH', '--data PATH')}. Pass "
            f"that too, or leave both out."
        )
    if data is not None and not isinstance(data, LabelledScenes):
        raise ValueError(f"data is {described(data)}. Pass the path of CLEVR's or PUG's files, or labelled images.")
    return labelled_scenes(scenes, seed=seed, split="all") if data is None else data


def embed_scenes(
    model: LABCLIP,
    labelled: LabelledScenes,
    *,
    seed: int = 0,
    cache: str | Path | bool | None = None,
    progress: bool = True,
) -> SceneFeatures:
    """Encode labelled images and all that is said about them, each caption once.

    Args:
        model: The base, wrapped; its matrix plays no part.
        labelled: The images.
        seed: Of the shuffled words.
        cache: Folder of embeddings, True for the user's own, None or False for none.
        progress: Whether to show bars on stderr.

    Raises:
        ValueError: If there is no image, a single attribute or object, no caption whose attributes can be swapped, or
            an image can't be read.
    """
    if not len(labelled):
        raise ValueError(f"{labelled.name} holds no image. Pass labelled images, or none for scenes drawn here.")
    labels = labels_of(labelled.objects)
    captions = list(labelled.captions)
    swapped, has_swapped = _or_own(labelled.swapped, captions)
    if not has_swapped.any():
        raise ValueError(
            f"No caption of {labelled.name} can have two attributes swapped, so binding can't be measured. Pass scenes "
            f"of two or more objects with different attributes."
        )
    shuffled, has_shuffled = _or_own(shuffled_words(captions, seed), captions)
    parts = [captions, swapped, shuffled, [tags_of(objects) for objects in labelled.objects]]
    texts = {text: row for row, text in enumerate(dict.fromkeys(text for part in parts for text in part))}
    folder = default_cache() if cache is True else Path(cache) if cache else None
    with Cache(folder, model) as known:
        images, features = encode(model, labelled.images, list(texts), cache=known, progress=progress)
    own, swaps, shuffles, tags = (features[[texts[text] for text in part]] for part in parts)
    example = captions[int(has_swapped.argmax())], swapped[int(has_swapped.argmax())]
    return SceneFeatures(
        labels, images, own, swaps, has_swapped, shuffles, has_shuffled, tags, labelled.name,
        [f"Captions are such as {example[0]!r} against {example[1]!r}.", *labelled.notes],
    )  # fmt: skip


def _or_own(texts: Sequence[str | None], own: Sequence[str]) -> tuple[list[str], NDArray[np.bool_]]:
    """Each text, or the caption itself where there is none; and whether there is another one, bool [n]."""
    filled = [one if text is None else text for text, one in zip(texts, own, strict=True)]
    return filled, np.array([text != one for text, one in zip(filled, own, strict=True)])


def tags_of(objects: Sequence[tuple[str, str]]) -> str:
    """The words of a scene without its binding: objects, then attributes, each in the order of the alphabet.

    Example:
        >>> tags_of([("red", "sphere"), ("blue", "cube")])
        'cube sphere blue red'
    """
    return " ".join([*sorted(name for _, name in objects), *sorted(attribute for attribute, _ in objects)])
