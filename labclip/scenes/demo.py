"""The finding and its repair on the embedded model: base against LABCLIP on fresh scenes, in figures and a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labclip.scenes import measure
from labclip.scenes.renderer import render
from labclip.scenes.shown import Demo, Example
from labclip.scenes.vocabulary import COLOURS
from labclip.scenes.world import Scenes, sample

if TYPE_CHECKING:
    from labclip.model import LABCLIP

_SHOWN = 3  # scenes shown of each kind
_PROBE_SCENES = 4000  # to train the probes on


def run(
    *, n: int = 1000, seed: int = 0, model: LABCLIP | None = None, say: Callable[[str], object] = lambda step: None
) -> Demo:
    """Measure a model on fresh scenes, and keep a few of them to be shown.

    Args:
        n: Scenes a figure is measured on, at least 8; retrieval uses n / 256 galleries, at least one.
        seed: Seed of the scenes; no training used any below a million.
        model: What to measure; by default the embedded model.
        say: Told what is done next, a few times.

    Returns:
        A `Demo`, whose `results` have `base` and `labclip`, each with `binding_seen`, `binding_heldout`,
        `retrieval_r1`, `tags_r1` and `single_object`; `probes` with `image`, `text` and `chance`; `n`; `seed`.
        All figures are fractions of 1; recall is the mean over both directions.

    Raises:
        ValueError: If there are too few scenes to measure anything.
    """
    if n < 8:
        raise ValueError(f"n is {n}, too few scenes to measure anything. Try demo.run(n=1000).")
    if model is None:
        from labclip import LABCLIP

        model = LABCLIP.from_pretrained("scenes")
    say(f"Drawing {2 * n:,} scenes of two things, and embedding them and their captions")
    seen, heldout = sample(n, seed=seed), sample(n, seed=seed, split="heldout")
    spoken = [_spoken(model, scenes) for scenes in (seen, heldout)]
    say("Galleries for retrieval")
    galleries = max(1, n // measure.GALLERY)
    gallery = _gallery(model, galleries, seed)
    say("Single things")
    singles = sample(n, seed=seed, split="all", n_objects=1)
    single_images = measure.embed_images(model, singles.images)
    prompts = measure.embed_texts(model, measure.single_prompts())

    def figures(text: _Map) -> dict[str, float]:
        return {
            "binding_seen": measure.binding(spoken[0][0], text(spoken[0][1]), text(spoken[0][2])),
            "binding_heldout": measure.binding(spoken[1][0], text(spoken[1][1]), text(spoken[1][2])),
            "retrieval_r1": _mean(measure.recall_at_1(gallery[0], text(gallery[1]))),
            "tags_r1": _mean(measure.recall_at_1(gallery[0], text(gallery[2]))),
            "single_object": measure.single_object(
                single_images, text(prompts), singles.layout.colours, singles.layout.shapes
            ),
        }

    base, labclip = figures(_Map(None)), figures(_Map(model))
    say(f"Linear probes, on {_PROBE_SCENES:,} more scenes")
    results: dict[str, Any] = {
        "base": base,
        "labclip": labclip,
        "probes": _probes(model, seen, spoken[0], seed),
        "n": n,
        "seed": seed,
    }
    examples = [
        example
        for scenes, features in zip((seen, heldout), spoken, strict=True)
        for example in _examples(model, scenes, features, fitted=scenes is seen)
    ]
    return Demo(_rounded(results), examples)


class _Map:
    """The text side of one of the two models: base embeddings to unit-length embeddings."""

    def __init__(self, model: LABCLIP | None) -> None:
        self._model = model

    def __call__(self, features: Tensor) -> Tensor:
        return features if self._model is None else self._model.alignment(features, normalize=True)


_Features = tuple[Tensor, Tensor, Tensor]


def _spoken(model: LABCLIP, scenes: Scenes) -> _Features:
    """Embeddings of pictures, captions and swapped captions."""
    swapped = [text for text in scenes.swapped_captions if text is not None]
    return (
        measure.embed_images(model, scenes.images),
        measure.embed_texts(model, scenes.captions),
        measure.embed_texts(model, swapped),
    )


def _gallery(model: LABCLIP, galleries: int, seed: int) -> _Features:
    """Embeddings of pictures, sentences and tags, gallery after gallery; no two scenes of one show the same words."""
    size = measure.GALLERY + 64
    scenes = sample(size * galleries, seed=seed, split="all")
    rows = np.concatenate(
        [
            start
            + measure.distinct(scenes.layout.colours[start : start + size], scenes.layout.shapes[start : start + size])
            for start in range(0, len(scenes), size)
        ]
    )
    return (
        measure.embed_images(model, scenes.images[rows]),
        measure.embed_texts(model, [scenes.captions[row] for row in rows]),
        measure.embed_texts(model, [scenes.tags[row] for row in rows]),
    )


def _probes(model: LABCLIP, test: Scenes, features: _Features, seed: int) -> dict[str, float]:
    """Accuracy of linear probes on the scenes of `test`, trained on others; neither model plays a part."""
    train = sample(_PROBE_SCENES, seed=seed + 500_000)
    known = train.layout.colours, train.layout.shapes
    asked = test.layout.colours, test.layout.shapes
    image = measure.Probe(measure.embed_images(model, train.images), *known)
    text = measure.Probe(measure.embed_texts(model, train.captions), *known)
    return {
        "image": image.accuracy(features[0], *asked),
        "text": text.accuracy(features[1], *asked),
        "chance": 1 / len(COLOURS),
    }


def _examples(model: LABCLIP, scenes: Scenes, features: _Features, *, fitted: bool) -> list[Example]:
    large = render(scenes.layout[:_SHOWN], 256)
    examples = []
    for i in range(min(_SHOWN, len(scenes))):
        pair = torch.stack([features[1][i], features[2][i]])
        base = pair @ features[0][i]
        aligned = model.alignment(pair, normalize=True) @ features[0][i]
        examples.append(
            Example(
                image=large[i],
                captions=(scenes.captions[i], scenes.swapped_captions[i] or ""),
                fitted=fitted,
                base=(base[0].item(), base[1].item()),
                labclip=(aligned[0].item(), aligned[1].item()),
                base_share=_share(base, model.clip.logit_scale),
                labclip_share=_share(aligned, model.logit_scale),
            )
        )
    return examples


def _share(cosines: Tensor, logit_scale: Tensor) -> float:
    return F.softmax(cosines * logit_scale.detach().float().exp(), dim=0)[0].item()


def _mean(values: tuple[float, float]) -> float:
    return sum(values) / len(values)


def _rounded(value: Any) -> Any:
    """Four decimals: what a thousand scenes can tell, and what a reader can."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


