"""Whether a fit was worth it, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from labclip.training.frontier import Held, Point

_FEW = 200  # below this many held-out captions a share is known to some 7 percent at best
_BINDS = 0.95


def advice(points: Sequence[Point], strength: float, sets: Sequence[Held]) -> tuple[list[str], bool]:
    """What speaks against using a matrix.

    Args:
        points: The frontier; empty where nothing was held out.
        strength: The one chosen.
        sets: The held-out data, the own first.

    Returns:
        Sentences for the user, and whether the matrix is worth using.
    """
    if not points:
        return ["Nothing was held out, so nothing is known of what this matrix gains and costs. Evaluate it."], True
    if not sets[0].bound:
        return ["The held-out data has no negatives, so binding was not measured. Evaluate the matrix."], True
    base = next(point for point in points if point.strength == 0)
    ours = next(point for point in points if point.strength == strength)
    assert base.binding is not None
    assert ours.binding is not None
    count = sets[0].bound
    told = []
    spread = sum(share * (1 - share) for share in (ours.binding, base.binding))
    error = math.sqrt(max(spread, 1 / count) / count)  # of the difference
    if count < _FEW:
        told.append(
            f"Only {count} captions with a negative were held out: what they gain is known to about {2 * error:.2f}. "
            f"Fit on more data, or pass validation."
        )
    if base.binding >= _BINDS:
        told.append(
            f"The base already binds: {base.binding:.3f} of {count} held-out captions. There is little to repair."
        )
    gain = ours.binding - base.binding
    if strength == 0:
        told.append("No strength binds better without costing retrieval: keep the base as it is.")
    elif gain < 2 * error:
        told.append(
            f"Binding went from {base.binding:.3f} to {ours.binding:.3f} on {count} held-out captions, which chance "
            f"may explain. Fit on more captions, or keep the base."
        )
    return told, strength != 0 and gain >= 2 * error
