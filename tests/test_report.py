"""A page as HTML: whatever is put in stays text, nothing comes from elsewhere, the file is whole or absent."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure as Drawing

from labclip.report import Cell, Figure, Page, Reported, Section, Table, drawn, judged, markdown, render
from labclip.report.values import percent, shown

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> javascript:alert(1) {{ 7*7 }} {% raw %} </title></style>"
)
NONE = Cell("no measurable difference", "none")


class Read(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def full(words):
    """A page that shows a string wherever one can stand."""
    table = Table(words, [words, "n", words], [[words, 1, Cell(words, "bad")]], words=(0, 2))
    section = Section(words, [words], [Figure(b"<svg xmlns='http://www.w3.org/2000/svg'/>", words, words)], [table],
                      [words])  # fmt: skip
    return Page(words, words, [section] * 3, [(words, words)], [(words, words)], [section])


def of(*tables, paragraphs=()):
    return render(Page("t", "l", [Section("s", paragraphs, tables=tables)]))


def test_hostile_words_stay_text_and_nothing_comes_from_elsewhere():
    tame, wild = Read(render(full("tame"))), Read(html := render(full(HOSTILE)))
    assert [tag for tag, _ in wild.tags] == [tag for tag, _ in tame.tags]
    assert [sorted(attrs) for _, attrs in wild.tags] == [sorted(attrs) for _, attrs in tame.tags]
    assert {attrs["alt"] for attrs in wild.all("img")} == {HOSTILE}
    places = sum(text.strip() == "tame" for text in tame.text)
    assert places == sum(text.strip() == HOSTILE for text in wild.text) == 5 + 2 + 4 * 9
    (policy,) = (attrs["content"] for attrs in wild.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    links = [attrs[key] for _, attrs in wild.tags for key in ("src", "href", "srcset", "action") if key in attrs]
    assert len(links) == 1 + 4
    assert all(link.startswith("data:") for link in links)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_characters_that_a_page_may_not_hold_are_shown():
    html = render(Page("a\x00b\x1b[31mc\udcff\u2028d", "", ()))
    assert "<h1>a\\x00b\\x1b[31mc\\udcff\u2028d</h1>" in html
    assert html.encode()


def test_it_is_read_aloud_in_order():
    page = Read(render(full("words")))
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)] == ["h1"] + ["h2"] * 5
    assert [attrs["scope"] for attrs in page.all("th")] == ["col", "col", "col", "row"] * 4
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers)
    assert {attrs["aria-labelledby"] for attrs in page.all("section")} <= set(identifiers)


def test_figures_stand_below_the_first_sentence_and_the_appendix_last():
    found = Page("t", "the lead", [Section("a section")], [("a fact", "1")], [("58%", "of them")], [Section("later")])
    places = [render(found).index(words) for words in ("the lead", "58%", "a section", "a fact", "later")]
    assert places == sorted(places)
    assert markdown(found).index("later") < markdown(found).index("a fact")


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([["a", "m", Cell(1, "good")], ["b", "m", NONE], ["c", "m", Cell(1, "bad")]], "ac"),
        ([["a", "m", NONE], ["b", "m", NONE]], ""),
        ([["a", "m", 0.5], ["b", "m", Cell(2)]], "ab"),
    ],
)
def test_rows_without_measurable_difference_are_folded(rows, kept):
    html = of(Table("Costs", ["metric", "model", "difference"], rows, (0, 1)))
    folded = [row[0] for row in rows if row[0] not in kept]
    open_part, _, folded_part = html.partition("<details>")
    for part, names in ((open_part, list(kept)), (folded_part, folded)):
        assert re.findall(r'<th scope="row"[^>]*>(\w)<', part) == names
    said = f"Costs: no measurable difference, {len(folded)} {'row' if len(folded) == 1 else 'rows'}"
    assert (said in html) == bool(folded)


def test_cells_say_in_words_what_text_names_and_what_their_colour_says():
    table = Table("c", ["metric", "n", "a", "b", "c"], minor=(1,), rows=[
        [Cell("t2i_r1", words="image search"), 5, Cell(0.5, "good"), Cell("-0.1", "bad"), NONE],
        ["m", 2, Cell(2), None, None],
    ])  # fmt: skip
    html = of(table)
    for cell in (
        '<th scope="row" class="words short" title="t2i_r1">image search</th>',
        '<td class="minor">5</td>',
        '<td class="good">0.500 <small>better</small></td>',
        '<td class="bad">-0.1 <small>worse</small></td>',
        '<td class="none">no measurable difference</td>',
        "<td>2</td>",
    ):
        assert cell in html
    assert "| t2i_r1 | 5 |" in markdown(Page("t", "l", [Section("s", tables=[table])]))


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.58, "58"), (0.985, "98.5"), (0.9996, "99.9"), (1, "100"), (0.0001, "0.1"), (0, "0"), (0.1, "10")],
)
def test_a_fraction_in_a_sentence_is_never_rounded_to_all_or_nothing(value, said):
    assert percent(value) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""), (12345, "12,345"), (0.5, "0.500"), (-0.0001, "0.000"), (-0.0006, "-0.001"),
        (float("nan"), "not defined"), (Cell(0.25), "0.250"), ("0.1", "0.1"),
        (judged(0.0104, measurable=True), "+0.010"), (judged(-0.0001, measurable=False), "(+0.000)"),
        (judged(-0.5, measurable=True, text="-0.5 [-0.6, -0.4]"), "-0.5 [-0.6, -0.4]"),
    ],
)  # fmt: skip
def test_numbers_are_written_one_way(value, text):
    assert shown(value) == text


def test_a_difference_is_marked_by_its_sign_where_it_counts():
    marks = [judged(value, measurable).mark for value, measurable in ((0.1, True), (-0.1, True), (0.1, False))]
    assert marks == ["good", "bad", "none"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`<b>` and words", "<code>&lt;b&gt;</code> and words"),
        ("one ` alone", "one ` alone"),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
    ],
)
def test_backticks_set_code(text, expected):
    assert f"<p>{expected}</p>" in of(paragraphs=[text])


def test_figures_lie_inside_and_are_the_same_every_time():
    def line():
        figure = Drawing(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        return drawn(figure, "a line")

    assert line() == line()
    photo = Figure(b"photo", "a photo", kind="jpeg")
    html = render(Page("t", "l", [Section("s", figures=[line(), photo])]))
    assert re.findall(r"<figure(.*?)>\n<img src=\"data:(.*?);base64,", html) == [
        ("", "image/svg+xml"), (' class="photo"', "image/jpeg"),
    ]  # fmt: skip


class Shown(Reported):
    def __init__(self, page):
        self.shown = page

    def page(self, *, plots=False):
        return self.shown

    def to_json(self):
        return {}


def test_a_file_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    page = Page("a title", "naïve lead", ())
    assert Shown(page).write_html(path) == path

    def fails(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labclip.files.os.replace", fails)
    with pytest.raises(OSError, match=r"No space left on device: .*report\.html"):
        Shown(Page("another", "lead", ())).write_html(path)
    assert path.read_bytes().decode() == render(page)
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere. Make it: mkdir -p .*nowhere"):
        Shown(page).write_html(tmp_path / "nowhere" / "report.html")


def test_importing_it_loads_nothing_large():
    program = "import labclip.report, sys; print({'torch', 'jinja2', 'matplotlib', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
