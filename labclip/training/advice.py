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
    base = next(point for point in points if point.strength == 0)
    ours = next(point for point in points if point.strength == strength)
    if base.binding is None or ours.binding is None:
        return ["The held-out data has no negatives, so binding was not measured. Evaluate the matrix."], True
    count = len(sets[0].texts)
    told = []
    error = math.sqrt(max(ours.binding * (1 - ours.binding) + base.binding * (1 - base.binding), 1 / count) / count)
    if count < _FEW:
        told.append(
            f"Only {count} captions were held out: binding is known to about {2 * error:.2f}. Fit on more data, or "
            f"pass validation."
        )
    if base.binding >= _BINDS:
        told.append(f"The base already binds: {base.binding:.3f} of the held-out captions. There is little to repair.")
    gain = ours.binding - base.binding
    if strength == 0:
        told.append("No strength binds better without costing retrieval: keep the base as it is.")
    elif gain < 2 * error:
        told.append(
            f"Binding went from {base.binding:.3f} to {ours.binding:.3f} on {count} held-out captions, which chance "
            f"may explain. Fit on more captions, or keep the base."
        )
    return told, strength != 0 and gain >= 2 * error
