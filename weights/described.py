"""Scenes with their captions, rendered once and embedded by each model; and what `labclip.fit` is given of them."""

from __future__ import annotations

from dataclasses import dataclass

import measure
import numpy as np
import torch
from numpy.typing import NDArray
from pretrain import render_all
from torch import Tensor

from labclip import LABCLIP, Features
from labclip.scenes import captions
from labclip.scenes.renderer import Layout
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import draw_scenes


@dataclass(frozen=True)
class Embedded:
    """Unit-length embeddings of n scenes, k sentences each.

    Attributes:
        images: [n, dim].
        captions: Sentences, [n, k, dim].
        swapped: The same sentences with the colours swapped, [n, k, dim].
        parts: Each object alone, such as "a red cube", [n, objects, dim].
        swapped_parts: The same with its colour after the swap, [n, objects, dim].
        tags: Captions that do not bind, [n, dim].
    """

    images: Tensor
    captions: Tensor
    swapped: Tensor
    parts: Tensor
    swapped_parts: Tensor
    tags: Tensor

    def __getitem__(self, rows: slice | Tensor | NDArray[np.int64]) -> Embedded:
        return Embedded(*(part[rows] for part in vars(self).values()))


@dataclass(frozen=True)
class DescribedScenes:
    """Scenes and their captions, to be embedded by the model of any seed."""

    images: NDArray[np.uint8]
    layout: Layout
    swapped_colours: NDArray[np.int64]
    sentences: list[list[str]]
    swapped: list[list[str]]
    tags: list[str]

    def embed(self, model: LABCLIP) -> Embedded:
        """Embeddings by the base; each different caption is encoded once."""
        texts = sorted(
            {*self.tags, *(text for side in (self.sentences, self.swapped) for part in side for text in part)}
        )
        place = {text: i for i, text in enumerate(texts)}
        table = measure.embed_texts(model, texts)
        objects = measure.embed_texts(model, measure.single_prompts()).view(len(COLOURS), len(SHAPES), -1)

        def rows(part: list[str]) -> Tensor:
            return table[[place[text] for text in part]]

        return Embedded(
            images=measure.embed_images(model, self.images),
            captions=torch.stack([rows(part) for part in self.sentences], dim=1),
            swapped=torch.stack([rows(part) for part in self.swapped], dim=1),
            parts=objects[self.layout.colours, self.layout.shapes],
            swapped_parts=objects[self.swapped_colours, self.layout.shapes],
            tags=rows(self.tags),
        )


def describe(n: int, *, seed: int, split: str, n_objects: int = 2, wordings: int = 2) -> DescribedScenes:
    """Draw, render and describe `n` scenes of two or three objects, with `wordings` sentences each."""
    layout, swapped = draw_scenes(n, seed=seed, split=split, n_objects=n_objects)
    rng = np.random.default_rng([seed, 0xFACE])
    templates = captions.draw_templates(rng, n, wordings, n_objects)
    pairs = [captions.sentences(rng, layout.colours, layout.shapes, swapped, templates[:, i]) for i in range(wordings)]
    return DescribedScenes(
        images=render_all(layout),
        layout=layout,
        swapped_colours=swapped,
        sentences=[right for right, _ in pairs],
        swapped=[wrong for _, wrong in pairs],
        tags=captions.tags(rng, layout.colours, layout.shapes),
    )


def distinct(layout: Layout) -> NDArray[np.int64]:
    """The first scene of each set of colours and shapes: among them each caption has one right image."""
    contents = np.concatenate([np.sort(layout.colours, axis=1), np.sort(layout.shapes, axis=1)], axis=1)
    return np.sort(np.unique(contents, axis=0, return_index=True)[1])


def to_fit(*scenes: Embedded) -> Features:
    """What a matrix is fitted on, of scenes of any numbers of objects together: sentences, parts, tags.

    A sentence and a part have the swapped one as their negative. Tags are right for both, so they have none; they stand
    twice, as there are two of each of the others.
    """
    texts, negatives, index, count = [], [], [], 0
    for part in scenes:
        tags = part.tags[:, None].expand(-1, 2, -1)
        for right, wrong in ((part.captions, part.swapped), (part.parts, part.swapped_parts), (tags, tags)):
            texts.append(right.flatten(0, 1))
            negatives.append(wrong.flatten(0, 1))  # a row equal to its caption's own is no negative
            index.append(torch.arange(count, count + len(right)).repeat_interleave(right.shape[1]))
        count += len(part.images)
    return Features.from_arrays(
        images=torch.cat([part.images for part in scenes]),
        texts=torch.cat(texts),
        negatives=torch.cat(negatives),
        image_index=torch.cat(index),
    )


def to_select(*parts: Embedded) -> Features:
    """Sentences and the swapped ones of some scenes, to select a strength on."""
    images = torch.cat([scenes.images for scenes in parts])
    sentences, swapped = (
        torch.cat([getattr(scenes, side).flatten(0, 1) for scenes in parts]) for side in ("captions", "swapped")
    )
    index = torch.arange(len(images)).repeat_interleave(len(sentences) // len(images))
    return Features.from_arrays(images=images, texts=sentences, negatives=swapped, image_index=index)
