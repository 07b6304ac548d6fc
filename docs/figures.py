"""Draw figures of the documentation: a fit's frontier, the results of evaluation, gains and costs of strength.

    python docs/figures.py

It takes half a minute. Other figures are made by `labclip demo` and by `benchmarks/app.py --screenshot`.
"""

import json
import tempfile
from pathlib import Path

import labclip
from labclip.evaluation import Report
from labclip.report import Page
from labclip.report.drawing import BLUE, GREEN, GRID, ORANGE, PINK, SKY, SOFT, as_svg, legend_below, new_figure

DOCS = Path(__file__).parent
CURVES = {
    "binding_seen": ("binding, pairs of the fit", GREEN, "-"),
    "binding_heldout": ("binding, unseen pairs", GREEN, "--"),
    "query_three": ("three objects, query of parts", SKY, "-"),
    "sentences_t2i_r1": ("R@1, sentences", BLUE, "-"),
    "tags_t2i_r1": ("R@1, tags", BLUE, "--"),
    "tags_three_t2i_r1": ("R@1, tags of three objects", ORANGE, "-"),
    "single_object": ("one object, 120 classes", PINK, "-"),
}


def first_figure(page: Page) -> bytes:
    """The first figure of a page, as SVG."""
    return as_svg(next(figure for section in page.sections for figure in section.figures).draw())


def frontier() -> bytes:
    """The figure of the fit in the quickstart."""
    with tempfile.TemporaryDirectory() as scratch:
        table = labclip.scenes.sample(1000, seed=1).save(Path(scratch) / "data")
        features = labclip.embed(
            labclip.LABCLIP.from_pretrained("scenes"), table, Path(scratch) / "features", progress=False
        )
        return first_figure(labclip.fit(features, progress=False).page())


def strength() -> bytes:
    """Metrics of the embedded model by strength, from the file that `weights/make.py` writes."""
    results = json.loads((DOCS.parent / "weights" / "scenes" / "results.json").read_text(encoding="utf-8"))
    trial = next(trial for trial in results["trials"] if trial["seed"] == results["shipped"])
    by_strength = {0.0: trial["base"], trial["strength"]: trial["labclip"]}
    by_strength |= {float(strength): values for strength, values in trial["strengths"].items()}
    strengths = sorted(by_strength)
    figure, axes = new_figure(5.6, 4.6)
    for metric, (name, colour, style) in CURVES.items():
        values = [by_strength[strength][metric] for strength in strengths]
        axes.plot(strengths, values, color=colour, linestyle=style, label=name)
    axes.axvline(trial["strength"], color=SOFT, linestyle=":", linewidth=1, label="strength that ships")
    axes.set(xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy, or recall")
    axes.grid(color=GRID, linewidth=0.6)
    legend_below(figure, axes, columns=2)
    return as_svg(figure)


def main() -> None:
    """Write the figures next to the pages."""
    report = Report.from_json(DOCS.parent / "benchmarks" / "results" / "scenes.json")
    figures = {"fit": frontier(), "results": first_figure(report.page()), "strength": strength()}
    for name, data in figures.items():
        (DOCS / f"{name}.svg").write_bytes(data)


if __name__ == "__main__":
    main()
