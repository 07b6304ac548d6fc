"""Draw the figures of the documentation: a fit's frontier, the kept results, what strength gains and costs.

    python docs/figures.py

Half a minute. The demo's figures are those of `labclip demo`, the web page's is a screenshot.
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
    """What `labclip sample`, `embed` and `fit` as printed in the quickstart come to."""
    with tempfile.TemporaryDirectory() as scratch:
        table = labclip.scenes.sample(1000, seed=0).save(Path(scratch) / "data")
        features = labclip.embed(
            labclip.LABCLIP.from_pretrained("scenes"), table, Path(scratch) / "features", progress=False
        )
        return first_figure(labclip.fit(features, progress=False).page())


def strength() -> bytes:
    """The embedded model by strength, from the record of `weights/make.py`."""
    record = json.loads((DOCS.parent / "weights" / "scenes" / "results.json").read_text(encoding="utf-8"))
    trial = next(one for one in record["trials"] if one["seed"] == record["shipped"])
    found = {0.0: trial["base"], trial["strength"]: trial["labclip"]}
    found |= {float(at): figures for at, figures in trial["strengths"].items()}
    figure, axes = new_figure(5.6, 4.6)
    for metric, (name, colour, style) in CURVES.items():
        axes.plot(sorted(found), [found[at][metric] for at in sorted(found)], color=colour, linestyle=style, label=name)
    axes.axvline(trial["strength"], color=SOFT, linestyle=":", linewidth=1, label="strength that ships")
    axes.set(xlabel="strength: 0 the base, 1 as fitted", ylabel="accuracy, or recall")
    axes.grid(color=GRID, linewidth=0.6)
    legend_below(figure, axes, columns=2)
    return as_svg(figure)


def main() -> None:
    """Write the figures beside the pages."""
    report = Report.from_json(DOCS.parent / "benchmarks" / "results" / "scenes.json")
    figures = {"fit": frontier(), "results": first_figure(report.page()), "strength": strength()}
    for name, data in figures.items():
        (DOCS / f"{name}.svg").write_bytes(data)


if __name__ == "__main__":
    main()
