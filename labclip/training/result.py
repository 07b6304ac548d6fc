"""What a fit hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labclip.alignment import Alignment
from labclip.training.frontier import Point


@dataclass(frozen=True)
class FitResult:
    """A fitted matrix and how it came about.

    Attributes:
        alignment: The matrix, with the strength chosen on the frontier.
        history: A record of each epoch: epoch, loss, logit_scale, distance (||A - I||_F before scaling); and after some
            epochs, where the recipe looks at validation, binding and worth of the point that would be chosen.
        frontier: What each strength from 0 to 1.25 does on the held-out data, and in a made-up domain; empty where
            nothing is held out.
        advice: What a user should know before using the matrix, a sentence each; empty if nothing speaks against it.
        worthwhile: Whether the matrix binds better than its base by more than chance explains, at no measurable cost.
    """

    alignment: Alignment
    history: list[dict[str, Any]]
    frontier: list[Point]
    advice: list[str]
    worthwhile: bool

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw binding against retrieval over strength, and the epochs. Needs the extra `eval`.

        Args:
            path: Where to save the picture; its ending says the format.

        Returns:
            The matplotlib figure.

        Raises:
            MissingPackageError: If matplotlib is missing.
            ValueError: If nothing was held out, so that there is no frontier.
        """
        from labclip.training.plot import plot

        return plot(self.frontier, self.history, self.alignment.strength, path)
