"""The finding and its repair on the embedded model: base against LABCLIP on new scenes, in numbers and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image

from labclip.analysis.probes import probe
from labclip.analysis.scenes import embed_scenes
from labclip.data.scene_files import labelled_scenes
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
_REMARKS = {"seen": "", "heldout": "(unseen pair)", "three": "(three objects)"}
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
    """One scene as both models see it, "base" and "labclip".

    Attributes:
        image: uint8 [256, 256, 3].
        captions: The right caption, and the one with the colours swapped.
        kind: "seen": two objects, their colour-shape pairs were in the fit; "heldout": at least one was not; "three":
            three objects.
        cosines: Of each model with the two captions.
        probabilities: What each model gives the right one of the two, by a softmax at its own temperature.
    """

    image: NDArray[Any]
    captions: tuple[str, str]
    kind: str
    cosines: dict[str, tuple[float, float]]
    probabilities: dict[str, float]


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
        found, probes, shown = self.results, self.results["probes"], self.examples[: 2 * _EXAMPLES + 1]
        n, seed = found["n"], found["seed"]
        width = max(len(caption) for example in shown for caption in example.captions) + 11
        return "\n".join([
            f"{n:,} new scenes per metric, seed {seed}. No training used them, nor any scene of three.",
            "",
            f"{'accuracy':46}{'CLIP':>8}{'LABCLIP':>10}{'chance':>9}",
            *(
                f"{label:46}{found['base'][key]:8.3f}{found['labclip'][key]:10.3f}{found['chance'][key]:9.3f}"
                for key, label in ROWS.items()
            ),
            "",
            "Linear probes read the colour of each shape from one embedding alone, in unseen combinations:",
            f"    image {probes['image']:.3f}, caption {probes['text']:.3f}, chance {probes['chance']:.3f}.",
            "    Both encoders know which colour belongs to which shape. CLIP's cosine between them loses it;",
            "    one matrix on the text embedding restores it.",
            "",
            f"{'Cosine of the image with each caption, first scenes':{width}}{'CLIP':>8}{'LABCLIP':>15}",
            *(line for example in shown for line in _lines(example, width)),
        ])  # fmt: skip


def _lines(example: Example, width: int) -> list[str]:
    """Two captions, each with the cosines of both models."""
    lines = [
        f"{kind:>9}  {text}".ljust(width) for kind, text in zip(("right", "swapped"), example.captions, strict=True)
    ]
    for right, swapped in example.cosines.values():
        lines[0] += f"{right:8.3f}{' ok' if right > swapped else ' WRONG':7}"
        lines[1] += f"{swapped:8.3f}{'':7}"
    return [f"{lines[0]}{_REMARKS[example.kind]}".rstrip(), lines[1].rstrip()]


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
    three = Benchmark("three", "Embedded scenes of three objects", "binding", _three)
    options = {name: {"n": n, "seed": seed} for name in ("scenes", "three")}
    report = evaluate(model, ["scenes", three], options=options, cache=None, progress=progress)
    estimates = {one.metric: one.estimates for found in report.results for one in found.compared}
    labelled = embed_scenes(model, labelled_scenes(_PROBE_SCENES, seed=seed + 500_000), progress=progress)
    sides = {"image": labelled.images, "text": labelled.captions}
    probes = {side: probe(rows, labelled.labels, seed=seed).accuracy for side, rows in sides.items()}
    results = {
        "base": {key: round(estimates[key][0].value, 4) for key in ROWS},
        "labclip": {key: round(estimates[key][1].value, 4) for key in ROWS},
        "chance": {key: round(estimates[key][0].chance or 0.0, 4) for key in ROWS},
        "probes": {side: round(one.value, 4) for side, one in probes.items()}
        | {"chance": round(probes["image"].chance or 0.0, 4)},
        "n": n,
        "seed": seed,
    }
    return Demo(results, [example for kind in _KINDS for example in _examples(model, kind, seed, n)])


def _three(sources: Sources, *, n: int = 1000, seed: int = 0) -> Task:
    """`binding_three`: scenes of three objects, two of whose colours are swapped."""
    scenes, items = sample(n, seed=seed, **_KINDS["three"]), Items(sources)
    for number, captions in enumerate(zip(scenes.captions, scenes.swapped_captions, strict=True)):
        name = f"scene {number} of three objects, seed {seed}"
        items.add(sources.image_in_memory(scenes.images[number], name), [text or "" for text in captions], name)
    return sources.task(*items.question("binding_three"))


def _examples(model: LABCLIP, kind: str, seed: int, n: int) -> list[Example]:
    """The first scenes of a kind, of `n` that are drawn."""
    scenes = sample(n, seed=seed, **_KINDS[kind])
    examples = []
    for number, image in enumerate(render(scenes.layout[:_EXAMPLES], 256)):
        words = scenes.captions[number], scenes.swapped_captions[number] or ""
        with torch.inference_mode():
            seen = model.encode_image(Image.fromarray(scenes.images[number]), normalize=True)[0].float()
            captions = model.encode_text(list(words), normalize=True, aligned=False).float()
            cosines = {"base": captions @ seen, "labclip": model.alignment(captions, normalize=True) @ seen}
            scales = {"base": model.clip.logit_scale.exp(), "labclip": model.logit_scale.exp()}
            probabilities = {name: (cosines[name] * scales[name]).softmax(dim=0)[0].item() for name in cosines}
        pairs = {name: (both[0].item(), both[1].item()) for name, both in cosines.items()}
        examples.append(Example(image, words, kind, pairs, probabilities))
    return examples
