"""How a report is shown: gains beside costs, in every form, and read again from its file."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labclip.cli import main as command
from labclip.evaluation import BENCHMARKS, Benchmark, Report, Result, summary
from labclip.evaluation.scores import Compared, Difference, Estimate, ScoredItems, compare, everything
from labclip.io.published import PUBLISHED, REPORTED
from labclip.report import render, values

TOP = command.make_context("labclip", ["list"])  # click keeps a command's help option as it was first made

BETTER, WORSE = Difference(0.38, 0.35, 0.41, True), Difference(-0.02, -0.03, -0.01, True)
NONE = Difference(0.004, -0.011, 0.02, False)


def benchmark(name="sugarcrepe", measures="binding", headline=("binding",), title="A benchmark"):
    return Benchmark(name, title, measures, lambda sources: None, paper="arXiv:0000.00000", headline=headline)


def compared(metric, *differences, base=0.5, chance=0.25, n=1200):
    values = [base, *(base + one.value for one in differences)]
    side = "retrieval" if "t2i" in metric else "classification" if "acc" in metric else ""
    return Compared(metric, [Estimate(v, v - 0.02, v + 0.02, n, chance) for v in values], differences, side)


def report(*results, models=("base", "labclip")):
    facts = [{"name": name, "strength": 1.0, "matrix_sha256": "c" * 64} for name in models[1:]]
    return Report("ViT-B-32-quickgelu (openai)", "b" * 64, models, facts, results, {"labclip": "0.1.0", "torch": "2.8"})


def result(*metrics, of=None, notes=()):
    return Result(of or benchmark(), metrics, notes, 1000, 2400)


def both_sides(*differences):
    """Differences a model: binding, retrieval and classification move by the same."""
    return result(*(compared(name, *differences) for name in ("binding", "t2i_r1", "acc1")))


def several():
    return report(
        result(compared("add", WORSE), compared("swap", BETTER), compared("part", NONE),
               of=benchmark("sugarcrepe", headline=("swap", "add"), title="SugarCrepe")),
        result(compared("t2i_r1", NONE), compared("t2i_r5", NONE),
               of=benchmark("coco", "retrieval", ("t2i_r1",), "COCO retrieval")),
    )  # fmt: skip


def test_all_benchmarks_measure_a_known_side():
    assert {one.measures for one in BENCHMARKS.values()} <= set(summary.SIDES)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([BETTER], "binding +0.380 [+0.350, +0.410]"),
        ([NONE], "binding no measurable difference"),
        ([NONE, NONE], "binding no measurable difference in any of 2 metrics"),
        ([BETTER, NONE], "binding better in 1 of 2 metrics, at most +0.380 [+0.350, +0.410] (m0)"),
        ([WORSE, WORSE], "binding worse in 2 of 2 metrics, at most -0.020 [-0.030, -0.010] (m0)"),
        (
            [WORSE, BETTER, Difference(0.1, 0.05, 0.15, True), Difference(-0.5, -0.6, -0.4, True), NONE],
            "binding better in 2 and worse in 2 of 5 metrics, at most +0.380 [+0.350, +0.410] (m1) and "
            "-0.500 [-0.600, -0.400] (m3)",
        ),
    ],
)
def test_a_reading_follows_its_rules(differences, said):
    shown = [
        summary.Shown(benchmark(), compared(f"m{number}", one), "binding", f"m{number}")
        for number, one in enumerate(differences)
    ]
    assert summary.reading(shown, 0) == said


def test_gains_and_costs_are_read_side_by_side():
    shown = str(report(both_sides(BETTER)))
    assert (
        "labclip: binding +0.380 [+0.350, +0.410]; retrieval +0.380 [+0.350, +0.410]; zero-shot\n"
        "classification +0.380 [+0.350, +0.410].\n"
    ) in shown
    assert "not measured." not in shown


@pytest.mark.parametrize(
    ("metrics", "missing"),
    [
        (("binding",), ("Retrieval was not measured. Type: labclip evaluate coco --model MODEL --data PATH --images ",
                        "Zero-shot classification was not measured. Type: labclip evaluate zero-shot ")),
        (("t2i_r1", "acc1"), ("Binding was not measured. Type: labclip evaluate sugarcrepe ",)),
    ],
)  # fmt: skip
def test_a_side_that_was_not_measured_is_named_with_its_command(metrics, missing):
    shown = " ".join(str(report(result(*(compared(name, BETTER) for name in metrics)))).split())
    for words in missing:
        assert words in shown
    assert shown.count("was not measured. Type:") == len(missing)


def test_what_measures_a_side_is_a_benchmark_of_it():
    for side, (_, typed) in summary.SIDES.items():
        _, name, *arguments = shlex.split(typed)
        (asked,) = command.get_command(None, name).make_context(name, arguments, parent=TOP).params["benchmarks"]
        assert BENCHMARKS[asked].measures == side


def test_the_terminal_shows_every_number_in_its_column():
    rows = result(compared("binding", BETTER), compared("t2i_r1", NONE, base=0.3, chance=0.001))
    lines = str(report(rows)).splitlines()
    gains, costs = (lines.index(f"{words}") for words in ("What it is for: binding", "What it may cost: retrieval"))
    assert lines[gains + 1 : gains + 3] == [
        "metric       n  chance   base  labclip                difference      95% interval",
        "binding  1,200   0.250  0.500    0.880                    +0.380  [+0.350, +0.410]",
    ]
    assert lines[costs + 2] == "t2i_r1   1,200   0.001  0.300    0.304  no measurable difference  [-0.011, +0.020]"
    assert gains < costs


def test_numbers_are_those_of_the_items():
    base = ScoredItems(np.array([1, 0, 0, 0] * 5, bool), np.arange(20), {"binding": everything(20)}, 0.5)
    ours = ScoredItems(np.array([1, 1, 1, 0] * 5, bool), np.arange(20), {"binding": everything(20)}, 0.5)
    # 5 of 20 right and 15 of 20 right; ten items differ, all one way.
    shown = str(report(result(*compare([base, ours]))))
    assert re.search(
        r"^binding +20 +0\.500 +0\.250 +0\.750 +\+0\.500  \[\+0\.\d{3}, \+0\.\d{3}\]$", shown, re.MULTILINE
    )


def test_many_benchmarks_begin_with_a_short_table():
    page = several().page()
    assert [section.heading for section in page.sections] == [
        "In short",
        "SugarCrepe",
        "COCO retrieval",
        "Not measured",
    ]
    short, first, *_ = page.sections
    assert [[list(map(values.shown, row[:2])) for row in table.rows] for table in short.tables] == [
        [["SugarCrepe", "add"], ["SugarCrepe", "swap"]], [["COCO retrieval", "t2i_r1"]],
    ]  # fmt: skip
    assert [row[0].value for row in first.tables[0].rows] == ["add", "swap", "part"]
    assert "better in 1 and worse in 1 of 2 metrics" in short.paragraphs[0]
    assert "(SugarCrepe, swap)" in short.paragraphs[0]
    assert first.paragraphs[0].startswith("labclip: binding better in 1 and worse in 1 of 3 metrics")


def test_several_alignments_are_told_one_a_row():
    models = ("base", "mine@0.5", "mine@1")
    shown = str(report(both_sides(NONE, BETTER), models=models))
    assert "With mine@1 (the best of 2) 88%." in " ".join(shown.split())
    assert re.search(r"^mine@0.5: binding no measurable difference; retrieval no", shown, re.MULTILINE)
    lines = shown.splitlines()
    start = lines.index("What it is for: binding")
    assert [line.split() for line in lines[start + 2 : start + 5]] == [
        ["binding", "1,200", "0.250", "base", "0.500"],
        ["mine@0.5", "0.504", "no", "measurable", "difference", "[-0.011,", "+0.020]"],
        ["mine@1", "0.880", "+0.380", "[+0.350,", "+0.410]"],
    ]


def test_a_base_alone_has_no_gains_and_no_costs():
    alone = report(result(compared("binding"), compared("t2i_r1")), models=("base",))
    shown = str(alone)
    shown = " ".join(shown.split())
    assert "Only the base was measured. Pass alignments=A" in shown
    assert "binding 1,200 0.250 0.500 [0.480, 0.520]" in shown
    assert "difference" not in shown
    assert "cost" not in shown.split("Pass alignments=A to see what a matrix gains and what it costs.")[1]
    assert not [section for section in alone.page(plots=True).sections if section.figures]


@pytest.mark.parametrize("name", ["labclip", "./a/long path/to/an alignment of somebody@0.75"])
@pytest.mark.parametrize("count", [1, 4])
def test_no_line_is_wider_than_asked(name, count):
    models = ("base", *(f"{name}{number}" for number in range(count)))
    long = benchmark("coco", title="A benchmark with a long title", headline=("metric_" * 8,))
    every = [result(compared("metric_" * 8, *[NONE] * count), compared("tags_t2i_r10", *[BETTER] * count), of=one)
             for one in (benchmark(), long)]  # fmt: skip
    shown = str(report(*every, models=models))
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.count("no measurable difference") >= count


def test_markdown_and_latex_have_the_same_cells():
    found = several()
    rows = [line for line in found.to_markdown(level=2).splitlines() if line.startswith("|")]
    assert len([row for row in rows if "---" in row]) == 2 + 1 + 1
    assert "| SugarCrepe | swap | 1,200 | 0.250 | 0.500 | 0.880 | +0.380 [+0.350, +0.410] |" in rows
    assert found.to_markdown(level=2).startswith("## What an alignment gains and costs")
    latex = found.to_latex()
    assert latex.count(r"\begin{table}") == 3
    assert r"SugarCrepe & swap & 1,200 & 0.250 & 0.500 & 0.880 & +0.380 [+0.350, +0.410] \\" in latex
    assert r"t2i\_r1 & 1,200 & 0.250 & 0.500 & 0.504 & no measurable difference & [$-$0.011, +0.020] \\" in latex


def test_the_page_marks_what_is_better_and_worse_and_draws_it():
    html = render(several().page(plots=True))
    assert '<td class="good">+0.380 [+0.350, +0.410] <small>better</small></td>' in html
    assert '<td class="bad">-0.020 [-0.030, -0.010] <small>worse</small></td>' in html
    assert '<td class="none">no measurable difference</td>' in html
    assert html.count("data:image/svg+xml;base64,") == 1
    assert "Differences to the base by metric. labclip: binding better in 1 and worse in 1 of 2" in html
    assert html == render(several().page(plots=True))


def test_a_hostile_alignment_note_or_title_stays_text(tmp_path):
    hostile = "<script>alert('$x_$')</script>"
    found = report(
        result(compared("binding", NONE, BETTER), of=benchmark(title=hostile), notes=[hostile]),
        models=("base", hostile, f"{hostile}2"),
    )
    html = found.write_html(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#39;$x_$&#39;)&lt;/script&gt;") > 6
    assert "<script" not in found.to_markdown()
    assert "$x" not in found.to_latex().replace(r"\$x", "")


def test_chance_of_many_differences_is_told():
    few, many = (report(result(*(compared(f"m{i}", NONE) for i in range(n)))) for n in (19, 20))
    assert "by chance alone" not in str(few)
    assert "Of 20 differences about one in twenty" in " ".join(str(many).split())


@pytest.mark.parametrize("models", [("base",), ("base", "labclip"), ("base", "a@0.5", "a@1")])
def test_a_kept_report_is_the_same_when_read_again(models, tmp_path):
    moved = [NONE, BETTER][: len(models) - 1]
    notes = ["3 images are missing"]
    found = report(
        result(compared("macro", *moved, chance=None), of=BENCHMARKS["sugarcrepe"], notes=notes), models=models
    )
    path = tmp_path / "report.json"
    path.write_text(json.dumps(found.to_json()), encoding="utf-8")
    assert Report.from_json(path).to_markdown() == found.to_markdown()
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
    for one in REPORTED:
        assert all(0 <= value <= 1 for value in one.values.values())
        program, name, *arguments = shlex.split(one.command)
        assert program == "labclip"
        if name == "evaluate":
            given = command.get_command(None, name).make_context(name, arguments, parent=TOP).params
            assert given["benchmarks"] == (one.benchmark,)
        assert one.matrix is None or one.matrix in [[entry.name, entry.alignment] for entry in PUBLISHED]
    assert PUBLISHED[0].reported["sugarcrepe"] == {
        "base": {"replace": 0.80, "swap": 0.62}, "labclip": {"replace": 0.82, "swap": 0.74},
    }  # fmt: skip


def test_a_published_figure_stands_beside_ours_only_where_it_is_of_the_same_matrix(monkeypatch):
    path = Path(__file__).parent.parent / "docs" / "reference.py"
    specification = importlib.util.spec_from_file_location("reference", path)
    reference = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(reference)
    ours = report(result(compared("swap", BETTER, base=0.6), compared("replace", NONE), of=BENCHMARKS["sugarcrepe"]))
    monkeypatch.setattr(reference, "_kept", lambda: [ours])
    row = "| SugarCrepe | swap | ViT-B/32 | 0.62 | 0.74 | NegCLIP 0.75 | {} |"
    assert row.format("not measured here") in reference.published()
    assert "labclip evaluate sugarcrepe" in reference.published()
    ours.alignments[0]["matrix_sha256"] = PUBLISHED[0].matrix_sha256
    assert row.format("0.600, 0.980") in reference.published()
    assert "labclip evaluate sugarcrepe" not in reference.published()


def test_a_report_names_no_file_that_only_the_repository_has():
    assert not [one.name for one in BENCHMARKS.values() if "docs/" in one.paper]


def two_bases():
    """Reports of two bases with two benchmarks, of which the second lacks one."""
    add, swap = compared("add", WORSE), compared("swap", BETTER)
    first = report(
        result(add, swap, compared("part", NONE), of=benchmark(headline=("swap", "add"), title="Sugar & Crepe")),
        result(compared("t2i_r1", NONE), compared("t2i_r5", NONE), of=benchmark("coco", "retrieval", ("t2i_r1",))),
    )
    other = report(result(add, swap, of=benchmark(headline=("swap", "add"), title="Sugar & Crepe")))
    return first, replace(other, base="ViT_L (100%)")


def test_a_table_for_a_paper_has_models_in_rows_and_headlines_in_columns():
    first, other = two_bases()
    lines = first.to_latex(other, rows="models", percent=True).splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines if line.endswith(r"\\")]
    mark = r"\rlap{$^{\dagger}$}"
    assert rows == [
        [
            "",
            *(
                rf"\shortstack[r]{{{head}}}"
                for head in (r"Sugar \& Crepe\\add", r"Sugar \& Crepe\\swap", r"A benchmark\\T2I R@1")
            ),
        ],
        ["ViT-B-32-quickgelu (openai)", "50.0", "50.0", "50.0"],
        ["labclip", f"48.0{mark}", f"88.0{mark}", "50.4"],
        [r"ViT\_L (100\%)", "50.0", "50.0", "--"],
        ["labclip", f"48.0{mark}", f"88.0{mark}", "--"],
        ["chance", "25.0", "25.0", "25.0"],
    ]
    assert r"\begin{tabular}{@{}lrrr@{}}" in lines
    assert any("measurably different from the base" in line for line in lines)
    assert f"0.480{mark}" in first.to_latex(rows="models")
    assert "t2i_r5" not in first.to_latex(rows="models")


def test_a_table_for_a_paper_of_different_items_is_refused():
    first, other = two_bases()
    fewer = report(result(compared("swap", BETTER, n=600), of=benchmark(headline=("swap",), title="Sugar & Crepe")))
    with pytest.raises(ValueError, match="sugarcrepe swap was measured on 1,200 items of one base and on 600 of ViT"):
        first.to_latex(fewer, rows="models")
    with pytest.raises(ValueError, match='need rows="models"'):
        first.to_latex(other)
    with pytest.raises(ValueError, match='need rows="models"'):
        first.to_latex(percent=True)
    with pytest.raises(ValueError, match="rows is 'columns'"):
        first.to_latex(rows="columns")


@pytest.mark.parametrize("rows", ["models", "metrics"])
def test_what_is_for_a_paper_compiles(rows, tmp_path):
    first, other = two_bases()
    hostile = replace(first, models=("base", r"_&%$#{}~^\\[2cm]<\"|>"))
    text = hostile.to_latex(*([other, replace(first, base="[a]*")] if rows == "models" else []), rows=rows)
    assert text.count(r"\begin{") == text.count(r"\end{")
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex here")
    preamble = r"\documentclass{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{preamble}\n{text}\n\\end{{document}}\n", encoding="utf-8")
    typed = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert rows == "metrics" or "Overfull" not in done.stdout
    assert "Output written on paper.pdf (" in done.stdout.replace("\n", " ")


def test_controls_stand_behind_their_metric_and_say_what_needs_the_image():
    control = lambda name, moved: replace(compared(name, moved), side="control")  # noqa: E731
    metrics = [
        compared("swap", BETTER), control("swap_blind", BETTER), control("swap_grounded", NONE),
        compared("add", WORSE), control("add_blind", NONE), compared("t2i_r1", NONE),
    ]  # fmt: skip
    found = report(result(*metrics, of=benchmark(headline=("swap",))))
    page = found.page(plots=True)
    (table, _) = page.sections[1].tables
    assert [row[0].value for row in table.rows] == ["swap", "swap_blind", "swap_grounded", "add", "add_blind"]
    assert "With the matrix 88%. Of +0.38 gained, +0.00 needs the image." in page.lead
    assert "better in 1 and worse in 1 of 2 metrics" in page.sections[1].paragraphs[0]
    assert "NAME_blind" in dict(page.facts)["How to read"]
    assert found.to_json()["benchmarks"]["sugarcrepe"]["sides"]["swap_blind"] == "control"
    assert "blind" not in found.to_latex(rows="models")
