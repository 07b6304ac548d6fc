"""The base compared with LABCLIP on new scenes of the embedded model, in numbers and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labclip.analysis.probes import probe
from labclip.analysis.scenes import labels_of
from labclip.evaluation.benchmarks.scenes import read, swapped_items
from labclip.evaluation.questions import TOP, Choice, Search
from labclip.evaluation.scene_files import labelled_scenes
from labclip.evaluation.scores import compare
from labclip.evaluation.sources import Sources
from labclip.evaluation.tasks import Task, score, texts_by_model
from labclip.features.cache import encode
from labclip.model import LABCLIP
from labclip.report import Page, Section, Table, terminal
from labclip.report.values import Value
from labclip.scenes import render
from labclip.scenes.world import draw_scenes

EXAMPLES = 3  # scenes of each kind
MODELS = {"base": "CLIP", "labclip": "LABCLIP"}
ROWS = {
    "binding": ("binding, seen pairs", "right against swapped"),
    "binding_heldout": ("unseen pairs", "right against swapped"),
    "binding_three": ("three objects", "right against swapped"),
    "t2i_r1": ("image search", "by sentence, R@1"),
    "tags_t2i_r1": ("image search", "by tags, R@1"),
    "search_map": ("search with one object", "mean average precision"),
    "search_confused5": ("confused among its top five", "lower is better"),
    "one_object_acc1": ("one object", "zero-shot, 120 classes"),
}
"""For each metric its name in words, and what it measures."""

# For each binding metric, the arguments that draw its scenes.
_KINDS: dict[str, dict[str, Any]] = {
    "binding": {"split": "seen"},
    "binding_heldout": {"split": "heldout"},
    "binding_three": {"split": "seen", "n_objects": 3},
}
_REMARKS = {"binding": "", "binding_heldout": " (unseen pair)", "binding_three": " (three objects)"}
_PROBE_SCENES = 4000


@dataclass(frozen=True)
class Example:
    """One scene with the answers of both models, "base" and "labclip"."""

    image: NDArray[Any]  # uint8 [256, 256, 3]
    captions: tuple[str, str]  # the right caption, and the caption with swapped colours
    kind: str  # the metric to which the scene belongs: "binding", "binding_heldout" or "binding_three"
    cosines: Mapping[str, tuple[float, float]]  # for each model, cosines of the image with the two captions
    probabilities: Mapping[str, float]  # for each model, that of the right caption, at the model's own temperature


@dataclass(frozen=True)
class SearchExample:
    """The top results of both models for the query on which the base confuses most scenes."""

    query: str  # an object in words, for example "a red cube"
    shown: int  # number of scenes in the gallery that show it
    images: Mapping[str, NDArray[Any]]  # for each model, its top five, uint8 [5, 256, 256, 3]
    answers: Mapping[str, list[str]]  # of these: "right", "confused" (colour and shape on different objects), "neither"


@dataclass(frozen=True)
class Demo:
    """The results of a run; `str` is a report."""

    results: dict[str, Any]  # plain JSON, see `run`
    examples: list[Example]  # the first scenes with seen pairs, with an unseen pair, and with three objects
    search: SearchExample

    def __str__(self) -> str:
        results, probes, search = self.results, self.results["probes"], self.search
        accuracy: list[list[Value]] = [
            ["{} ({})".format(*words), *(results[side][key] for side in (*MODELS, "chance"))]
            for key, words in ROWS.items()
        ]
        cosines: list[list[Value]] = []
        for example in self.examples[: 2 * EXAMPLES + 1]:
            pairs = example.cosines.values()
            marked = [f"{right:.3f} {'ok' if right > swapped else 'WRONG'}" for right, swapped in pairs]
            cosines.append([f"right: {example.captions[0]}{_REMARKS[example.kind]}", *marked])
            cosines.append([f"swapped: {example.captions[1]}", *(swapped for _, swapped in pairs)])
        probe_text = (
            f"They read the colour of each shape from one embedding alone, in unseen combinations: image "
            f"{probes['image']:.3f}, caption {probes['text']:.3f}, chance {probes['chance']:.3f}. Both encoders know "
            f"which colour belongs to which shape. CLIP's cosine between them loses it; one matrix on the text "
            f"embedding restores it."
        )
        query = (
            f"The query that confuses CLIP most; {search.shown} scenes show it. Confused: the scene has that colour "
            f"and that shape on different objects."
        )
        answers = [[name, ", ".join(search.answers[model])] for model, name in MODELS.items()]
        columns = ["", *MODELS.values()]
        sections = [
            Section("Accuracy", tables=[Table("", [*columns, "chance"], accuracy)]),
            Section("Linear probes", [probe_text]),
            Section("Cosine of the image with each caption, first scenes", tables=[Table("", columns, cosines)]),
            Section(f"Search for {search.query!r}", [query], tables=[Table("", ["", "top five"], answers, (0, 1))]),
        ]
        size = f"{results['n']:,} new scenes per metric, seed {results['seed']}."
        lead = f"{size} No training used them, or any scene of three objects."
        return terminal(Page("Which caption is right?", lead, sections))


def run(*, n: int = 1000, seed: int = 0, model: LABCLIP | None = None, progress: bool = False) -> Demo:
    """Measure a model on new scenes, and keep a few of them as examples.

    Args:
        n: Number of scenes per metric.
        seed: Seed of the scenes. Seeds below a million were not used in any training.
        model: The model to measure; by default the embedded model.
        progress: Whether to show bars on stderr.

    Returns:
        A `Demo`. Its `results` have `base`, `labclip` and `chance`, each with the metrics in `ROWS`, which are those of
        `labclip.evaluate("scenes", "scenes")` and `binding_three`; `probes` with `image`, `text` and `chance`; `n`;
        and `seed`. Accuracies are fractions of 1.

    Raises:
        ValueError: If there are too few scenes to measure anything.
    """
    model = LABCLIP.from_pretrained("scenes") if model is None else model
    sources = Sources(None)
    three = swapped_items(sources, labelled_scenes(n, seed=seed, **_KINDS["binding_three"]))
    task = read(sources, n=n, seed=seed)
    task = replace(task, questions=[*task.questions, *three.question("binding_three")])
    images, texts = encode(model, task.images, task.captions, progress=progress)
    scores = score(task, images, texts, [model.alignment])
    estimates = {metric.metric: metric.estimates for by_model in scores for metric in compare(by_model)}
    labelled = labelled_scenes(_PROBE_SCENES, seed=seed + 500_000)
    sides = zip(("image", "text"), encode(model, labelled.images, labelled.captions, progress=progress), strict=True)
    probes = {side: probe(rows, labels_of(labelled.objects), seed=seed).accuracy for side, rows in sides}
    values = {name: {key: round(estimates[key][index].value, 4) for key in ROWS} for index, name in enumerate(MODELS)}
    chance = {key: None if (value := estimates[key][0].chance) is None else round(value, 4) for key in ROWS}
    probe_values = {side: round(estimate.value, 4) for side, estimate in probes.items()}
    probe_values["chance"] = round(probes["image"].chance or 0.0, 4)
    results = values | {"chance": chance, "probes": probe_values, "n": n, "seed": seed}
    by_model = dict(zip(MODELS, texts_by_model(texts, [model.alignment]), strict=True))
    return Demo(
        results, _make_examples(model, task, images, by_model, n, seed), _make_search(task, images, by_model, n, seed)
    )


def _make_examples(
    model: LABCLIP, task: Task, images: Tensor, texts: Mapping[str, Tensor], n: int, seed: int
) -> list[Example]:
    scales = {"base": model.clip.logit_scale.exp().item(), "labclip": model.logit_scale.exp().item()}
    choices = {metric: choice for choice in task.questions if isinstance(choice, Choice) for metric in choice.metrics}
    examples = []
    for kind, scenes in _KINDS.items():
        layout, _ = draw_scenes(n, seed=seed, **scenes)
        for item, image in enumerate(render(layout[:EXAMPLES], 256)):
            row, options = int(choices[kind].image[item]), choices[kind].options[item].tolist()
            cosines = {name: features[options] @ images[row] for name, features in texts.items()}
            probabilities = {name: float((cosines[name] * scales[name]).softmax(dim=0)[0]) for name in cosines}
            pairs = {name: (float(right), float(swapped)) for name, (right, swapped) in cosines.items()}
            captions = task.captions[options[0]], task.captions[options[1]]
            examples.append(Example(image, captions, kind, pairs, probabilities))
    return examples


def _make_search(task: Task, images: Tensor, texts: Mapping[str, Tensor], n: int, seed: int) -> SearchExample:
    """The search for the pair of the fit on which the base confuses most scenes."""
    search = next(question for question in task.questions if isinstance(question, Search))
    gallery, seen = images[search.images], np.flatnonzero(search.groups[""] == 0)
    top = {name: (features[search.queries[seen]] @ gallery.T).topk(min(TOP, n)).indices.numpy()
           for name, features in texts.items()}  # fmt: skip
    worst = int(np.take_along_axis(search.confused[seen], top["base"], axis=1).sum(axis=1).argmax())
    query, top = seen[worst], {name: rows[worst] for name, rows in top.items()}
    right, confused = search.right[query], search.confused[query]
    layout, _ = draw_scenes(n, seed=seed, split="all")
    return SearchExample(
        task.captions[search.queries[query]],
        int(right.sum()),
        {name: render(layout[rows], 256) for name, rows in top.items()},
        {name: ["right" if right[row] else "confused" if confused[row] else "neither" for row in rows]
         for name, rows in top.items()},
    )  # fmt: skip
