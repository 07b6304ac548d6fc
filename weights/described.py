"""Scenes with their captions, rendered once and embedded by each model, and the features that `labclip.fit` gets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import measure
import numpy as np
import torch
from measure import EmbeddedScenes
from numpy.typing import NDArray
from pretrain import draw_templates, render_all
from torch import Tensor

from labclip import LABCLIP, Features
from labclip.scenes import captions
from labclip.scenes.renderer import Layout
from labclip.scenes.vocabulary import COLOURS, SHAPES
from labclip.scenes.world import draw_scenes


@dataclass(frozen=True)
class DescribedScenes:
    """n scenes and their captions, to be embedded by the model of any seed.

    Attributes:
        images: Rendered at 64 pixels, [n, 64, 64, 3].
        layout: Colours, shapes and positions.
        swapped_colours: The colours of the swapped captions, [n, objects].
        sentences: k lists of n sentences.
        swapped: The same with the colours swapped.
        tags: n captions that do not bind.
    """

    images: NDArray[np.uint8]
    layout: Layout
    swapped_colours: NDArray[np.int64]
    sentences: list[list[str]]
    swapped: list[list[str]]
    tags: list[str]

    def embed(self, model: LABCLIP) -> EmbeddedScenes:
        """Embeddings by the base. Equal captions are encoded once."""
        texts = sorted({*self.tags, *itertools.chain(*self.sentences, *self.swapped)})
        row_of_text = {text: row for row, text in enumerate(texts)}
        table = measure.embed_texts(model, texts)
        objects = measure.embed_texts(model, measure.single_prompts()).view(len(COLOURS), len(SHAPES), -1)

        def rows(captions: list[str]) -> Tensor:
            return table[[row_of_text[caption] for caption in captions]]

        return EmbeddedScenes(
            images=measure.embed_images(model, self.images),
            captions=torch.stack([rows(captions) for captions in self.sentences], dim=1),
            swapped=torch.stack([rows(captions) for captions in self.swapped], dim=1),
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
    templates = draw_templates(rng, n, wordings, n_objects)
    pairs = [captions.sentences(rng, layout.colours, layout.shapes, swapped, templates[:, i]) for i in range(wordings)]
    sentences, swapped_sentences = map(list, zip(*pairs, strict=True))
    tags = captions.tags(rng, layout.colours, layout.shapes)
    return DescribedScenes(render_all(layout), layout, swapped, sentences, swapped_sentences, tags)


def swapped_scenes(layout: Layout, seed: int) -> NDArray[np.int64]:
    """For each scene of two objects a scene of the same layout that shows it with the colours swapped, int64 [n]."""
    content, swapped = _content(layout.colours, layout.shapes), _content(layout.colours[:, ::-1], layout.shapes)
    order = np.argsort(content, kind="stable")
    start, stop = (np.searchsorted(content[order], swapped, side) for side in ("left", "right"))
    assert (stop > start).all(), "draw more scenes: some have no swapped scene"
    return np.asarray(order[np.random.default_rng([seed, 0x5A9]).integers(start, stop)])


def _content(colours: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for the objects of a scene, whichever is on the left: int64 [n]."""
    pairs = np.sort(colours * len(SHAPES) + shapes, axis=1)
    return np.asarray(pairs[:, 0] * 1000 + pairs[:, 1])


def to_fit(*groups: tuple[EmbeddedScenes, Tensor]) -> Features:
    """The features that a matrix is fitted on: sentences, parts and tags of scenes.

    A sentence and a part have the swapped one as their negative, and an image of the swapped scene. Tags are right for
    both images, so they have no negative. Each stands twice, as there are two sentences and two parts of each scene.

    Args:
        groups: Scenes with the same number of objects, and an image of each with the colours swapped, [n, dim].
    """
    texts, negatives, negative_images, image_index, count = [], [], [], [], 0
    for scenes, swapped_images in groups:
        tags = scenes.tags[:, None].expand(-1, 2, -1)
        for right, wrong, images in (
            (scenes.captions, scenes.swapped, swapped_images),
            (scenes.parts, scenes.swapped_parts, swapped_images),
            (tags, tags, scenes.images),  # a negative equal to its caption does not count
        ):
            n, k = right.shape[:2]
            texts.append(right.flatten(0, 1))
            negatives.append(wrong.flatten(0, 1))
            negative_images.append(images.repeat_interleave(k, dim=0))
            image_index.append(torch.arange(count, count + n).repeat_interleave(k))
        count += len(scenes.images)
    return Features.from_arrays(
        images=torch.cat([scenes.images for scenes, _ in groups]), texts=torch.cat(texts),
        negatives=torch.cat(negatives), negative_images=torch.cat(negative_images), image_index=torch.cat(image_index),
    )  # fmt: skip


def to_select(scenes: EmbeddedScenes) -> Features:
    """The sentences of scenes with the swapped ones as negatives, to select a strength on."""
    return Features.from_arrays(
        images=scenes.images, texts=scenes.captions.flatten(0, 1), negatives=scenes.swapped.flatten(0, 1),
        image_index=torch.arange(len(scenes.images)).repeat_interleave(scenes.captions.shape[1]),
    )  # fmt: skip