ROWS = (
    ("binding_seen", "caption against its swap, pairs in the fit", "0.5000"),
    ("binding_heldout", "caption against its swap, pairs never fitted", "0.5000"),
    ("retrieval_r1", "R@1 of 256 scenes, by sentences", "0.0039"),
    ("tags_r1", "R@1 of 256 scenes, by tags, which do not bind", "0.0039"),
    ("single_object", "one thing, zero-shot of 120", "0.0083"),
)


def report(demo: Demo) -> str:
    """The run in words: a table of base against LABCLIP, the probes, and a few scenes."""
    found, probes = demo.results, demo.results["probes"]
    lines = [
        f"Fresh scenes, {found['n']:,} a figure, seed {found['seed']}; no training saw them.",
        "",
        f"{'':46}{'CLIP':>8}{'LABCLIP':>10}{'chance':>9}",
    ]
    for key, label, chance in ROWS:
        lines.append(f"{label:46}{found['base'][key]:8.3f}{found['labclip'][key]:10.3f}{float(chance):9.3f}")
    lines += [
        "",
        "Is it known at all? Linear probes, asked for the colour of each shape:",
        f"{'':4}from the picture alone {probes['image']:.3f}, from the caption alone {probes['text']:.3f}, "
        f"chance {probes['chance']:.3f}.",
        f"{'':4}Both sides know; the cosine between them loses it; one matrix on the text brings it back.",
        "",
        f"{'The first scenes of the draw, by cosine':69}{'CLIP':>8}{'LABCLIP':>15}",
    ]
    for example in demo.examples:
        note = "" if example.fitted else "   (a pair never fitted)"
        for i, kind in enumerate(("right", "swapped")):
            cells = "".join(
                f"{cosines[i]:>{width}.3f}{_verdict(cosines) if i == 0 else '':7}"
                for cosines, width in ((example.base, 8), (example.labclip, 8))
            )
            lines.append(f"{kind:>9}  {example.captions[i]:58}{cells}{note if i == 0 else ''}".rstrip())
    return "\n".join(lines)


def _verdict(cosines: tuple[float, float]) -> str:
    return " ok" if cosines[0] > cosines[1] else " WRONG"


def draw(demo: Demo, path: Path) -> Path:
    """Write the picture of a run as a PNG file; returns its path."""
    from labclip.scenes.picture import compose

    compose(demo).save(path, optimize=True)
    return path
