import json
import re

import planted
import pytest
from planted import QUICK

import labclip
from labclip.io.folder import matrix_sha256
from labclip.report.values import percent
from labclip.training.frontier import kept


@pytest.fixture(scope="module")
def result():
    base = labclip.Base("planted", "world", False, planted.DIM)
    other = planted.features(*planted.world(100, seed=7)[:2])
    return labclip.fit(planted.drawn(600, base=base), retain={"validation": other, "base": other}, **QUICK)


def test_a_result_is_one_line_and_its_text_says_what_was_gained_and_paid(result):
    shown = r"FitResult\(planted \(world\), strength [\d.]+, binding 0.\d+ -> [01].\d+, worthwhile=True\)"
    assert re.fullmatch(shown, repr(result))
    text = str(result)
    assert text.startswith("Fit on planted (world)\n===")
    lead = (
        r"This model tells a caption from its negative in \d+% of held-out pairs \(chance 50%\)\. With the "
        r"matrix [\d.]+%\. Of \+0\.\d+ gained, (all|\+0\.\d+) needs the image\. It costs (nothing|at most [\d.]+%) "
        r"in search \(R@1\) there\. Of 60 held-out captions, \d+ became right and \d+ wrong \(p [<=] [\d.]+\) at "
        r"strength [\d.]+: worth using\."
    )
    assert re.search(lead, " ".join(text.split()))
    told = [result.results["validation"][side]["binding"] for side in ("base", "labclip")]
    figures = [figure for figure, _ in result.page().key]
    assert figures[:2] == [f"{percent(value)}%" for value in told]
    assert figures[2].endswith("%")
    for row in ("validation +binding +0.[0-9]{3} +[01].[0-9]{3}", "retain base +R@1 text to image", "LABCLIP"):
        assert re.search(row, text)
    assert "Held out: 60 captions of 60 images, none of them negatives of the fit" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "| validation | binding |" in result.to_markdown()
    cosines = result.alignment.metadata["cosines"]
    low, median, high = cosines["labclip"]["matched"]
    assert f"right  LABCLIP, strength {cosines['strength']:g}   {low:.3f}  {median:.3f}  {high:.3f}" in text
    assert cosines["strength"] == result.alignment.strength
    assert "same_threshold" in text


def test_json_has_every_set_by_its_name(result):
    found = json.loads(json.dumps(result.to_json()))
    sets = {"validation", "retain validation", "retain base"}
    assert set(found["results"]) == set(found["frontier"][3]["recalls"]) == set(found["frontier"][3]["lost"]) == sets
    assert found["results"]["validation"]["base"]["binding"] == result.frontier[0].binding
    assert found["results"]["retain base"]["labclip"].keys() == {"t2i_r1", "i2t_r1"}
    figures = {"binding": "binding", "binding_blind": "blind", "binding_grounded": "grounded"}
    shown = found["results"]["validation"]["base"]
    assert [shown[name] for name in figures] == [getattr(result.frontier[0], name) for name in figures.values()]
    assert found["strength"] == result.alignment.strength
    assert found["settings"]["epochs"] == 10
    assert len(found["frontier"]) == 26
    assert found["change"]["captions"] == 60
    assert found["change"]["p"] < 0.05
    assert [record["epoch"] for record in found["history"]] == list(range(1, 11))


def test_a_result_of_which_nothing_is_known_says_so(tmp_path):
    result = labclip.fit(planted.drawn(100), recipe="paper", epochs=1, progress=False)
    assert repr(result) == "FitResult(dim 24, strength 1, binding not measured, worthwhile=True)"
    assert "Not measured: strength 1" in str(result)
    assert "Nothing was held out" in str(result)
    assert "Held out: nothing" in str(result)
    assert result.to_json()["change"] is None
    assert result.to_json()["results"] == {}
    assert "cosines" not in result.to_json()
    with pytest.raises(ValueError, match=r"Nothing was held out, so there is no frontier to draw. Pass validation"):
        result.plot(tmp_path / "fit.png")


def test_the_figures_that_select_are_shown(result):
    (table,) = result.page().sections[1].tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["strength"] for row in rows if row["kept"] == "no"] == [
        f"{p.strength:g}" for p in result.frontier if f"{p.strength:g}" in {row["strength"] for row in rows}
        and p not in kept(result.frontier, 0.99)
    ]  # fmt: skip
    for row, used in ((row, next(p for p in result.frontier if f"{p.strength:g}" == row["strength"])) for row in rows):
        assert (row["smoothed"], row["divergence"]) == (used.smoothed_binding, used.divergence)
        lost, error = max(used.lost.values())
        assert row["R@1 lost"] == f"{lost:.1%} ± {error:.1%}"
    shown = {tuple(row[:2]): row[2:] for row in result.page().sections[0].tables[0].rows}
    base, after, share = shown["retain base", "R@1 text to image"]
    assert share == f"{after / base:.1%}"
    told = " ".join(str(result).split())
    assert "at most 1% of R@1 lost, smoothed, on the set that loses most; divergence at most 0.20, or" in told


def test_a_page_has_its_figures(result, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    result.write_html(tmp_path / "fit.html")
    html = (tmp_path / "fit.html").read_text()
    assert html.count("data:image/svg+xml") == 1
    assert html.count("data:image/jpeg") == 0
    assert f"matrix {matrix_sha256(result.alignment.fitted)[:16]}, strength {result.alignment.strength:g}" in html
    assert f"labclip {labclip.__version__}" in html
    assert result.date in html
    for heading in ("What it gains and costs", "Other strengths", "How it was measured"):
        assert f">{heading}</h2>" in html
    result.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not any(section.figures for section in result.page(plots=True).sections)
