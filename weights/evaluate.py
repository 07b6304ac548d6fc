"""The scenes the embedded model is measured on, and the measurements: gains, costs, probes, strengths."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import measure
import numpy as np
import torch
from described import DescribedScenes, Embedded, describe
from torch import Tensor

import labclip
from labclip import LABCLIP, metrics
from labclip.alignment import align
from labclip.scenes.renderer import Layout, render
from labclip.scenes.vocabulary import HELD_OUT
from labclip.scenes.world import draw_scenes

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MIXED = 20_000  # scenes of two objects, and half as many of three, in the fit on both


class TestScenes:
    """Scenes that no training used, drawn and rendered once, for the models of all seeds."""

    def __init__(self) -> None:
        self.seen = describe(3000, seed=3_000_000, split="seen")
        self.heldout = describe(3000, seed=3_000_001, split="heldout")
        self.validation = describe(2000, seed=3_000_002, split="validation")
        self.gallery = describe(20 * 330, seed=3_000_003, split="all")
        self.singles, _ = draw_scenes(2400, seed=3_000_004, split="all", n_objects=1)
        self.single_images = render(self.singles)
        self.three = describe(3000, seed=3_000_005, split="seen", n_objects=3)
        self.three_gallery = describe(20 * 330, seed=3_000_006, split="all", n_objects=3)
        self.three_learnt = describe(MIXED // 2, seed=3_000_007, split="seen", n_objects=3)

    def results(
        self,
        model: LABCLIP,
        learnt: DescribedScenes,
        embedded: tuple[Embedded, Tensor],
        fit: Callable[..., Tensor],
    ) -> dict[str, Any]:
        """Measure a model with its matrix, and with another that was fitted on scenes of three objects too.

        Args:
            model: With the matrix that was fitted on `learnt`.
            learnt: The scenes of the fit, of two objects; the probes are trained on them.
            embedded: Their embeddings, and those of an image of each with the colours swapped, [n, dim].
            fit: Gives the matrix for several such pairs: here scenes of two and of three objects.
        """
        parts = {name: getattr(self, name).embed(model) for name in ("seen", "heldout", "validation", "three")}
        two_unseen = torch.from_numpy(HELD_OUT[self.heldout.layout.colours, self.heldout.layout.shapes].all(axis=1))
        parts["heldout_both"] = parts["heldout"][two_unseen]
        features, swapped_images = embedded
        parts["fit"] = features[:3000]
        gallery = self._gallery(model)
        three = self.three_learnt.embed(model)
        both = fit((features[:MIXED], swapped_images[:MIXED]), (three, self.three_learnt.embed_swapped(model)))
        singles = measure.embed_images(model, self.single_images)
        prompts = measure.embed_texts(model, measure.single_prompts())
        dim = len(prompts[0])

        def figures(matrix: Tensor) -> dict[str, float]:
            text = partial(align, matrix=matrix, normalize=True)
            found = {f"binding_{name}": measure.sentence_binding(part, matrix) for name, part in parts.items()}
            found["query_three"] = measure.query_binding(parts["three"], matrix)
            for name, (images, texts) in gallery.items():
                found[f"{name}_t2i_r1"], found[f"{name}_i2t_r1"] = measure.recall_at_1(images, text(texts))
            found["single_object"] = measure.single_object(singles, text(prompts), self.singles)
            found["modality_gap"] = metrics.modality_gap(parts["seen"].images, text(parts["seen"].captions[:, 0]))
            return {key: round(value, 4) for key, value in found.items()}

        eye, fitted = torch.eye(dim), model.alignment.fitted
        evaluated = labclip.evaluate(model, "scenes", cache=None, progress=False)["scenes"].to_json(("base", "labclip"))
        return {
            "scenes": {
                side: {metric: round(value, 4) for metric, value in found.items()}
                for side, found in evaluated["models"].items()
            },
            "base": figures(eye),
            "labclip": figures(model.alignment.matrix),
            "fitted_on_both": figures(both),
            "strengths": {f"{s:g}": figures(torch.lerp(eye, fitted, s)) for s in STRENGTHS},
            "probes": self._probes(learnt, features, self.seen, parts["seen"]),
            "probes_three": self._probes(self.three_learnt, three, self.three, parts["three"]),
            "strength": model.alignment.strength,
            "distance_from_identity": round((model.alignment.matrix - eye).norm().item(), 2),
        }

    def _gallery(self, model: LABCLIP) -> dict[str, tuple[Tensor, Tensor]]:
        """Galleries of 256: no two scenes of the same words; and each scene beside itself with the colours swapped."""
        layout = self.gallery.layout
        rows = measure.gallery_rows(layout, 330)
        features = self.gallery.embed(model)
        scenes = layout[rows]
        first = np.arange(0, len(rows), 2)
        swapped_scenes = Layout(**{**vars(scenes[first]), "colours": scenes.colours[first][:, ::-1].copy()})
        images, swapped_images = features.images[rows], measure.embed_images(model, render(swapped_scenes))
        sentences, swapped = features.captions[rows, 0], features.swapped[rows, 0]

        three = self.three_gallery.embed(model)
        three_rows = measure.gallery_rows(self.three_gallery.layout, 330)

        def woven(one: Tensor, other: Tensor) -> Tensor:
            return torch.stack([one, other], dim=1).flatten(0, 1)

        return {
            "sentences": (images, sentences),
            "tags": (images, features.tags[rows]),
            "tags_three": (three.images[three_rows], three.tags[three_rows]),
            "with_swapped": (woven(images[first], swapped_images), woven(sentences[first], swapped[first])),
        }

    @staticmethod
    def _probes(
        learnt: DescribedScenes, learnt_features: Embedded, asked: DescribedScenes, asked_features: Embedded
    ) -> dict[str, float]:
        """Accuracy of linear probes on each side, trained on some scenes, tested on new ones."""
        n = 20_000
        scenes = learnt.layout[:n]
        image = measure.probe(learnt_features.images[:n], scenes, asked_features.images, asked.layout)
        text = measure.probe(learnt_features.captions[:n, 0], scenes, asked_features.captions[:, 0], asked.layout)
        return {"image": round(image, 4), "text": round(text, 4), "chance": round(1 / 12, 4)}
