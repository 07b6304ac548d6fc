"""Figures that others published for the method: none was measured by labclip. The one place they are written down.

Imports no torch, as `labclip.io.published` must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

REPORTED_SOURCE = (
    "Published figures for the paper (arXiv:2502.03566), as given in third-party notes of it; fractions of 1; not "
    "measured by labclip."
)


@dataclass(frozen=True)
class Reported:
    """One published figure and its like for other models.

    Attributes:
        benchmark: As `labclip evaluate` takes it, or "probes" for the linear probes of `labclip diagnose`.
        metric: What was counted, in the words of the notes.
        clip: The CLIP it was measured with, or "" where the notes do not say.
        values: Fractions of 1: "base", "labclip", and other methods by name.
        command: What measures it; FOLDER is a matrix that one fits first, as none was published.
        matrix: Name and alignment of the published matrix that it is of, or None.
        measured_as: What labclip calls the metric.
    """

    benchmark: str
    metric: str
    clip: str
    values: Mapping[str, float]
    command: str
    matrix: tuple[str, str] | None = None
    measured_as: str = field(default="")


_B32 = ("ViT-B-32", "coco")
_SUGARCREPE = "labclip evaluate sugarcrepe --model ViT-B-32 --data sugar-crepe/data --images coco/val2017"
_ARO = "--model ViT-B-32 --data aro --images aro/images"

REPORTED: tuple[Reported, ...] = (
    Reported(
        "clevr", "binding", "ViT-L/14", {"base": 0.58, "labclip": 0.95, "fine-tuned": 1.00},
        "labclip evaluate clevr --model ViT-L-14 --alignment FOLDER --data clevr",
    ),
    Reported(
        "pug-spar", "binding", "ViT-L/14", {"base": 0.53, "labclip": 0.97, "fine-tuned": 1.00},
        "labclip evaluate pug-spar --model ViT-L-14 --alignment FOLDER --data PUG_SPAR",
    ),
    Reported(
        "pug-spare", "binding", "ViT-L/14", {"base": 0.50, "labclip": 0.94, "fine-tuned": 1.00},
        "labclip evaluate pug-spare --model ViT-L-14 --alignment FOLDER --data PUG_SPARE",
    ),
    Reported(
        "vg-a", "accuracy", "ViT-B/32", {"base": 0.63, "labclip": 0.69, "NegCLIP": 0.71},
        f"labclip evaluate vg-a {_ARO}", _B32, "macro",
    ),
    Reported(
        "vg-r", "accuracy", "ViT-B/32", {"base": 0.63, "labclip": 0.82, "NegCLIP": 0.81},
        f"labclip evaluate vg-r {_ARO}", _B32, "macro",
    ),
    Reported(
        "sugarcrepe", "replace", "ViT-B/32", {"base": 0.80, "labclip": 0.82, "NegCLIP": 0.85}, _SUGARCREPE, _B32
    ),
    Reported("sugarcrepe", "swap", "ViT-B/32", {"base": 0.62, "labclip": 0.74, "NegCLIP": 0.75}, _SUGARCREPE, _B32),
    Reported(
        "coco", "t2i_r1", "ViT-B/32", {"base": 0.30, "labclip": 0.41, "NegCLIP": 0.41},
        "labclip evaluate coco --model ViT-B-32 --data coco_karpathy_test.json --images coco", _B32,
    ),
    Reported(
        "negation", "accuracy", "", {"base": 0.393, "labclip": 0.345},
        "labclip evaluate negation --model ViT-B-32 --data negbench --images coco/val2017",
    ),
    Reported(
        "probes", "from the image", "", {"base": 0.96, "chance": 0.12}, "labclip diagnose --model ViT-L-14 --data clevr"
    ),
    Reported(
        "probes", "from the text", "", {"base": 1.00, "chance": 0.12}, "labclip diagnose --model ViT-L-14 --data clevr"
    ),
)  # fmt: skip
"""CLEVR and PUG are of matrices fitted on those very data, of which none was published."""


def reported_of(name: str, alignment: str) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of one published matrix: {benchmark: {"base": {metric: value}, "labclip": {metric: value}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for one in REPORTED:
        if one.matrix == (name, alignment):
            sides = found.setdefault(one.benchmark, {"base": {}, "labclip": {}})
            for side, values in sides.items():
                values[one.metric] = one.values[side]
    return found
