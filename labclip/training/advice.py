"""Whether a fit was worth it, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from labclip.messages import typed
from labclip.training.frontier import HeldOut, Point, at_strength

_FEW = 200  # below this many held-out captions an accuracy is known to some 7 percent at best
_BINDS = 0.95


def advice(points: Sequence[Point], strength: float, own: HeldOut | None) -> tuple[list[str], bool]:
    """What speaks against using a matrix.

    Args:
        points: The frontier; empty where nothing was held out.
        strength: The one selected.
        own: The held-out data of the fit's domain.

    Returns:
        Sentences for the user, and whether the matrix is worth using.
    """
    if own is None:
        return ["Nothing was held out, so nothing is known of what this matrix gains and costs. Evaluate it."], True
    if not own.bound:
        return ["The held-out data has no negatives, so binding was not measured. Evaluate the matrix."], True
    before, after = at_strength(points, 0).binding, at_strength(points, strength).binding
    assert before is not None
    assert after is not None
    spread = sum(accuracy * (1 - accuracy) for accuracy in (after, before))
    error = math.sqrt(max(spread, 1 / own.bound) / own.bound)  # of the difference
    told = []
    if own.bound < _FEW:
        told.append(
            f"Only {own.bound} captions with a negative were held out: what they gain is known to about "
            f"{2 * error:.2f}. Fit on more data, or pass {typed('validation', '--validation')}."
        )
    if before >= _BINDS:
        told.append(f"The base already binds {before:.3f} of {own.bound} held-out captions. There is little to repair.")
    explained = after - before < 2 * error
    if strength == 0:
        told.append("No strength binds better without costing retrieval: keep the base as it is.")
    elif explained:
        told.append(
            f"Binding went from {before:.3f} to {after:.3f} on {own.bound} held-out captions, which chance may "
            f"explain. Fit on more captions, or keep the base."
        )
    return told, strength != 0 and not explained
