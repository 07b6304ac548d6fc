"""How a report is said and shown: gains beside costs, in every form, and read again from its file."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest

from labclip.cli import main as command
from labclip.evaluation import BENCHMARKS, Benchmark, Report, Result, summary
from labclip.evaluation.scores import Compared, Difference, Estimate, ScoredItems, compare, one_group
from labclip.io.published import PUBLISHED, REPORTED
from labclip.report import render
from labclip.report.values import gain_sentence

TOP = command.make_context("labclip", ["list"])  # click keeps a command's help option as it was first made

BETTER, WORSE = Difference(0.38, 0.35, 0.41, True), Difference(-0.02, -0.03, -0.01, True)
NONE = Difference(0.004, -0.011, 0.02, False)


def benchmark(name="sugarcrepe", measures="binding", headline=("binding",), title="A benchmark"):
    return Benchmark(name, title, measures, lambda sources: None, paper="arXiv:0000.00000", headline=headline)


def compared(metric, *differences, base=0.5, chance=0.25, n=1200, side=None):
    values = [base, *(base + difference.value for difference in differences)]
    of = "retrieval" if "t2i" in metric else "classification" if "acc" in metric else ""
    estimates = [Estimate(v, v - 0.02, v + 0.02, n, chance) for v in values]
    return Compared(metric, estimates, differences, of if side is None else side)


def shown(metric, *differences, of=None, side="binding", **further):
    return summary.MetricEntry(of or benchmark(), compared(metric, *differences, **further), side)


def report(*results, models=("base", "labclip")):
    facts = [{"name": name, "strength": 1.0, "matrix_sha256": "c" * 64} for name in models[1:]]
    return Report("ViT-B-32-quickgelu (openai)", "b" * 64, models, facts, results, {"labclip": "0.1.0", "torch": "2.8"})


def result(*metrics, of=None, notes=()):
    return Result(of or benchmark(), metrics, notes, 1000, 2400)


def several():
    return report(
        result(compared("add", WORSE), compared("swap", BETTER), compared("part", NONE),
               of=benchmark("sugarcrepe", headline=("swap", "add"), title="SugarCrepe")),
        result(compared("t2i_r1", NONE), compared("t2i_r5", NONE),
               of=benchmark("coco", "retrieval", ("t2i_r1",), "COCO retrieval")),
    )  # fmt: skip


def in_one_line(text):
    return " ".join(str(text).split())


@pytest.mark.parametrize(
    ("metric", "base", "facts", "sentence"),
    [
        ("binding", 0.51, {"chance": 0.5}, "confuses which attribute belongs to which object: 51% accuracy "
                                           "(chance 50%) on SCENES."),
        ("swap", 0.624, {"name": "sugarcrepe"}, "confuses right and wrong captions: 62.4% accuracy (chance 25%) on "
                                                "SUGARCREPE, swap."),
        ("t2i_r5", 0.304, {"name": "coco", "side": "retrieval", "chance": 0.001},
         "gets 30.4% in text-to-image retrieval (R@5) (chance 0.1%) on COCO."),
    ],
)  # fmt: skip
def test_the_first_sentence_says_what_the_base_does(metric, base, facts, sentence):
    name = facts.pop("name", "scenes")
    metric_shown = shown(metric, of=benchmark(name, title=name.upper()), base=base, **facts)
    assert summary.base_sentence(metric_shown) == f"This model {sentence}"


def test_the_first_sentence_tells_binding_or_swap_before_the_first_headline_metric():
    sugarcrepe = [shown(name, of=benchmark(headline=("add", "swap"))) for name in ("add", "swap", "swap_att")]
    aro = [shown(name, of=benchmark("vg-r", headline=("macro", "micro"))) for name in ("micro", "macro", "on")]
    coco = [shown("t2i_r1", of=benchmark("coco"), side="retrieval")]
    leads = [summary.lead_metric(chosen).compared.metric for chosen in (sugarcrepe, aro, coco, coco + aro)]
    assert leads == ["swap", "macro", "t2i_r1", "macro"]


def test_what_a_matrix_makes_of_it_has_its_sign():
    for moved, ending in ((BETTER, "."), (WORSE, ", which is worse."), (NONE, ", no measurable difference.")):
        assert gain_sentence("With it it is", 0.985, moved.measured) == f"With it it is 98.5%{ending}"


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({}, "What it costs was not measured."),
        ({"a": NONE, "b": BETTER}, "It costs nothing measurable in 2 other figures."),
        ({"a": NONE, "retrieval (R@1)": WORSE}, "It costs 2 points in retrieval."),
        ({"a": Difference(-0.01, -0.02, -0.001, True), "b": WORSE}, "It costs 2 points in b, and less in 1 other."),
        ({"a": Difference(-0.9, -0.95, 0.1, False)}, "It costs nothing measurable in 1 other figure."),
    ],
)
def test_what_it_costs_is_the_largest_measurable_loss(others, sentence):
    assert summary.cost_sentence(others) == sentence


def test_a_side_that_was_not_measured_is_named():
    text = in_one_line(report(result(compared("binding", BETTER), compared("t2i_r1", NONE))))
    assert "Not measured: zero-shot classification. Type labclip evaluate --list" in text


def test_many_benchmarks_begin_with_a_short_table():
    short, first, *others = several().page().sections
    assert [section.heading for section in (short, first, *others)] == [
        "In short", "SugarCrepe", "COCO retrieval", "Not measured",
    ]  # fmt: skip
    assert [[row[0].value for row in table.rows] for table in short.tables] == [
        ["SugarCrepe, add", "SugarCrepe, swap"], ["COCO retrieval, t2i_r1"],
    ]  # fmt: skip
    assert [row[0].value for row in first.tables[0].rows] == ["add", "swap", "part"]


def test_a_base_alone_has_no_gains_and_no_costs():
    alone = report(result(compared("binding"), compared("t2i_r1")), models=("base",))
    text = in_one_line(alone)
    assert "binding 1,200 0.250 0.500 [0.480, 0.520]" in text
    assert "difference" not in text
    assert "cost" not in text.split("Pass alignments=A to see what a matrix gains and what it costs.")[1]
    assert not [section for section in alone.page().sections if section.figures]


def test_markdown_latex_and_page_have_the_same_cells():
    evaluated = several()
    rows = [line for line in evaluated.to_markdown(level=2).splitlines() if line.startswith("|")]
    assert len([row for row in rows if "---" in row]) == 2 + 1 + 1
    assert "| SugarCrepe, swap | 1,200 | 0.250 | 0.500 | 0.880 | +0.380 | [+0.350, +0.410] |" in rows
    latex = evaluated.to_latex()
    assert r"SugarCrepe, swap & 1,200 & 0.250 & 0.500 & 0.880 & +0.380 & [+0.350, +0.410] \\" in latex
    assert r"t2i\_r1 & 1,200 & 0.250 & 0.500 & 0.504 & no measurable difference & [$-$0.011, +0.020] \\" in latex
    html = render(evaluated.page())
    assert '<td class="good">+0.380 <small>better</small></td>' in html
    assert '<td class="bad">-0.020 <small>worse</small></td>' in html
    assert html.count("data:image/svg+xml;base64,") == 1
    assert html == render(several().page())


def test_chance_of_many_differences_is_told():
    few, many = (report(result(*(compared(f"m{i}", NONE) for i in range(n)))) for n in (19, 20))
    assert "by chance alone" not in str(few)
    assert "Of 20 differences about one in twenty" in in_one_line(many)


@pytest.mark.parametrize("models", [("base",), ("base", "labclip"), ("base", "a@0.5", "a@1")])
def test_a_kept_report_is_the_same_when_read_again(models, tmp_path):
    moved = [NONE, BETTER][: len(models) - 1]
    metrics = [compared("macro", *moved, chance=None), compared("macro_blind", *moved, side="control")]
    evaluated = report(result(*metrics, of=BENCHMARKS["sugarcrepe"], notes=["3 images are missing"]), models=models)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(evaluated.to_json()), encoding="utf-8")
    assert Report.from_json(path).to_markdown() == evaluated.to_markdown()
    assert Report.from_json(path).to_json() == json.loads(path.read_text())


def test_what_is_no_kept_report_is_refused(tmp_path):
    path = tmp_path / "report.json"
    path.write_text('{"base": "x"}')
    with pytest.raises(ValueError, match=r"report.json is no report that `to_json` made: KeyError\('measured'\)"):
        Report.from_json(path)
    value = report(result(compared("binding", BETTER), of=benchmark("nonsense"))).to_json()
    with pytest.raises(ValueError, match=r"The value is no report that `to_json` made: KeyError\('nonsense'\)"):
        Report.from_json(value)


def test_published_figures_are_fractions_each_with_a_command_that_is_there():
    for figure in REPORTED:
        assert all(0 <= value <= 1 for value in figure.values.values())
        program, name, *arguments = shlex.split(figure.command.replace("FOLDER", "scenes"))
        assert program == "labclip"
        if name == "evaluate":
            given = command.get_command(None, name).make_context(name, arguments, parent=TOP).params
            assert given["benchmarks"] == (figure.benchmark,)
        assert figure.matrix is None or figure.matrix in [[entry.name, entry.alignment] for entry in PUBLISHED]
    assert PUBLISHED[0].reported["sugarcrepe"] == {
        "base": {"replace": 0.80, "swap": 0.62}, "labclip": {"replace": 0.82, "swap": 0.74},
    }  # fmt: skip


def test_a_table_for_a_paper_has_models_in_rows_and_headlines_in_columns():
    first = several()
    other = replace(report(replace(first.results[0], compared=first.results[0].compared[:2])), base="ViT_L (100%)")
    lines = first.to_latex(other, rows="models", percent=True).splitlines()
    mark, heads = r"\rlap{$^{\dagger}$}", (r"SugarCrepe\\swap", r"COCO retrieval\\T2I R@1")
    assert [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")] == [
        ["", "SugarCrepe add", *(rf"\shortstack[r]{{{head}}}" for head in heads)],
        ["ViT-B-32-quickgelu (openai)", "50.0", "50.0", "50.0"],
        ["labclip", f"48.0{mark}", f"88.0{mark}", "50.4"],
        [r"ViT\_L (100\%)", "50.0", "50.0", "--"],
        ["labclip", f"48.0{mark}", f"88.0{mark}", "--"],
        ["chance", "25.0", "25.0", "25.0"],
    ]
    assert r"\begin{tabular}{@{}lrrr@{}}" in lines
    assert f"0.480{mark}" in first.to_latex(rows="models")
    assert "t2i_r5" not in first.to_latex(rows="models")
    fewer = report(result(compared("swap", BETTER, n=600), of=benchmark(headline=("swap",), title="SugarCrepe")))
    with pytest.raises(ValueError, match="SugarCrepe swap was measured on 1,200 items of one base and on 600 of ViT"):
        first.to_latex(fewer, rows="models")
    assert first.to_latex(other) == first.to_latex(other, rows="models")
    with pytest.raises(ValueError, match="rows is 'columns'"):
        first.to_latex(rows="columns")


def test_controls_stand_behind_their_metric_and_say_what_needs_the_image():
    base = {"correct": np.arange(40) < 20, "unit": np.arange(40), "metrics": {"swap": one_group(40)}, "chance": 0.5}
    ours = base | {"correct": np.arange(40) < 35}
    blind, grounded = np.arange(40) < 20, np.arange(40) < 24
    models = [ScoredItems(**base, controls={"blind": blind, "grounded": blind}),
              ScoredItems(**ours, controls={"blind": blind, "grounded": grounded})]  # fmt: skip
    evaluated = report(result(*compare(models), compared("t2i_r1", NONE), of=benchmark(headline=("swap",))))
    page = evaluated.page()
    (table, _) = page.sections[0].tables
    assert [row[0].value for row in table.rows] == ["swap", "swap_blind", "swap_grounded"]
    assert [list(row[1:5]) for row in table.rows] == [[40, 0.5, 0.5, 0.875], [40, 0.5, 0.5, 0.5], [40, 0.5, 0.5, 0.6]]
    assert "With the matrix it is 87.5%. Of +0.38 gained, +0.10 needs the image." in page.lead
    assert "NAME_blind" in dict(page.facts)["How to read"]
    assert evaluated.to_json()["benchmarks"]["sugarcrepe"]["sides"]["swap_blind"] == "control"
    assert "mean image" not in evaluated.to_latex(rows="models")
