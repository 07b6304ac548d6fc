"""A report as HTML, text, Markdown and LaTeX: whatever is put in stays text, and an HTML file is whole or absent."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure as Drawing

from labclip.report import Cell, Figure, Page, Section, Table

from labclip.report import as_svg, latex, markdown, markdown_table, render, terminal  # isort: skip
from labclip.report.values import cell_text, percent

HOSTILE = (
    "<script>alert(1)</script>\"'><img src=x onerror=alert(1)> javascript:alert(1) {{ 7*7 }} {% raw %} </title></style>"
)
NONE = Cell("no measurable difference", "none")
TABLE = Table("Gains", ["metric", "n", "chance", "difference"],
              [["binding", 12345, 0.5, Cell("+0.380", "good")], ["t2i_r1", 7, None, NONE]])  # fmt: skip


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
    section = Section(words, [words], [Figure(Drawing, words, words)], [table], [words])
    return Page(words, words, [section] * 4, [(words, words)])


def page(*tables, words="words", notes=()):
    return Page("A title", "The lead, `code`.", [Section("A section", [words], tables=tables, notes=notes)])


def test_hostile_words_stay_text_and_nothing_comes_from_elsewhere():
    tame, wild = Read(render(full("tame"))), Read(html := render(full(HOSTILE)))
    assert [(tag, sorted(attrs)) for tag, attrs in wild.tags] == [(tag, sorted(attrs)) for tag, attrs in tame.tags]
    assert {attrs["alt"] for attrs in wild.all("img")} == {HOSTILE}
    assert sum(text.strip() == HOSTILE for text in wild.text) == 5 + 4 * 9
    (policy,) = (attrs["content"] for attrs in wild.all("meta") if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    links = [attrs[key] for _, attrs in wild.tags for key in ("src", "href", "srcset", "action") if key in attrs]
    assert len(links) == 1 + 4
    assert all(link.startswith("data:") for link in links)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_a_page_is_read_aloud_in_order():
    read = Read(html := render(full("words")))
    assert read.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in read.tags if re.fullmatch(r"h\d", tag)] == ["h1"] + ["h2"] * 5
    assert [attrs["scope"] for attrs in read.all("th")] == ["col", "col", "col", "row"] * 4
    identifiers = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers)
    assert {attrs["aria-labelledby"] for attrs in read.all("section")} <= set(identifiers)
    html = render(Page("t", "the lead", [Section("a section")], [("a fact", "1")]))
    places = [html.index(part) for part in ("the lead", "a section", "a fact")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        ([["a", "m", Cell(1, "good")], ["b", "m", NONE], ["c", "m", Cell(1, "bad")]], "ac"),
        ([["a", "m", NONE], ["b", "m", NONE]], ""),
        ([["a", "m", 0.5], ["b", "m", Cell(2)]], "ab"),
    ],
)
def test_rows_without_measurable_difference_are_folded(rows, kept):
    html = render(page(Table("Costs", ["metric", "model", "difference"], rows, (0, 1))))
    folded = [row[0] for row in rows if row[0] not in kept]
    open_part, _, folded_part = html.partition("<details>")
    for part, names in ((open_part, list(kept)), (folded_part, folded)):
        assert re.findall(r'<th scope="row"[^>]*>(\w)<', part) == names
    folding = f"Costs: no measurable difference, {len(folded)} {'row' if len(folded) == 1 else 'rows'}"
    assert (folding in html) == bool(folded)


def test_numbers_are_written_one_way_and_no_fraction_is_rounded_to_all_or_nothing():
    values = (None, 12345, 0.5, -0.0001, -0.0006, float("nan"), Cell(0.25), "0.1")
    assert list(map(cell_text, values)) == ["", "12,345", "0.500", "0.000", "-0.001", "not defined", "0.250", "0.1"]
    values = (0.58, 0.985, 0.9996, 1, 0.0001, 0, 0.1)
    assert list(map(percent, values)) == ["58", "98.5", "99.9", "100", "0.1", "0", "10"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`<b>` and words", "<code>&lt;b&gt;</code> and words"),
        ("one ` alone", "one ` alone"),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
        ("a\x00b\x1b[31mc\udcff\u2028d", "a\\x00b\\x1b[31mc\\udcff\u2028d"),
    ],
)
def test_backticks_set_code_and_characters_that_a_page_may_not_hold_are_shown(text, expected):
    assert f"<p>{expected}</p>" in (html := render(page(words=text)))
    assert html.encode()


def test_figures_lie_inside_and_are_the_same_every_time():
    def line():
        figure = Drawing(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        return figure

    assert as_svg(line()) == as_svg(line())
    drawn = Page("t", "l", [Section("s", figures=[Figure(line, "a line")])])
    assert '<img src="data:image/svg+xml;base64,' in render(drawn)


def test_a_terminal_and_markdown_show_all_of_it_in_order():
    report = Page("A title", "Type: `labclip fit`.", page(TABLE, notes=["a note"]).sections, [("Base", "B")])
    assert terminal(report) == (
        "A title\n=======\n\nType: labclip fit.\n\nA section\n---------\n\nwords\n\n"
        "Gains\n"
        "metric        n  chance                difference\n"
        "binding  12,345   0.500                    +0.380\n"
        "t2i_r1        7          no measurable difference\n\n"
        "- a note\n\nBase: B"
    )
    assert markdown(report, level=3) == (
        "### A title\n\nType: `labclip fit`.\n\n#### A section\n\nwords\n\n**Gains**\n\n"
        "| metric | n | chance | difference |\n| --- | ---: | ---: | ---: |\n"
        "| binding | 12,345 | 0.500 | +0.380 |\n| t2i_r1 | 7 |  | no measurable difference |\n\n- a note\n\n"
        "#### How it was measured\n\n- Base: B\n"
    )


def test_a_wide_table_wraps_its_words_and_never_its_numbers():
    long = Table("Long", ["metric", "model", "value"], [["m" * 70, "a path/with a name " * 3, 0.25]], words=(0, 1))
    lines = terminal(page(long, words="very " * 50, notes=["note " * 40])).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("0.250" in line for line in lines) == 1
    assert "".join(line.split("  ")[0] for line in lines if line.startswith("mmm")) == "m" * 70


def markdown_cell(text):
    return markdown_table(Table("", ["c"], [[text]])).splitlines()[-1].removeprefix("| ").removesuffix(" |")


def markdown_paragraph(text):
    return markdown(page(words=text)).split("\n\n")[3].strip()


def latex_cell(text):
    return re.search(r"\\midrule\n(.*) \\\\\n", latex(page(Table("", ["c"], [[text]]))))[1]


@pytest.mark.parametrize(
    ("show", "text", "escaped"),
    [
        (markdown_cell, "$x_1$", r"\$x_1\$"), (markdown_cell, "a|b", "a\\|b"), (markdown_cell, "a\\|b", "a\\\\\\|b"),
        (markdown_cell, "<script> &amp;", "&lt;script&gt; &amp;amp;"),
        (markdown_cell, "![x](javascript:alert(1))", "![x]\\(javascript:alert(1))"),
        (markdown_cell, "*a* _b_ c_d `e", "\\*a\\* \\_b\\_ c_d \\`e"),
        (markdown_cell, "two\nlines\r| x", "two lines \\| x"),
        (markdown_cell, "+0.380 [+0.350, +0.410]", "+0.380 [+0.350, +0.410]"),
        (markdown_paragraph, "# no heading", "\\# no heading"), (markdown_paragraph, "- no list", "\\- no list"),
        (markdown_paragraph, "1. no list", "1\\. no list"), (markdown_paragraph, "=====", "\\====="),
        (markdown_paragraph, "> no quotation", "&gt; no quotation"),
        (markdown_paragraph, "a `b|c` d", "a `b|c` d"),
        (latex_cell, r"\input{x} & 5% $a_b^c$ #1 ~",
         r"\textbackslash{}input\{x\} \& 5\% \$a\_b\textasciicircum{}c\$ \#1 \textasciitilde{}"),
        (latex_cell, "[5cm]", "{[}5cm]"), (latex_cell, "*", "{*}"), (latex_cell, "ViT-B-32", "ViT-B-32"),
        (latex_cell, "<\"`>", r"\textless{}\textquotedbl{}\textasciigrave{}\textgreater{}"),
    ],
)  # fmt: skip
def test_markdown_and_latex_stay_text_and_begin_nothing(show, text, escaped):
    assert show(text) == escaped


def test_what_a_terminal_would_obey_is_shown():
    printed = terminal(page(Table("\x1b[2J", ["a"], [["\x1b]0;title\x07"]]), words="\x1b[31mred\x9b"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
    assert r"\x1b[31mred\x9b" in printed
