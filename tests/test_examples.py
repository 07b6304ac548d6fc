"""The notebooks of docs/examples run as they stand, in one namespace, and show what they say."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.md"))
CELL = re.compile(r"```\{code-cell\} python\n(?:---\n.*?\n---\n)?(.*?)```\n", re.DOTALL)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Runs the cells of a notebook and gives the names that they define."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)

    def run(name):
        names = {}
        for number, cell in enumerate(CELL.findall((FOLDER / name).read_text(encoding="utf-8"))):
            exec(compile(cell, f"{name}, cell {number}", "exec"), names)
        return names

    yield run
    pyplot.close("all")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_short(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\n")
    assert 3 <= len(CELL.findall(text)) <= 6
    assert text.count("```") == 2 * len(CELL.findall(text))
    plots = sum("figure, " in cell or ".plot()" in cell for cell in CELL.findall(text))
    assert plots == text.count('    alt: "') > 0  # the words for those who can't see them
    assert max(len(line) for cell in CELL.findall(text) for line in cell.splitlines()) <= 88  # else a page scrolls


def test_every_notebook_has_a_test():
    here = Path(__file__).read_text(encoding="utf-8")
    assert all(f'ran("{notebook.name}")' in here for notebook in NOTEBOOKS)


@pytest.mark.slow
def test_swap_changes_the_text_alone(ran, capsys):
    names = ran("swap.md")
    base, ours = (float((names["margins"][name] > 0).double().mean()) for name in ("open_clip", "labclip"))
    assert base < 0.7
    assert ours > 0.9
    assert "the same image embeddings: True" in capsys.readouterr().out
    assert len(names["shown"]) == 4


@pytest.mark.slow
def test_fit_is_worth_it_on_images_that_it_never_saw(ran):
    names = ran("fit.md")
    assert names["result"].worthwhile
    assert names["result"].advice  # there is some to read
    binding = names["report"]["csv"].metric("binding")
    assert binding.differences[0].low > 0.1
    assert Path("my-alignment", "config.json").exists()


@pytest.mark.slow
@pytest.mark.libraries
def test_search_finds_more_on_an_index_that_is_only_read(ran):
    pytest.importorskip("duckdb")
    names = ran("search.md")
    base, ours = (names["right"][name].sum() for name in ("base", "LABCLIP"))
    assert ours > base + 40
    assert ours - base == names["gained"] - names["lost"]
    assert len(names["changed"]) > 6  # more than are drawn


@pytest.mark.slow
def test_benchmark_measures_one_difference_and_no_other(ran):
    names = ran("benchmark.md")
    colours, sides = (names["report"]["colours-and-sides"].metric(name).differences[0] for name in ("colours", "sides"))
    assert colours.measurable
    assert colours.low > 0.2
    assert not sides.measurable
    assert names["repaired"]
