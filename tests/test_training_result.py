import json
import re

import planted
import pytest

import labclip
from labclip.training import FitResult

QUICK = {
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 3e-2,
    "identity_penalty": 1e-4,
    "negative_weight": 1,
    "distill": 0,
    "progress": False,
}


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
    assert "Worth using: strength" in text
    for row in ("validation +binding +0.[0-9]{3} +[01].[0-9]{3}", "retain base +R@1 text to image", "LABCLIP"):
        assert re.search(row, text)
    assert all(sentence.split()[0] in text for sentence in result.advice)
    assert max(map(len, text.splitlines())) <= 100
    assert "| validation | binding |" in result.to_markdown()


def test_names_of_retained_sets_stand_by_themselves(result):
    found = json.loads(json.dumps(result.to_json()))
    assert set(found["results"]) == {"validation", "retain"}
    assert set(found["results"]["retain"]) == {"validation", "base"}
    assert found["results"]["validation"]["base"]["binding"] == result.frontier[0].binding
    assert found["results"]["retain"]["base"]["labclip"].keys() == {"t2i_r1", "i2t_r1"}
    assert found["strength"] == result.alignment.strength
    assert found["settings"]["epochs"] == 10
    assert len(found["frontier"]) == 26
    assert set(found["frontier"][3]["retain"]) == {"validation", "base"}
    assert found["frontier"][3]["t2i_r1"] == result.frontier[3].t2i_r1
    assert [record["epoch"] for record in found["history"]] == list(range(1, 11))


def test_a_result_of_which_nothing_is_known_says_so(tmp_path):
    result = labclip.fit(planted.drawn(100), recipe="paper", epochs=1, progress=False)
    assert repr(result) == "FitResult(dim 24, strength 1, binding not measured, worthwhile=True)"
    assert "Not measured: strength 1" in str(result)
    assert "Nothing was held out" in str(result)
    assert result.to_json()["results"] == {"retain": {}}
    with pytest.raises(ValueError, match=r"Nothing was held out, so there is no frontier to draw. Pass validation"):
        result.plot(tmp_path / "fit.png")


def test_a_page_has_its_figure(result, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    result.write_html(tmp_path / "fit.html")
    assert "data:image/svg+xml" in (tmp_path / "fit.html").read_text()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not result.page(plots=True).sections[0].figures


def test_a_plot_has_both_sides(result, tmp_path):
    pytest.importorskip("matplotlib")
    figure = result.plot(tmp_path / "fit.png")
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    assert "strength" in figure.axes[0].get_xlabel()
    assert isinstance(result, FitResult)
