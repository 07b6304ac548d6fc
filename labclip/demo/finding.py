"""The finding and its repair on the embedded model: base against LABCLIP on new scenes, in numbers and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from labclip.analysis.probes import probe
from labclip.analysis.scenes import labels_of
from labclip.data.scene_files import labelled_scenes
from labclip.encode.encoder import Encoder
from labclip.evaluation.evaluate import evaluate
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task
from labclip.model import LABCLIP
from labclip.scenes import render, sample

_EXAMPLES = 3  # scenes of each kind in the figure
_KINDS: dict[str, dict[str, Any]] = {
    "seen": {"split": "seen"},
    "heldout": {"split": "heldout"},
    "three": {"split": "seen", "n_objects": 3},
}
_PROBE_SCENES = 4000  # to train the probes on
ROWS = {
    "binding": "right against swapped caption, seen pairs",
    "binding_heldout": "right against swapped caption, unseen pairs",
    "binding_three": "right against swapped caption, three objects",
    "t2i_r1": "image search by sentence (R@1)",
    "tags_t2i_r1": "image search by tags (R@1; no binding)",
    "one_object_acc1": "zero-shot accuracy, one object of 120",
}


@dataclass(frozen=True)
class Example:
    """One scene as both models see it.

    Attributes:
        image: uint8 [256, 256, 3].
        captions: The right caption, and the one with the colours swapped.
        kind: "seen": two objects, their colour-shape pairs were in the fit; "heldout": at least one was not; "three":
            three objects.
        base: Cosines of the base with the two captions.
        labclip: Those of LABCLIP.
        base_probability: What the base gives the right one of the two, by a softmax at its own temperature.
        labclip_probability: The same of LABCLIP.
    """

    image: NDArray[np.uint8]
    captions: tuple[str, str]
    kind: str
    base: tuple[float, float]
    labclip: tuple[float, float]
    base_probability: float
    labclip_probability: float


@dataclass(frozen=True)
class Demo:
    """What a run found; `str` is a report of it.

    Attributes:
        results: Plain JSON, see `run`.
        examples: The first scenes of the draw: of seen pairs, with an unseen one, of three objects.
    """

    results: dict[str, Any]
    examples: list[Example]

    def __str__(self) -> str:
        shown = self.examples[: 2 * _EXAMPLES + 1]  # one of three objects, to stay short
        return "\n".join([*_table(self.results), "", *_examples_table(shown)])


def run(*, n: int = 1000, seed: int = 0, model: LABCLIP | None = None, progress: bool = False) -> Demo:
    """Measure a model on new scenes, and keep a few of them as examples.

    Args:
        n: Scenes per metric.
        seed: Seed of the scenes; no training used any below a million.
        model: What to measure; by default the embedded model.
        progress: Whether to show bars on stderr.

    Returns:
        A `Demo`, whose `results` have `base`, `labclip` and `chance`, each with the metrics of
        `labclip.evaluate("scenes", "scenes")` that `ROWS` names, and `binding_three`; `probes` with `image`, `text` and
        `chance`; `n`; `seed`. All are fractions of 1.

    Raises:
        ValueError: If there are too few scenes to measure anything.
    """
    model = LABCLIP.from_pretrained("scenes") if model is None else model
    options = {name: {"n": n, "seed": seed} for name in ("scenes", "three")}
    report = evaluate(model, ["scenes", _THREE], options=options, cache=None, progress=progress)
    metrics = {one.metric: one for found in report.results for one in found.compared}
    estimates = {key: metrics[key].estimates for key in ROWS}
    found = {
        side: {key: round(both[place].value, 4) for key, both in estimates.items()}
        for place, side in enumerate(("base", "labclip"))
    }
    found["chance"] = {key: round(both[0].chance or 0.0, 4) for key, both in estimates.items()}
    labelled = labelled_scenes(_PROBE_SCENES, seed=seed + 500_000)
    encoder = Encoder(model, progress=progress)
    sides = {
        "image": np.array([one.row for one in encoder.images(labelled.images)]),
        "text": encoder.texts(labelled.captions),
    }
    labels = labels_of(labelled.objects)
    probes = {side: probe(rows, labels, seed=seed).accuracy for side, rows in sides.items()}
    found["probes"] = {side: round(one.value, 4) for side, one in probes.items()}
    found["probes"]["chance"] = round(probes["image"].chance or 0.0, 4)
    examples = [example for kind in _KINDS for example in _examples(model, kind, seed, n)]
    return Demo({**found, "n": n, "seed": seed}, examples)


def _three(sources: Sources, *, n: int = 1000, seed: int = 0) -> Task:
    """`binding_three`: scenes of three objects, two of whose colours are swapped."""
    scenes, items = sample(n, seed=seed, **_KINDS["three"]), Items(sources)
    for number, captions in enumerate(zip(scenes.captions, scenes.swapped_captions, strict=True)):
        name = f"scene {number} of three objects, seed {seed}"
        items.add(sources.image_in_memory(scenes.images[number], name), [text or "" for text in captions], name)
    return sources.task(*items.question("binding_three"))


_THREE = Benchmark("three", "Embedded scenes of three objects", "binding", _three)


def _examples(model: LABCLIP, kind: str, seed: int, n: int) -> list[Example]:
    """The first scenes of a kind, of `n` that are drawn."""
    scenes, found = sample(n, seed=seed, **_KINDS[kind]), []
    scales = [scale.detach().float().exp() for scale in (model.clip.logit_scale, model.logit_scale)]
    large = scenes.layout[:_EXAMPLES]
    for number, drawn in enumerate(render(large, 256)):
        words = scenes.captions[number], scenes.swapped_captions[number] or ""
        with torch.inference_mode():
            image = model.encode_image(Image.fromarray(scenes.images[number]), normalize=True)[0].float()
            captions = model.encode_text(list(words), normalize=True, aligned=False).float()
            cosines = captions @ image, model.alignment(captions, normalize=True) @ image
        base, aligned = (tuple(one.tolist()) for one in cosines)
        probabilities = [
            torch.softmax(one * scale, dim=0)[0].item() for one, scale in zip(cosines, scales, strict=True)
        ]
        found.append(Example(drawn, words, kind, base, aligned, *probabilities))
    return found


def _table(found: dict[str, Any]) -> list[str]:
    """The metrics of base and LABCLIP, and the probes, in lines."""
    probes, sides = found["probes"], ("base", "labclip", "chance")
    return [
        f"{found['n']:,} new scenes per metric, seed {found['seed']}. No training used them, nor any scene of three.",
        "",
        f"{'accuracy':46}{'CLIP':>8}{'LABCLIP':>10}{'chance':>9}",
        *(
            f"{label:46}"
            + "".join(f"{found[side][key]:{width}.3f}" for side, width in zip(sides, (8, 10, 9), strict=True))
            for key, label in ROWS.items()
        ),
        "",
        "Linear probes read the colour of each shape from one embedding alone, in unseen combinations:",
        f"    image {probes['image']:.3f}, caption {probes['text']:.3f}, chance {probes['chance']:.3f}.",
        "    Both encoders know which colour belongs to which shape. CLIP's cosine between them loses it;",
        "    one matrix on the text embedding restores it.",
    ]


_REMARKS = {"seen": "", "heldout": "(unseen pair)", "three": "(three objects)"}


def _examples_table(examples: list[Example]) -> list[str]:
    """The examples in lines: two captions each with the cosines of both models."""
    width = max(len(caption) for example in examples for caption in example.captions) + 11
    lines = [f"{'Cosine of the image with each caption, first scenes':{width}}{'CLIP':>8}{'LABCLIP':>15}"]
    for example in examples:
        for i, kind in enumerate(("right", "swapped")):
            line = f"{kind:>9}  {example.captions[i]}".ljust(width)
            for cosines in (example.base, example.labclip):
                verdict = "" if i else " ok" if cosines[0] > cosines[1] else " WRONG"
                line += f"{cosines[i]:8.3f}{verdict:7}"
            lines.append(line.rstrip() if i else f"{line}{_REMARKS[example.kind]}".rstrip())
    return lines
