"""What a demonstration found, for its report and its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Example:
    """One scene as both models see it.

    Attributes:
        image: uint8 [256, 256, 3].
        captions: The right caption and the one with the colours exchanged.
        fitted: Whether the fit knew all its colour-shape pairs.
        base: Cosines of the base with the two captions.
        labclip: Cosines of LABCLIP with the two captions.
        base_share: Probability that the base gives the right one of the two captions, at its own temperature.
        labclip_share: The same for LABCLIP.
    """

    image: NDArray[np.uint8]
    captions: tuple[str, str]
    fitted: bool
    base: tuple[float, float]
    labclip: tuple[float, float]
    base_share: float
    labclip_share: float


@dataclass(frozen=True)
class Demo:
    """What a run found: `results` is plain JSON (see `run`), `examples` are the first scenes of the draw."""

    results: dict[str, Any]
    examples: list[Example]
