"""The failure and the fix on the embedded model: base against LABCLIP on new scenes, in numbers and examples."""

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
"""Each metric's name in words, and its benchmark."""

# Whether a scene with three objects or an unseen pair, by the metric that it is an item of.
_KINDS: dict[str, dict[str, Any]] = {
    "binding": {"split": "seen"},
    "binding_heldout": {"split": "heldout"},
    "binding_three": {"split": "seen", "n_objects": 3},
}
_REMARKS = {"binding": "", "binding_heldout": " (unseen pair)", "binding_three": " (three objects)"}
_PROBE_SCENES = 4000  # to train the probes on
_FINDING = (
    "Both encoders know which colour belongs to which shape. CLIP's cosine between them loses it; one matrix on the "
    "text embedding restores it."
)

_CONFUSED = "Confused: the scene has that colour and that shape on different objects."


@dataclass(frozen=True)
class Example:
    """One scene as both models see it, "base" and "labclip"."""

    image: NDArray[Any]  # uint8 [256, 256, 3]
    captions: tuple[str, str]  # the right one, and the one with the colours swapped
    kind: str  # the metric that it is an item of: "binding", "binding_heldout" or "binding_three"
    cosines: Mapping[str, tuple[float, float]]  # of each model with the two captions
    probabilities: Mapping[str, float]  # of the right one of the two, by a softmax at the model's own temperature


@dataclass(frozen=True)
class SearchExample:
    """The top results of both models for the query on which the base confuses most scenes."""

    query: str  # an object in words, for example "a red cube"
    shown: int  # scenes of the gallery that show it
    images: Mapping[str, NDArray[Any]]  # of each model the top five, uint8 [5, 256, 256, 3]
    answers: Mapping[str, list[str]]  # for each "right", "confused" (colour and shape on different objects), "neither"


@dataclass(frozen=True)
class Demo:
    """The results of a run; `str` is a report."""

    results: dict[str, Any]  # plain JSON, see `run`
    examples: list[Example]  # the first scenes of the draw: of seen pairs, with an unseen one, of three objects
    search: SearchExample

    def __str__(self) -> str:
        results, probes, search = self.results, self.results["probes"], self.search
        measured: list[list[Value]] = [
            ["{} ({})".format(*words), *(results[side][key] for side in (*MODELS, "chance"))]
            for key, words in ROWS.items()
        ]
        cosines: list[list[Value]] = []
        for example in self.examples[: 2 * EXAMPLES + 1]:
            verdicts = [
                f"{right:.3f} {'ok' if right > swapped else 'WRONG'}" for right, swapped in example.cosines.values()
            ]
            cosines.append([f"right: {example.captions[0]}{_REMARKS[example.kind]}", *verdicts])
            cosines.append([f"swapped: {example.captions[1]}", *(swapped for _, swapped in example.cosines.values())])
        probed = (
            f"They read the colour of each shape from one embedding alone, in unseen combinations: image "
            f"{probes['image']:.3f}, caption {probes['text']:.3f}, chance {probes['chance']:.3f}. {_FINDING}"
        )
        query = f"The query that confuses CLIP most; {search.shown} scenes show it. {_CONFUSED}"
        answers = [[name, ", ".join(search.answers[model])] for model, name in MODELS.items()]
        columns, size = ["", *MODELS.values()], f"{results['n']:,} new scenes per metric, seed {results['seed']}."
        sections = [
            Section("Accuracy", tables=[Table("", [*columns, "chance"], measured)]),
            Section("Linear probes", [probed]),
            Section("Cosine of the image with each caption, first scenes", tables=[Table("", columns, cosines)]),
            Section(f"Search for {search.query!r}", [query], tables=[Table("", ["", "top five"], answers, (0, 1))]),
        ]
        lead = f"{size} No training used them, nor any scene of three."
        return terminal(Page("Which caption is right?", lead, sections))


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
    sources = Sources(None)
    three = swapped_items(sources, labelled_scenes(n, seed=seed, **_KINDS["binding_three"]))
    task = read(sources, n=n, seed=seed)
    task = replace(task, questions=[*task.questions, *three.question("binding_three")])
    images, texts = encode(model, task.images, task.captions, progress=progress)
    scores = score(task, images, texts, [model.alignment])
    estimates = {metric.metric: metric.estimates for by_model in scores for metric in compare(by_model)}
    known = labelled_scenes(_PROBE_SCENES, seed=seed + 500_000)
    sides = zip(("image", "text"), encode(model, known.images, known.captions, progress=progress), strict=True)
    probes = {side: probe(rows, labels_of(known.objects), seed=seed).accuracy for side, rows in sides}
    values = {name: {key: round(estimates[key][at].value, 4) for key in ROWS} for at, name in enumerate(MODELS)}
    chance = {key: None if (value := estimates[key][0].chance) is None else round(value, 4) for key in ROWS}
    read_out = {side: round(estimate.value, 4) for side, estimate in probes.items()}
    read_out["chance"] = round(probes["image"].chance or 0.0, 4)
    results = values | {"chance": chance, "probes": read_out, "n": n, "seed": seed}
    by_model = dict(zip(MODELS, texts_by_model(texts, [model.alignment]), strict=True))
    return Demo(results, _examples(model, task, images, by_model, n, seed), _search(task, images, by_model, n, seed))


def _examples(
    model: LABCLIP, task: Task, images: Tensor, texts: Mapping[str, Tensor], n: int, seed: int
) -> list[Example]:
    scales = {"base": model.clip.logit_scale.exp().item(), "labclip": model.logit_scale.exp().item()}
    asked = {name: question for question in task.questions if isinstance(question, Choice) for name in question.metrics}
    examples = []
    for kind, scenes in _KINDS.items():
        layout, _ = draw_scenes(n, seed=seed, **scenes)
        for number, image in enumerate(render(layout[:EXAMPLES], 256)):
            row, (right, swapped) = int(asked[kind].image[number]), asked[kind].options[number].tolist()
            cosines = {name: features[[right, swapped]] @ images[row] for name, features in texts.items()}
            shares = {name: float((cosines[name] * scales[name]).softmax(dim=0)[0]) for name in cosines}
            pairs = {name: (float(own), float(other)) for name, (own, other) in cosines.items()}
            examples.append(Example(image, (task.captions[right], task.captions[swapped]), kind, pairs, shares))
    return examples


def _search(task: Task, images: Tensor, texts: Mapping[str, Tensor], n: int, seed: int) -> SearchExample:
    """The search of the task, asked for each pair of the fit."""
    asked = next(question for question in task.questions if isinstance(question, Search))
    gallery, seen = images[asked.images], np.flatnonzero(asked.groups[""] == 0)
    top = {name: (features[asked.queries[seen]] @ gallery.T).topk(min(TOP, n)).indices.numpy()
           for name, features in texts.items()}  # fmt: skip
    worst = int(np.take_along_axis(asked.confused[seen], top["base"], axis=1).sum(axis=1).argmax())
    query = seen[worst]
    layout, _ = draw_scenes(n, seed=seed, split="all")
    return SearchExample(
        task.captions[asked.queries[query]],
        int(asked.right[query].sum()),
        {name: render(layout[rows[worst]], 256) for name, rows in top.items()},
        {
            name: ["right" if asked.right[query, row] else "confused" if asked.confused[query, row] else "neither"
                   for row in rows[worst]]
            for name, rows in top.items()
        },
    )  # fmt: skip
