"""The scenes the embedded model is measured on, and the measurements: gains, costs, probes, strengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fit import Features
from numpy.typing import NDArray
from pretrain import render_all
from torch import Tensor
from torch.nn import functional as F

from labclip import LABCLIP, metrics
from labclip.scenes import captions, measure
from labclip.scenes.renderer import Layout, render
from labclip.scenes.vocabulary import PAIRS
from labclip.scenes.world import draw_scenes

STRENGTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class DescribedScenes:
    """Scenes and their captions, to be embedded by the model of any seed."""

    images: NDArray[np.uint8]
    layout: Layout
    sentences: list[list[str]]
    swapped: list[list[str]]
    tags: list[str]

    def embed(self, model: LABCLIP) -> Features:
        """Embeddings by the base; each different caption is encoded once."""
        texts = sorted(
            {*self.tags, *(text for side in (self.sentences, self.swapped) for part in side for text in part)}
        )
        place = {text: i for i, text in enumerate(texts)}
        table = measure.embed_texts(model, texts)

        def rows(part: list[str]) -> Tensor:
            return table[[place[text] for text in part]]

        return Features(
            images=measure.embed_images(model, self.images),
            captions=torch.stack([rows(part) for part in self.sentences], dim=1),
            swapped=torch.stack([rows(part) for part in self.swapped], dim=1),
            tags=rows(self.tags),
        )


def describe(n: int, *, seed: int, split: str, wordings: int = 2) -> DescribedScenes:
    """Draw, render and describe `n` scenes of two objects, with `wordings` sentences each."""
    layout, swapped = draw_scenes(n, seed=seed, split=split)
    rng = np.random.default_rng([seed, 0xFACE])
    templates = captions.draw_templates(rng, n, wordings)
    pairs = [captions.sentences(rng, layout.colours, layout.shapes, swapped, templates[:, i]) for i in range(wordings)]
    return DescribedScenes(
        images=render_all(layout),
        layout=layout,
        sentences=[right for right, _ in pairs],
        swapped=[wrong for _, wrong in pairs],
        tags=captions.tags(rng, layout.colours, layout.shapes),
    )


class TestScenes:
    """Scenes that no training used, drawn and rendered once, for the models of all seeds."""

    def __init__(self) -> None:
        self.seen = describe(3000, seed=3_000_000, split="seen")
        self.heldout = describe(3000, seed=3_000_001, split="heldout")
        self.validation = describe(2000, seed=3_000_002, split="validation")
        self.gallery = describe(20 * 330, seed=3_000_003, split="all")
        self.singles, _ = draw_scenes(2400, seed=3_000_004, split="all", n_objects=1)
        self.single_images = render(self.singles)

    def results(self, model: LABCLIP, learnt: DescribedScenes, learnt_features: Features) -> dict[str, Any]:
        """Measure a model with its matrix; probes are trained on the scenes of the fit and their embeddings."""
        parts = {name: getattr(self, name).embed(model) for name in ("seen", "heldout", "validation")}
        table = PAIRS.table(PAIRS.test)
        both = torch.from_numpy(table[self.heldout.layout.colours, self.heldout.layout.shapes].all(axis=1))
        parts["heldout_both"] = Features(*(part[both] for part in vars(parts["heldout"]).values()))
        parts["fit"] = Features(*(part[:3000] for part in vars(learnt_features).values()))
        gallery = self._gallery(model)
        singles = measure.embed_images(model, self.single_images)
        prompts = measure.embed_texts(model, measure.single_prompts())
        dim = len(prompts[0])

        def figures(matrix: Tensor) -> dict[str, float]:
            def text(features: Tensor) -> Tensor:
                return F.normalize(features @ matrix.T, dim=-1)

            found = {}
            for name, part in parts.items():
                images = part.images.repeat_interleave(part.captions.shape[1], dim=0)
                found[f"binding_{name}"] = measure.binding(
                    images, text(part.captions.flatten(0, 1)), text(part.swapped.flatten(0, 1))
                )
            for name, (images, texts) in gallery.items():
                found[f"{name}_t2i_r1"], found[f"{name}_i2t_r1"] = measure.recall_at_1(images, text(texts))
            found["single_object"] = measure.single_object(singles, text(prompts), self.singles)
            found["modality_gap"] = metrics.modality_gap(parts["seen"].images, text(parts["seen"].captions[:, 0]))
            return {key: round(value, 4) for key, value in found.items()}

        eye, fitted = torch.eye(dim), model.alignment.fitted
        return {
            "base": figures(eye),
            "labclip": figures(fitted),
            "strengths": {f"{s:g}": figures(torch.lerp(eye, fitted, s)) for s in STRENGTHS},
            "probes": self._probes(parts["seen"], learnt, learnt_features),
            "distance_from_identity": round((fitted - eye).norm().item(), 2),
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

        def woven(one: Tensor, other: Tensor) -> Tensor:
            return torch.stack([one, other], dim=1).flatten(0, 1)

        return {
            "sentences": (images, sentences),
            "tags": (images, features.tags[rows]),
            "with_swapped": (woven(images[first], swapped_images), woven(sentences[first], swapped[first])),
        }

    def _probes(self, seen: Features, learnt: DescribedScenes, learnt_features: Features) -> dict[str, float]:
        """Accuracy of linear probes on each side, trained on scenes of the fit, tested on new ones."""
        n = 20_000
        scenes, asked = learnt.layout[:n], self.seen.layout
        image = measure.probe(learnt_features.images[:n], scenes, seen.images, asked)
        text = measure.probe(learnt_features.captions[:n, 0], scenes, seen.captions[:, 0], asked)
        return {"image": round(image, 4), "text": round(text, 4), "chance": round(1 / 12, 4)}
