"""The figures of a diagnosis, by the section they stand in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labclip.analysis import plots
from labclip.report import Figure, drawn

if TYPE_CHECKING:
    from labclip.analysis.diagnosis import Diagnosis


class Pictures:
    """Draws what a diagnosis measured.

    Args:
        found: What was measured.
    """

    def __init__(self, found: Diagnosis) -> None:
        self._found = found

    def of(self, heading: str) -> list[Figure]:
        """Those of a section, with what they show in words."""
        return [drawn(figure, alt) for figure, alt in self._drawn(heading)]

    def _drawn(self, heading: str) -> list[tuple[Any, str]]:
        found, details = self._found, self._found.details
        mended = found.repair
        match heading:
            case "The verdict":
                cosine = dict(zip(mended.models, mended.binding.estimates, strict=True))
                values = [*(probed.accuracy for probed in found.probes.values()), *cosine.values()]
                names = ["probe on pictures", "probe on captions", *(f"cosine {name}" for name in cosine)]
                said = ", ".join(f"{name} {one.value:.3f}" for name, one in zip(names, values, strict=True))
                return [(plots.binding(found.probes, cosine), f"Bars of the share right: {said}.")]
            case "What it costs":
                return [(plots.retrieval(mended.retrieval, mended.models), "Recall at 1 of each model; see the table.")]
            case "What each side knows":
                alt = "Accuracy of the probe of each object from pictures and from captions, with intervals."
                return [(plots.by_object(found.probes), alt)]
            case "What is confused":
                return [
                    (plots.confusion(pairs, by), f"A square of the share bound right for each pair of {by}s.")
                    for by, pairs in details.confused.items()
                ]
            case "Captions and their permutations":
                return [(plots.permutations(details.permutations), _medians(found))]
            case "Modality gap":
                return [(plots.gap(details.gap), "Bars of the two measures of the gap; see the table.")]
            case "The matrix":
                assert details.spectrum is not None
                return [(plots.spectrum(details.spectrum), "Singular values, falling.")]
            case "Objects and concepts":
                alt = "Accuracy on objects never learnt from, over the share learnt from; see the table."
                return [(plots.concepts(details.complexity), alt)] if details.complexity else []
            case _:
                return []


def _medians(found: Diagnosis) -> str:
    told = [
        f"{kind} {when} {one.quantiles[0.5]:.3f}"
        for kind, part in found.details.permutations.items()
        for when, one in part.items()
    ]
    return f"Histograms of cosines between captions and their permutations; medians: {', '.join(told)}."
