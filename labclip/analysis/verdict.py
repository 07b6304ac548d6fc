"""The verdict of a diagnosis, where binding is lost, and its rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labclip.analysis.probes import Probed
from labclip.evaluation.scores import Estimate
from labclip.evaluation.summary import TELLS_FROM

KEPT = 0.5
"""Fraction of the binding that a probe must read on a side: 0 at the bag-of-words baseline, 1 at accuracy 1. The exact
value matters little: CLIP's encoders are far above it (.92 and 1.00 on CLEVR, arXiv:2502.03566)."""

BINDS = TELLS_FROM
"""Accuracy of the cosine on swapped captions at which there is little to repair: a fifth of the errors at chance is
left. `labclip.fit` uses .95."""

FEW = 30
"""Minimum number of combinations for a verdict. They are the units of the intervals, too narrow with fewer units."""

RISING = 0.03
"""If a probe gains this much accuracy from twice the scenes, a low accuracy may be due to too few scenes."""


SIDES = {"image": "images", "text": "captions"}
MODELS = {"base": "base", "own": "the model's own matrix", "fitted": "a matrix fitted on other combinations"}

_HEADLINES = {
    "nothing": "The cosine already prefers the right captions: there is little to repair.",
    "alignment": "Each encoder knows which attribute belongs to which object; only their alignment loses it. A matrix "
    "on the text can repair that.",
    "image": "Binding is lost in the image encoder: image embeddings do not say which attribute belongs to which "
    "object. No matrix on the text can restore it.",
    "text": "Binding is lost in the text encoder: caption embeddings do not say which attribute belongs to which "
    "object. No matrix can restore it.",
    "both": "Binding is lost in both encoders: neither side's embeddings say which attribute belongs to which object. "
    "No matrix can restore it.",
    "unclear": "Can't tell where binding is lost.",
}


@dataclass(frozen=True)
class Verdict:
    """Where binding is lost, if anywhere.

    Attributes:
        code: "nothing", "alignment", "image", "text", "both" or "unclear".
        headline: The verdict in one or two sentences.
        reasons: The figures behind the verdict, a sentence each. The one on search does not affect it.
        repair: The gain and cost of each matrix, a sentence each; empty without a matrix.
    """

    code: str
    headline: str
    reasons: Sequence[str]
    repair: Sequence[str] = ()


UNLABELLED = Verdict(
    "unclear",
    _HEADLINES["unclear"],
    [
        "Captions do not list the objects of an image with their attributes, so no probe can be trained on them. Pass "
        "labelled scenes, of CLEVR or PUG, to find out where binding is lost."
    ],
)
"""The verdict on a table of captions."""


def state(probed: Probed) -> str:
    """Whether binding is "kept" (the interval is above `KEPT`), "lost" (it is below, without doubt) or "unclear"."""
    if probed.kept(probed.accuracy.low) >= KEPT:
        return "kept"
    return "unclear" if _doubt(probed) else "lost"


def _doubt(probed: Probed) -> str:
    """Why a low accuracy may be due to the probe and not to the embedding; empty if nothing suggests this."""
    # With fewer scenes than dims, a linear map fits any labels, and does not generalise even if binding is there.
    if probed.learnt < probed.dim:
        return f"learned from {probed.learnt:,} scenes per object, fewer than the embedding dimension {probed.dim:,}"
    accuracy, bag = probed.accuracy, probed.bag_chance
    # A probe that rises to the bag-of-words baseline and no further has learned the words, but no binding.
    at_baseline = accuracy.low - bag < RISING and accuracy.value >= bag - RISING
    if probed.half is not None and accuracy.value - probed.half >= RISING and not at_baseline:
        return "would read more from more scenes"
    return "has an interval that spans the threshold" if probed.kept(accuracy.high) >= KEPT else ""


def judge(probes: Mapping[str, Probed], cosine: Estimate, combinations: int) -> Verdict:
    """Decide where binding is lost, by the rules in `docs/analysis.md`.

    `cosine` is the accuracy of the base's cosine, own caption against swapped caption. `combinations` is the number of
    different combinations on which it was measured.
    """
    reasons = [
        f"Cosine prefers an image's own caption to the one with two attributes swapped in {_interval(cosine)} of "
        f"{cosine.n:,} scenes (chance .5, a tie is wrong).",
        *(_probe_sentence(SIDES[side], probed) for side, probed in probes.items()),
    ]
    lost = {("lost", "lost"): "both", ("lost", "kept"): "image", ("kept", "lost"): "text"}
    states = state(probes["image"]), state(probes["text"])
    if combinations < FEW:
        code = "unclear"
        reasons.append(
            f"There are {combinations} different combinations of attributes and objects, but a verdict needs {FEW}. "
            f"Pass scenes of more combinations."
        )
    elif cosine.low >= BINDS:
        code = "nothing"
    elif states == ("kept", "kept") and cosine.high < BINDS:
        code = "alignment"
    elif states in lost:
        code = lost[states]
    else:
        code = "unclear"
        spans = "" if "unclear" in states else f"The interval of the cosine spans {BINDS}, the threshold for binding. "
        reasons.append(f"{spans}Pass more labelled scenes.")
    return Verdict(code, _HEADLINES[code], reasons)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _probe_sentence(source: str, probed: Probed) -> str:
    below = probed.accuracy.high < probed.bag_chance
    conclusions = {
        "kept": "binding can be read",
        "lost": "not even a scene's attributes can be read" if below else "binding can't be read",
        "unclear": f"the probe {_doubt(probed)}",
    }
    return (
        f"A linear probe reads an object's attribute from {source} alone with accuracy {_interval(probed.accuracy)} "
        f"(chance {probed.accuracy.chance:.3f}, bag-of-words baseline {probed.bag_chance:.3f}): "
        f"{conclusions[state(probed)]}."
    )
