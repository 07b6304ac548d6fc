"""The failure and the fix on the embedded model: base against LABCLIP on new scenes, in numbers and examples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from labclip.analysis.probes import probe
from labclip.analysis.scenes import embed_scenes
from labclip.data.images import ImageSource
from labclip.data.scene_files import labelled_scenes
from labclip.encode.cache import encode
from labclip.evaluation.evaluate import evaluate
from labclip.evaluation.items import Items
from labclip.evaluation.sources import Benchmark, Sources
from labclip.evaluation.tasks import Task
from labclip.model import LABCLIP
from labclip.scenes import COLOURS, SHAPES, render, sample
from labclip.scenes.captions import noun_phrase
from labclip.scenes.vocabulary import HELD_OUT, VALIDATION

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
    "search_map": "search with one object (mean average precision)",
    "search_confused5": "  confused among its top five (lower is better)",
    "one_object_acc1": "zero-shot accuracy, one object of 120",
}
_TOP = 5


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
class SearchExample:
    """What both models, "base" and "labclip", find first with the query that confuses the base most.

    Attributes:
        query: An object in words, for example "a red cube": of the queries by which the base's top five hold most
            confused scenes, the first.
        shown: Scenes of the gallery that show it.
        images: Of each model the top five, uint8 [5, 256, 256, 3].
        answers: Of each model for each of them "right", "confused" (colour and shape on different objects) or
            "neither".
    """

    query: str
    shown: int
    images: dict[str, NDArray[Any]]
    answers: dict[str, list[str]]


@dataclass(frozen=True)
class Demo:
    """What a run found; `str` is a report of it.

    Attributes:
        results: Plain JSON, see `run`.
        examples: The first scenes of the draw: of seen pairs, with an unseen one, of three objects.
        search: What a search finds.
    """

    results: dict[str, Any]
    examples: list[Example]
    search: SearchExample

    def __str__(self) -> str:
        found, probes, shown = self.results, self.results["probes"], self.examples[: 2 * _EXAMPLES + 1]
        n, seed = found["n"], found["seed"]
        width = max(len(caption) for example in shown for caption in example.captions) + 11
        return "\n".join([
            f"{n:,} new scenes per metric, seed {seed}. No training used them, nor any scene of three.",
            "",
            f"{'accuracy':47}{'CLIP':>7}{'LABCLIP':>10}{'chance':>9}",
            *(
                f"{label:47}{found['base'][key]:7.3f}{found['labclip'][key]:10.3f}"
                + ("" if found["chance"][key] is None else f"{found['chance'][key]:9.3f}")
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
            "",
            f"Search for {self.search.query!r}, which confuses CLIP most ({self.search.shown} scenes show it):",
            *(f"  {name:>7}  {', '.join(self.search.answers[model])}"
              for model, name in (("base", "CLIP"), ("labclip", "LABCLIP"))),
            "    Confused: the scene has that colour and that shape on different objects.",
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
    sides = {"image": labelled.images, "text": labelled.texts["captions"]}
    probes = {side: probe(rows, labelled.labels, seed=seed).accuracy for side, rows in sides.items()}
    results = {
        "base": {key: round(estimates[key][0].value, 4) for key in ROWS},
        "labclip": {key: round(estimates[key][1].value, 4) for key in ROWS},
        "chance": {key: None if (chance := estimates[key][0].chance) is None else round(chance, 4) for key in ROWS},
        "probes": {side: round(one.value, 4) for side, one in probes.items()}
        | {"chance": round(probes["image"].chance or 0.0, 4)},
        "n": n,
        "seed": seed,
    }
    examples = [example for kind in _KINDS for example in _examples(model, kind, seed, n)]
    return Demo(results, examples, _search(model, seed, n, progress))


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


def _search(model: LABCLIP, seed: int, n: int, progress: bool) -> SearchExample:
    """The gallery of `labclip.evaluate("scenes", "scenes")`, asked for each seen pair that it shows."""
    scenes, never = sample(n, seed=seed, split="all"), HELD_OUT | VALIDATION
    shown = {pair for objects in scenes.objects for pair in objects}
    every = itertools.product(enumerate(COLOURS), enumerate(SHAPES))
    pairs = [(colour, shape) for (c, colour), (s, shape) in every if (colour, shape) in shown and not never[c, s]]
    gallery = [ImageSource(f"scene {number}", data=image) for number, image in enumerate(scenes.images)]
    images, texts = encode(model, gallery, [noun_phrase(*pair) for pair in pairs], progress=progress)
    with torch.inference_mode():
        queries = {"base": texts, "labclip": model.alignment(texts, normalize=True)}
        top = {name: (rows @ images.T).topk(min(_TOP, n)).indices.numpy() for name, rows in queries.items()}
    answers = {
        name: [[_answer(pair, scenes.objects[image]) for image in row] for pair, row in zip(pairs, rows, strict=True)]
        for name, rows in top.items()
    }
    worst = max(range(len(pairs)), key=lambda number: answers["base"][number].count("confused"))
    return SearchExample(
        noun_phrase(*pairs[worst]),
        sum(pairs[worst] in objects for objects in scenes.objects),
        {name: render(scenes.layout[np.asarray(rows[worst])], 256) for name, rows in top.items()},
        {name: by_query[worst] for name, by_query in answers.items()},
    )


def _answer(pair: tuple[str, str], objects: tuple[tuple[str, str], ...]) -> str:
    colours, shapes = zip(*objects, strict=True)
    if pair in objects:
        return "right"
    return "confused" if pair[0] in colours and pair[1] in shapes else "neither"
