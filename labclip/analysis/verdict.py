"""Where binding is lost, in plain words, by rules that are written down here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from labclip.analysis.probes import Probed
from labclip.evaluation.scores import Compared, Difference, Estimate

KEPT = 0.5
"""Share of the binding, beyond what the bag of attributes explains, that a side must let a linear probe read. Half way
between "knows the words" and "knows it all": CLIP's own sides lie far above (.92 and 1.00 on CLEVR, arXiv:2502.03566),
bags of words at 0, so that nothing hangs on the exact place."""

BINDS = 0.9
"""Accuracy of cosine on exchanged captions from which on there is little to repair: less than a fifth of what a coin
gets wrong is left. `labclip.fit` calls a base of .95 repaired."""

FEW = 30
"""Combinations below which nothing is said: the intervals resample combinations and are too narrow for fewer."""

RISING = 0.03
"""Accuracy that a probe gains from twice the scenes, from which on a low reading may be the probe's lack of data."""

LEARNT = 1.0
"""Things that an object's probe must have learnt from, as a share of the embedding's dim, before a low reading counts
as a loss: with fewer a linear map fits anything and reads little, whatever the embedding holds."""

MOST = 0.5
"""Share of what cosine loses that a matrix must win back for "most"."""

_HEADLINES = {
    "nothing": "Cosine binds already: there is little to repair.",
    "alignment": "Each encoder knows which attribute belongs to which object; only their alignment loses it. That is "
    "what a matrix on the text can repair.",
    "image": "Binding is lost in the image encoder: pictures' embeddings do not say which attribute belongs to which "
    "object. No matrix on the text brings that back.",
    "text": "Binding is lost in the text encoder: captions' embeddings do not say which attribute belongs to which "
    "object. No matrix brings back what is not there.",
    "both": "Binding is lost in both encoders: neither side's embeddings say which attribute belongs to which object. "
    "No matrix brings back what is not there.",
    "unclear": "Can't tell where binding is lost.",
}


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        code: "nothing", "alignment", "image", "text", "both" or "unclear".
        headline: It in a sentence or two.
        reasons: The figures that led there, a sentence each.
        repair: What a matrix wins back and costs, a sentence each; empty where none was tried.
    """

    code: str
    headline: str
    reasons: Sequence[str]
    repair: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "reasons": list(self.reasons), "repair": list(self.repair)}


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
        """Whether it learnt from too few things for a low reading to mean anything."""
        return self.probed.learnt < LEARNT * self.probed.dim

    @property
    def rising(self) -> bool:
        """Whether more scenes would let the probe read more of the binding, or the words at all.

        A probe that nears the accuracy of one who knows the words, and stays there, has learnt them and no binding.
        """
        if self.half is None:
            return False
        ours, bag = self.probed.accuracy, self.probed.bag_chance
        beyond_words, short_of_words = ours.low - bag >= RISING, ours.value < bag - RISING
        return ours.value - self.half.accuracy.value >= RISING and (beyond_words or short_of_words)


def judge(image: Side, text: Side, cosine: Estimate, combinations: int) -> Verdict:
    """Say where binding is lost.

    Args:
        image: Probe of the pictures' embeddings.
        text: Probe of the captions' embeddings.
        cosine: Own caption against the exchanged one, by the base's cosine.
        combinations: Different combinations among the scenes that cosine was measured on.

    Returns:
        The verdict: "unclear" for fewer than `FEW` combinations; "nothing" where cosine's whole interval is at least
        `BINDS`; the sides that lost it; "alignment" where both kept it and cosine's whole interval is below `BINDS`;
        "unclear" where an interval spans a threshold, or a probe reads little and has learnt from too few scenes.
    """
    reasons = [_cosine(cosine), _side("pictures", image), _side("captions", text)]
    if combinations < FEW:
        reasons.append(
            f"There are {combinations} different combinations of attributes and objects; fewer than {FEW} tell nothing "
            f"about others. Pass scenes of more combinations."
        )
        return _verdict("unclear", reasons)
    if cosine.low >= BINDS:
        return _verdict("nothing", reasons)
    states = image.state, text.state
    if states == ("kept", "kept") and cosine.high < BINDS:
        return _verdict("alignment", reasons)
    # A side that lost it decides, whatever the other: what one does not say the two cannot share.
    lost = {("lost", "lost"): "both", ("lost", "kept"): "image", ("kept", "lost"): "text"}
    if states in lost:
        return _verdict(lost[states], reasons)
    return _verdict("unclear", [*reasons, *_doubts(image, text, cosine)])


def judge_repair(name: str, binding: Compared, place: int, retrieval: Sequence[Compared]) -> list[str]:
    """Say what a matrix wins back and what it costs.

    Args:
        name: What the matrix is, for the sentence, for example "A matrix fitted on other combinations".
        binding: Base first.
        place: Of the matrix among the models.
        retrieval: Of the same models.
    """
    base, ours, moved = binding.estimates[0], binding.estimates[place], binding.differences[place - 1]
    if not moved.measurable:
        gain = f"{name} makes no measurable difference to binding: {_from_to(base, ours)}."
    elif moved.value < 0:
        gain = f"{name} makes binding worse: {_from_to(base, ours)}."
    else:
        share = moved.value / (1 - base.value)
        amount = "most" if share >= MOST else "some"
        gain = f"{name} wins back {amount} of what cosine loses, {share:.0%}: {_from_to(base, ours)}."
    return [gain, _costs(name, retrieval, place)]


def judge_new_pairs(found: Compared) -> str:
    """Say whether a fitted matrix holds on attribute-object pairs that it never saw."""
    base, ours, moved = *found.estimates, found.differences[0]
    where = f"on scenes with a pair that its captions and negatives never named ({ours.n:,})"
    if not moved.measurable:
        return f"A fitted matrix makes no measurable difference {where}: {_from_to(base, ours)}."
    if moved.value < 0:
        return f"A fitted matrix binds worse {where}: {_from_to(base, ours)}."
    share = moved.value / (1 - base.value)
    return f"A fitted matrix wins back {share:.0%} {where}: {_from_to(base, ours)}."


def _verdict(code: str, reasons: Sequence[str]) -> Verdict:
    return Verdict(code, _HEADLINES[code], reasons)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _from_to(base: Estimate, ours: Estimate) -> str:
    return f"{base.value:.3f} to {_interval(ours)}"


def _cosine(estimate: Estimate) -> str:
    return (
        f"Cosine prefers a picture's own caption to the one with two attributes exchanged in {_interval(estimate)} of "
        f"{estimate.n:,} scenes (chance .5, a tie is wrong)."
    )


def _side(what: str, side: Side) -> str:
    probed = side.probed
    said = {
        "kept": "it knows which is whose",
        "lost": "it does not know which is whose",
        "unclear": "too near the middle to tell",
    }[side.state]
    if side.state == "lost" and probed.accuracy.high < probed.bag_chance:
        said = "it does not even know which attributes are there"
    if side.state == "unclear" and (side.rising or side.short):
        said = "more scenes may let it read more"
    return (
        f"A linear probe reads an object's attribute from {what} alone in {_interval(probed.accuracy)} of cases "
        f"(chance {probed.accuracy.chance:.3f}; {probed.bag_chance:.3f} for one who knows the attributes but not "
        f"whose): {said}."
    )


def _doubts(image: Side, text: Side, cosine: Estimate) -> list[str]:
    doubts = []
    for what, side in (("pictures", image), ("captions", text)):
        if side.state == "unclear" and side.short:
            doubts.append(
                f"The probe of {what} learnt from {side.probed.learnt:,} things an object, fewer than the "
                f"{side.probed.dim:,} numbers of an embedding. Pass more labelled scenes."
            )
        elif side.state == "unclear" and side.rising:
            doubts.append(f"The probe of {what} would read more from more scenes. Pass more labelled scenes.")
        elif side.state == "unclear":
            doubts.append(f"The probe of {what} has an interval that spans the threshold. Pass more labelled scenes.")
    if not doubts and cosine.low < BINDS <= cosine.high:
        doubts.append(
            f"Cosine's interval spans {BINDS}, from which on it counts as binding. Pass more labelled scenes."
        )
    if not doubts:
        doubts.append("One side lost binding, and the other is too near the middle.")
    return doubts


def _costs(name: str, retrieval: Sequence[Compared], place: int) -> str:
    """What retrieval loses and gains, by name, measurable moves only."""
    moves: dict[str, list[str]] = {"loses": [], "gains": []}
    for one in retrieval:
        difference: Difference = one.differences[place - 1]
        if difference.measurable:
            said = f"{abs(difference.value):.3f} of {spoken(one.metric)}"
            moves["loses" if difference.value < 0 else "gains"].append(said)
    subject = f"{name[0].lower()}{name[1:]}"
    if not moves["loses"]:
        gains = f"; it gains {', '.join(moves['gains'])}" if moves["gains"] else ""
        return f"For retrieval {subject} costs nothing measurable{gains}."
    gains = f" and gains {', '.join(moves['gains'])}" if moves["gains"] else ""
    return f"For retrieval {subject} loses {', '.join(moves['loses'])}{gains}."


def spoken(metric: str) -> str:
    """A metric of retrieval in words: "captions_t2i_r1" to "R@1 captions to pictures"."""
    kind, direction, _ = metric.split("_")
    return f"R@1 {kind} to pictures" if direction == "t2i" else f"R@1 pictures to {kind}"
