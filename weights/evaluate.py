"""The scenes that the embedded model is measured on, and its metrics: gains, costs, probes, strengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import measure
import numpy as np
import torch
from described import DescribedScenes, describe
from measure import EmbeddedScenes
from torch import Tensor

import labclip
from labclip import LABCLIP, metrics
from labclip.alignment import align
from labclip.scenes.renderer import render
from labclip.scenes.vocabulary import HELD_OUT
from labclip.scenes.world import draw_scenes

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MIXED = 20_000  # scenes of two objects in the fit on both; it has half as many of three


class TestScenes:
    """Scenes that no training uses, drawn and rendered once for the models of all seeds."""

    def __init__(self) -> None:
        self.seen = describe(3000, seed=3_000_000, split="seen")
        self.heldout = describe(3000, seed=3_000_001, split="heldout")
        self.validation = describe(2000, seed=3_000_002, split="validation")
        self.gallery = describe(20 * measure.CANDIDATES, seed=3_000_003, split="all")
        self.singles, _ = draw_scenes(2400, seed=3_000_004, split="all", n_objects=1)
        self.single_images = render(self.singles)
        self.three = describe(3000, seed=3_000_005, split="seen", n_objects=3)
        self.three_gallery = describe(20 * measure.CANDIDATES, seed=3_000_006, split="all", n_objects=3)
        self.three_fit = describe(MIXED // 2, seed=3_000_007, split="seen", n_objects=3)

    def results(
        self, model: LABCLIP, fit_scenes: DescribedScenes, embedded: tuple[EmbeddedScenes, Tensor],
        fit: Callable[..., Tensor],
    ) -> dict[str, Any]:  # fmt: skip
        """Measure a model with its matrix, and with a second matrix that is fitted on scenes of three objects too.

        Args:
            model: With the matrix that was fitted on `fit_scenes`.
            fit_scenes: The scenes of the fit, of two objects; the probes are trained on them.
            embedded: Their embeddings, and an image of each with the colours swapped, [n, dim].
            fit: Fits a matrix on several such pairs.
        """
        scenes = {name: getattr(self, name).embed(model) for name in ("seen", "heldout", "validation", "three")}
        scenes["heldout_both"] = scenes["heldout"][both_unseen(self.heldout)]
        two, swapped_images = embedded
        scenes["fit"] = two[:3000]
        galleries = self._galleries(model)
        three = self.three_fit.embed(model)
        mixed_matrix = fit((two[:MIXED], swapped_images[:MIXED]), (three, self.three_fit.embed_swapped(model)))
        singles = measure.embed_images(model, self.single_images)
        prompts = measure.embed_texts(model, measure.single_prompts())
        dim = len(prompts[0])

        def measured(matrix: Tensor) -> dict[str, float]:
            aligned = partial(align, matrix=matrix, normalize=True)
            values = {f"binding_{name}": measure.sentence_binding(group, matrix) for name, group in scenes.items()}
            values["query_three"] = measure.query_binding(scenes["three"], matrix)
            for name, (images, texts) in galleries.items():
                values[f"{name}_t2i_r1"], values[f"{name}_i2t_r1"] = measure.recall_at_1(images, aligned(texts))
            values["single_object"] = measure.single_object(singles, aligned(prompts), self.singles)
            seen = scenes["seen"]
            values["modality_gap"] = metrics.modality_gap(seen.images, aligned(seen.captions[:, 0]))
            return {name: round(value, 4) for name, value in values.items()}

        eye, fitted = torch.eye(dim), model.alignment.fitted
        evaluated = labclip.evaluate(model, "scenes", cache=None, progress=False)["scenes"].to_json(("base", "labclip"))
        return {
            "scenes": {
                side: {metric: round(value, 4) for metric, value in values.items()}
                for side, values in evaluated["models"].items()
            },
            "base": measured(eye),
            "labclip": measured(model.alignment.matrix),
            "fitted_on_both": measured(mixed_matrix),
            "strengths": {f"{strength:g}": measured(torch.lerp(eye, fitted, strength)) for strength in STRENGTHS},
            "probes": probe_both(fit_scenes, two, self.seen, scenes["seen"]),
            "probes_three": probe_both(self.three_fit, three, self.three, scenes["three"]),
            "strength": model.alignment.strength,
            "distance_from_identity": round((model.alignment.matrix - eye).norm().item(), 2),
        }

    def _galleries(self, model: LABCLIP) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and texts of galleries of 256 scenes without repeated words, [256 m, dim] each.

        In "with_swapped" each scene is followed by itself with the colours swapped.
        """
        rows = measure.gallery_rows(self.gallery.layout)
        embedded, layout = self.gallery.embed(model)[rows], self.gallery.layout[rows]
        sentences, swapped = embedded.captions[:, 0], embedded.swapped[:, 0]
        half = np.arange(0, len(rows), 2)
        swapped_scenes = replace(layout[half], colours=layout.colours[half][:, ::-1].copy())
        swapped_images = measure.embed_images(model, render(swapped_scenes))

        def interleave(first: Tensor, second: Tensor) -> Tensor:
            return torch.stack([first, second], dim=1).flatten(0, 1)

        three = self.three_gallery.embed(model)[measure.gallery_rows(self.three_gallery.layout)]
        return {
            "sentences": (embedded.images, sentences),
            "tags": (embedded.images, embedded.tags),
            "tags_three": (three.images, three.tags),
            "with_swapped": (
                interleave(embedded.images[half], swapped_images), interleave(sentences[half], swapped[half])
            ),
        }  # fmt: skip


def both_unseen(scenes: DescribedScenes) -> Tensor:
    """Whether both objects of a scene are held-out pairs, bool [n]."""
    return torch.from_numpy(HELD_OUT[scenes.layout.colours, scenes.layout.shapes].all(axis=1))


def probe_both(
    train: DescribedScenes, train_embedded: EmbeddedScenes, test: DescribedScenes, test_embedded: EmbeddedScenes
) -> dict[str, float]:
    """Accuracy of linear probes on image and on text embeddings, trained on at most 20,000 scenes."""
    layout, train_embedded = train.layout[:20_000], train_embedded[:20_000]
    image = measure.probe(train_embedded.images, layout, test_embedded.images, test.layout)
    text = measure.probe(train_embedded.captions[:, 0], layout, test_embedded.captions[:, 0], test.layout)
    return {"image": round(image, 4), "text": round(text, 4), "chance": round(1 / 12, 4)}
