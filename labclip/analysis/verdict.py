"""Where binding is lost, in plain words, by rules that are written down here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labclip.analysis.probes import Probed
from labclip.evaluation.scores import Estimate
from labclip.evaluation.summary import TELLS_FROM

KEPT = 0.5
"""Fraction of the binding, beyond the bag-of-words baseline, that a side must let a linear probe read. Half way between
that baseline and always right: CLIP's own sides lie far above (.92 and 1.00 on CLEVR, arXiv:2502.03566), bags of words
at 0, so that nothing hangs on the exact threshold."""

BINDS = TELLS_FROM
"""Accuracy of cosine on swapped captions from which on there is little to repair: less than a fifth of the errors at
chance is left. `labclip.fit` calls a base of .95 repaired."""

FEW = 30
"""Combinations below which nothing is said: they are the units of the intervals, which are too narrow with fewer."""

RISING = 0.03
"""Accuracy that a probe gains from twice the scenes, from which on a low reading may be the probe's lack of data."""

LEARNT = 1.0
"""Scenes that an object's probe must have learnt from, as a fraction of the embedding's dim, before a low reading
counts as a loss: with fewer a linear map fits anything and reads little, whatever the embedding holds."""

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
        reasons: The figures behind it, a sentence each; those of search do not decide.
        repair: What a matrix repairs and costs, a sentence each; empty where none was tried.
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
    """Kept, lost or unclear: the whole interval on one side of `KEPT`, and, to be lost, no doubt about the probe."""
    if probed.kept(probed.accuracy.low) >= KEPT:
        return "kept"
    return "unclear" if _doubt(probed) else "lost"


def _doubt(probed: Probed) -> str:
    """Why a low reading may be the probe's fault and not the embedding's; empty if there is no reason to think so.

    A probe that nears the bag-of-words baseline, and stays there, has learnt the words and no binding.
    """
    if probed.learnt < LEARNT * probed.dim:
        return f"learned from {probed.learnt:,} scenes per object, fewer than the embedding dimension {probed.dim:,}"
    ours, bag = probed.accuracy, probed.bag_chance
    near_words = ours.low - bag < RISING and ours.value >= bag - RISING
    if probed.half is not None and ours.value - probed.half >= RISING and not near_words:
        return "would read more from more scenes"
    return "has an interval that spans the threshold" if probed.kept(ours.high) >= KEPT else ""


def judge(probes: Mapping[str, Probed], cosine: Estimate, combinations: int) -> Verdict:
    """Say where binding is lost, by the rules in `docs/analysis.md`.

    `cosine` is that of the base, own caption against the swapped one, on scenes of some different combinations.
    """
    reasons = [
        f"Cosine prefers an image's own caption to the one with two attributes swapped in {_interval(cosine)} of "
        f"{cosine.n:,} scenes (chance .5, a tie is wrong).",
        *(_reading(SIDES[side], probed) for side, probed in probes.items()),
    ]
    # Binding that one side lost cannot be restored by the other, whatever the other side's state.
    lost = {("lost", "lost"): "both", ("lost", "kept"): "image", ("kept", "lost"): "text"}
    states = state(probes["image"]), state(probes["text"])
    if combinations < FEW:
        code = "unclear"
        reasons.append(
            f"There are {combinations} different combinations of attributes and objects, fewer than {FEW}: too few to "
            f"judge by. Pass scenes of more combinations."
        )
    elif cosine.low >= BINDS:
        code = "nothing"
    elif states == ("kept", "kept") and cosine.high < BINDS:
        code = "alignment"
    elif states in lost:
        code = lost[states]
    else:
        code = "unclear"
        spans = "" if "unclear" in states else f"Cosine's interval spans {BINDS}, from which on it counts as binding. "
        reasons.append(f"{spans}Pass more labelled scenes.")
    return Verdict(code, _HEADLINES[code], reasons)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _reading(what: str, probed: Probed) -> str:
    below = probed.accuracy.high < probed.bag_chance
    read = {
        "kept": "binding can be read",
        "lost": "not even the attributes that are there can be read" if below else "binding can't be read",
        "unclear": f"the probe {_doubt(probed)}",
    }
    return (
        f"A linear probe reads an object's attribute from {what} alone with accuracy {_interval(probed.accuracy)} "
        f"(chance {probed.accuracy.chance:.3f}, bag-of-words baseline {probed.bag_chance:.3f}): {read[state(probed)]}."
    )
