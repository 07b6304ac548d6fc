"""Scenes with their captions, rendered once and embedded by each model; and what `labclip.fit` is given of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    def embed_swapped(self, model: LABCLIP) -> Tensor:
        """Embeddings of the same scenes rendered with the colours swapped, [n, dim]."""
        return measure.embed_images(model, render_all(replace(self.layout, colours=self.swapped_colours)))


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


def swapped_scenes(layout: Layout, seed: int) -> NDArray[np.int64]:
    """For each scene of two objects another of the same layout that shows it with the colours swapped, int64 [n]."""
    content, swapped = _content(layout.colours, layout.shapes), _content(layout.colours[:, ::-1], layout.shapes)
    order = np.argsort(content, kind="stable")
    first, last = (np.searchsorted(content[order], swapped, side) for side in ("left", "right"))
    assert (last > first).all(), "with some ten scenes a content, each has a swapped one"
    return np.asarray(order[np.random.default_rng([seed, 0x5A9]).integers(first, last)])


def _content(colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for what a scene shows, whichever object is on the left: int64 [n]."""
    pairs = np.sort(colours * len(SHAPES) + shapes, axis=1)
    return np.asarray(pairs[:, 0] * 1000 + pairs[:, 1])


def distinct(layout: Layout) -> NDArray[np.int64]:
    """The first scene of each set of colours and shapes: among them each caption has one right image."""
    contents = np.concatenate([np.sort(layout.colours, axis=1), np.sort(layout.shapes, axis=1)], axis=1)
    return np.sort(np.unique(contents, axis=0, return_index=True)[1])


def to_fit(*scenes: tuple[Embedded, Tensor]) -> Features:
    """What a matrix is fitted on, of scenes of any numbers of objects together: sentences, parts, tags.

    A sentence and a part have the swapped one as their negative, and an image of the swapped scene. Tags are right for
    both images, so they have no negative; they stand twice, as there are two of each of the others.

    Args:
        scenes: Embeddings, and an image of each scene with the colours swapped, [n, dim].
    """
    texts, negatives, others, index, count = [], [], [], [], 0
    for part, swapped_images in scenes:
        tags = part.tags[:, None].expand(-1, 2, -1)
        for right, wrong, images in (
            (part.captions, part.swapped, swapped_images),
            (part.parts, part.swapped_parts, swapped_images),
            (tags, tags, part.images),
        ):
            each = right.shape[1]
            texts.append(right.flatten(0, 1))
            negatives.append(wrong.flatten(0, 1))  # a row equal to its caption's own is no negative
            others.append(images.repeat_interleave(each, dim=0))
            index.append(torch.arange(count, count + len(right)).repeat_interleave(each))
        count += len(part.images)
    return Features.from_arrays(
        images=torch.cat([part.images for part, _ in scenes]),
        texts=torch.cat(texts),
        negatives=torch.cat(negatives),
        negative_images=torch.cat(others),
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
