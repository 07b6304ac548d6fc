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
    text = " ".join(str(result).split())
    lead = (
        r"This model tells a caption from its negative in \d+% of held-out pairs \(chance 50%\)\. With the matrix "
        r"it is [\d.]+%\. Of \+0\.\d\d gained, (all|\+0\.\d\d) needs the image\. It costs (nothing|at most [\d.]+%) "
        r"in search \(R@1\) there\. Of 60 held-out captions, \d+ became right and \d+ wrong \(p [<=] [\d.]+\) at "
        r"strength [\d.]+: worth using\."
    )
    assert re.search(lead, text)
    shares = [result.results["validation"][side]["binding"] for side in ("base", "labclip")]
    assert re.findall(r"[\d.]+%", text)[::2][:2] == [f"{percent(value)}%" for value in shares]
    assert "Held out: 60 captions of 60 images, none of them negatives of the fit" in text
    assert "| validation | binding |" in result.to_markdown()
    matched = result.alignment.metadata["cosines"]["labclip"]["matched"]
    cosines = " ".join(f"{cosine:.3f}" for cosine in matched)
    assert f"right LABCLIP, strength {result.alignment.strength:g} {cosines}" in text


def test_json_has_every_set_by_its_name(result):
    record = json.loads(json.dumps(result.to_json()))
    sets = {"validation", "retain validation", "retain base"}
    assert set(record["results"]) == set(record["frontier"][3]["recalls"]) == set(record["frontier"][3]["lost"]) == sets
    base, shown = result.frontier[0], record["results"]["validation"]["base"]
    figures = [shown[name] for name in ("binding", "binding_blind", "binding_grounded", "t2i_r1", "i2t_r1")]
    assert figures == [base.binding, base.blind, base.grounded, *base.recalls["validation"]]
    assert record["results"]["retain base"]["labclip"].keys() == {"t2i_r1", "i2t_r1"}
    assert (record["strength"], record["change"]["captions"]) == (result.alignment.strength, 60)
    assert (len(record["frontier"]), len(record["history"])) == (26, 10)


def test_a_result_of_which_nothing_is_known_says_so(tmp_path):
    result = labclip.fit(planted.drawn(100), recipe="paper", epochs=1, progress=False)
    assert repr(result) == "FitResult(dim 24, strength 1, binding not measured, worthwhile=True)"
    for words in ("Binding was not measured. The strength is 1.", "Nothing was held out", "Held out: nothing"):
        assert words in str(result)
    assert (result.to_json()["change"], result.to_json()["results"]) == (None, {})
    with pytest.raises(ValueError, match=r"Nothing was held out, so there is no frontier to draw. Pass validation"):
        result.plot(tmp_path / "fit.png")


def test_the_figures_that_select_are_shown(result):
    (table,) = result.page().sections[1].tables
    points = {f"{point.strength:g}": point for point in result.frontier}
    for row in (dict(zip(table.columns, row, strict=True)) for row in table.rows):
        point = points[row["strength"]]
        assert (row["smoothed"], row["divergence"]) == (point.smoothed_binding, point.divergence)
        assert row["kept"] == ("yes" if point in kept(result.frontier, 0.99) else "no")
        lost, error = max(point.lost.values())
        assert row["R@1 lost"] == f"{lost:.1%} ± {error:.1%}"
    shown = {tuple(row[:2]): row[2:] for row in result.page().sections[0].tables[0].rows}
    sides = [result.results["retain base"][side]["t2i_r1"] for side in ("base", "labclip")]
    assert shown["retain base", "text-to-image retrieval (R@1)"][:2] == [f"{value:.3f}" for value in sides]


def test_a_page_has_its_figures_and_is_put_in_a_folder_that_is_there(result, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    html = result.write_html(tmp_path / "fit.html").read_text()
    assert html.count("data:image/svg+xml") == 1
    assert f"matrix {matrix_sha256(result.alignment.fitted)[:16]}, strength {result.alignment.strength:g}" in html
    for heading in ("What it gains and costs", "Other strengths", "How it was measured"):
        assert f">{heading}</h2>" in html
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere. Make it: mkdir -p .*nowhere"):
        result.write_html(tmp_path / "nowhere" / "fit.html")
