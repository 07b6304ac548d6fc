"""Where binding is lost, in plain words, by rules that are written down here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labclip.analysis.probes import Probed
from labclip.evaluation.scores import Compared, Estimate
from labclip.evaluation.summary import KNOWN, worded

KEPT = 0.5
"""Share of the binding, beyond the bag-of-words baseline, that a side must let a linear probe read. Half way between
that baseline and always right: CLIP's own sides lie far above (.92 and 1.00 on CLEVR, arXiv:2502.03566), bags of words
at 0, so that nothing hangs on the exact place."""

BINDS = KNOWN
"""Accuracy of cosine on swapped captions from which on there is little to repair: less than a fifth of the errors at
chance is left. `labclip.fit` calls a base of .95 repaired."""

FEW = 30
"""Combinations below which nothing is said: they are the units of the intervals, which are too narrow with fewer."""

RISING = 0.03
"""Accuracy that a probe gains from twice the scenes, from which on a low reading may be the probe's lack of data."""

LEARNT = 1.0
"""Scenes that an object's probe must have learnt from, as a share of the embedding's dim, before a low reading counts
as a loss: with fewer a linear map fits anything and reads little, whatever the embedding holds."""

MOST = 0.5
"""Share of cosine's errors that a matrix must remove for "most"."""

_HEADLINES = {
    "nothing": "Cosine binds already: there is little to repair.",
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
    """What was found.

    Attributes:
        code: "nothing", "alignment", "image", "text", "both" or "unclear".
        headline: It in a sentence or two.
        reasons: The figures that led there, a sentence each.
        repair: What a matrix repairs and costs, a sentence each; empty where none was tried.
    """

    code: str
    headline: str
    reasons: Sequence[str]
    repair: Sequence[str] = ()


@dataclass(frozen=True)
class Side:
    """One side's probe, and, where it was taken, the same probe on half the scenes."""

    probed: Probed
    half: Probed | None = None

    @property
    def state(self) -> str:
        """Kept, lost or unclear: the whole interval on one side of `KEPT`, and, to be lost, learnt from enough."""
        estimate = self.probed.accuracy
        if self.probed.kept(estimate.low) >= KEPT:
            return "kept"
        return "unclear" if self.short or self.rising or self.probed.kept(estimate.high) >= KEPT else "lost"

    @property
    def short(self) -> bool:
        """Whether it learnt from too few scenes for a low reading to mean anything."""
        return self.probed.learnt < LEARNT * self.probed.dim

    @property
    def rising(self) -> bool:
        """Whether more scenes would let the probe read more of the binding, or the words at all.

        A probe that nears the bag-of-words baseline, and stays there, has learnt the words and no binding.
        """
        if self.half is None:
            return False
        ours, bag = self.probed.accuracy, self.probed.bag_chance
        beyond_words, short_of_words = ours.low - bag >= RISING, ours.value < bag - RISING
        return ours.value - self.half.accuracy.value >= RISING and (beyond_words or short_of_words)


def judge(image: Side, text: Side, cosine: Estimate, combinations: int) -> Verdict:
    """Say where binding is lost, by the rules in `docs/analysis.md`.

    Args:
        image: Probe of the image embeddings.
        text: Probe of the caption embeddings.
        cosine: Own caption against the swapped one, by the base's cosine.
        combinations: Different combinations among the scenes that cosine was measured on.
    """
    reasons = [
        f"Cosine prefers an image's own caption to the one with two attributes swapped in {_interval(cosine)} of "
        f"{cosine.n:,} scenes (chance .5, a tie is wrong).",
        _side("images", image),
        _side("captions", text),
    ]
    # Binding that one side lost cannot be restored by the other, whatever the other side's state.
    lost = {("lost", "lost"): "both", ("lost", "kept"): "image", ("kept", "lost"): "text"}
    states = image.state, text.state
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
    else:
        code = lost.get(states, "unclear")
        reasons += _doubts(image, text, cosine) if code == "unclear" else []
    return Verdict(code, _HEADLINES[code], reasons)


def judge_gain(name: str, binding: Compared, place: int, where: str = "") -> str:
    """Say how much the matrix called `name`, at a place among the models, repairs; `where`: if not on all scenes."""
    base, ours, moved = binding.estimates[0], binding.estimates[place], binding.differences[place - 1]
    figures = f"{base.value:.3f} to {_interval(ours)}"
    if not moved.measurable:
        return f"{name} makes no measurable difference to binding{where}: {figures}."
    if moved.value < 0:
        return f"{name} makes binding worse{where}: {figures}."
    share = moved.value / (1 - base.value)
    amount = "most" if share >= MOST else "some"
    return f"{name} removes {amount} of cosine's errors{where}, {share:.0%}: {figures}."


def judge_cost(name: str, retrieval: Sequence[Compared], place: int) -> str:
    """Say what retrieval loses and gains by that matrix, metric by metric, measurable differences only."""
    moves = [(one.differences[place - 1], worded(one.metric)) for one in retrieval]
    loses, gains = (
        ", ".join(
            f"{abs(moved.value):.3f} in {metric}"
            for moved, metric in moves
            if moved.measurable and (moved.value < 0) == down
        )
        for down in (True, False)
    )
    subject = f"For retrieval {name[0].lower()}{name[1:]}"
    if not loses:
        return f"{subject} costs nothing measurable{f'; it gains {gains}' if gains else ''}."
    return f"{subject} loses {loses}{f' and gains {gains}' if gains else ''}."


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _side(what: str, side: Side) -> str:
    probed = side.probed
    if side.state == "kept":
        said = "binding can be read"
    elif side.state == "lost":
        below = probed.accuracy.high < probed.bag_chance
        said = "not even the attributes that are there can be read" if below else "binding can't be read"
    else:
        said = "more scenes may let it read more" if side.rising or side.short else "its interval spans the threshold"
    return (
        f"A linear probe reads an object's attribute from {what} alone with accuracy {_interval(probed.accuracy)} "
        f"(chance {probed.accuracy.chance:.3f}, bag-of-words baseline {probed.bag_chance:.3f}): {said}."
    )


def _doubts(image: Side, text: Side, cosine: Estimate) -> list[str]:
    doubts = []
    for what, side in (("images", image), ("captions", text)):
        if side.state != "unclear":
            continue
        if side.short:
            few = f"learnt from {side.probed.learnt:,} scenes an object, fewer than an embedding has dimensions,"
            said = f"{few} {side.probed.dim:,}"
        else:
            said = "would read more from more scenes" if side.rising else "has an interval that spans the threshold"
        doubts.append(f"The probe of {what} {said}. Pass more labelled scenes.")
    if not doubts and cosine.low < BINDS <= cosine.high:
        doubts.append(
            f"Cosine's interval spans {BINDS}, from which on it counts as binding. Pass more labelled scenes."
        )
    return doubts or ["One side lost binding, and the other's interval spans the threshold."]
