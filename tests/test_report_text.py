"""A page as text: aligned and within its width, and nothing in it turns into markup."""

import re

import pytest

from labclip.report import Cell, Page, Section, Table, latex, markdown, markdown_table, terminal

ROWS = [["binding", 12345, 0.5, Cell("+0.380", "good")], ["t2i_r1", 7, None, Cell("no measurable difference", "none")]]
TABLE = Table("Gains", ["metric", "n", "chance", "difference"], ROWS)


def page(*tables, words="words", notes=()):
    return Page("A title", "The lead, `code`.", [Section("A section", [words], tables=tables, notes=notes)])


def test_a_terminal_shows_all_of_it_in_order():
    shown = terminal(Page("A title", "Type: `labclip fit`.", page(TABLE, notes=["a note"]).sections, [("Base", "B")]))
    assert shown == (
        "A title\n=======\n\nType: labclip fit.\n\nA section\n---------\n\nwords\n\n"
        "Gains\n"
        "metric        n  chance                difference\n"
        "binding  12,345   0.500                    +0.380\n"
        "t2i_r1        7          no measurable difference\n\n"
        "- a note\n\nBase: B"
    )


def test_a_wide_table_wraps_its_words_and_never_its_numbers():
    long = Table("Long", ["metric", "model", "value"], [["m" * 70, "a path/with a name " * 3, 0.25]], words=(0, 1))
    lines = terminal(page(long, words="very " * 50, notes=["note " * 40])).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.count("m" * 8) for line in lines) > 1
    assert sum("0.250" in line for line in lines) == 1
    assert (
        "".join(re.findall("m+", "".join(line.split("  ")[0] for line in lines if line.startswith("mmm")))) == "m" * 70
    )


def test_tables_of_one_section_stand_below_one_another():
    short = Table("Costs", TABLE.columns, [["x", 1, 0.1, "-0.020"]])
    lines = terminal(page(TABLE, short)).splitlines()
    assert len({line.index("chance") for line in lines if line.startswith("metric")}) == 1
    assert {len(line) for line in lines if line.endswith(("0.380", "difference", "-0.020"))} == {49}


def test_what_a_terminal_would_obey_is_shown():
    shown = terminal(page(Table("\x1b[2J", ["a"], [["\x1b]0;title\x07"]]), words="\x1b[31mred\x9b"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert r"\x1b[31mred\x9b" in shown


def test_grouped_cells_are_told_once():
    rows = [["one", 3, "base", 0.1], ["one", 3, "mine", 0.2], ["two", 3, "base", 0.3]]
    table = Table("", ["metric", "n", "model", "value"], rows, words=(0, 2), grouped=2)
    assert terminal(page(table)).splitlines()[-3:] == [
        "one     3  base   0.100", "           mine   0.200", "two     3  base   0.300",
    ]  # fmt: skip
    assert "| one | 3 | base | 0.100 |\n|  |  | mine | 0.200 |\n| two | 3 |" in markdown_table(table)
    assert "one & 3 & base & 0.100 \\\\\n &  & mine & 0.200 \\\\" in latex(page(table))


def test_markdown_has_the_columns_it_says():
    assert markdown(page(TABLE, notes=["a note"])) == (
        "# A title\n\nThe lead, `code`.\n\n## A section\n\nwords\n\n**Gains**\n\n"
        "| metric | n | chance | difference |\n| --- | ---: | ---: | ---: |\n"
        "| binding | 12,345 | 0.500 | +0.380 |\n| t2i_r1 | 7 |  | no measurable difference |\n\n- a note\n"
    )
    assert markdown(page(), level=3).startswith("### A title\n\nThe lead, `code`.\n\n#### A section")


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("$x_1$", r"\$x_1\$"),
        ("a|b", "a\\|b"),
        ("<script>", "&lt;script&gt;"),
        ("[x](javascript:alert(1))", "[x]\\(javascript:alert(1))"),
        ("![x](http://y)", "![x]\\(http://y)"),
        ("*a* _b_ c_d `e", "\\*a\\* \\_b\\_ c_d \\`e"),
        ("two\nlines\r| x", "two lines \\| x"),
        ("a\\|b", "a\\\\\\|b"),
        ("+0.380 [+0.350, +0.410]", "+0.380 [+0.350, +0.410]"),
        ("&amp;", "&amp;amp;"),
    ],
)
def test_markdown_stays_text(text, escaped):
    assert markdown_table(Table("", ["c"], [[text]])).splitlines()[-1] == f"| {escaped} |"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("# no heading", "\\# no heading"), ("- no list", "\\- no list"), ("1. no list", "1\\. no list"), ("1.5", "1\\.5"),
     ("> no quotation", "&gt; no quotation"), ("=====", "\\====="), ("a `b|c` d", "a `b|c` d")],
)  # fmt: skip
def test_a_paragraph_begins_nothing(text, escaped):
    assert f"\n\n{escaped}\n" in markdown(page(words=text))


def test_latex_is_one_table_a_section():
    costs = Table("Costs", TABLE.columns, [["x_y", 1, 0.1, "-0.020 [-0.030, -0.010]"]])
    shown = latex(page(TABLE, costs, words="A reading of 100%, `a_b`.", notes=["a note"]))
    assert shown.count(r"\begin{table}") == shown.count(r"\begin{tabular}") == shown.count(r"\end{table}") == 1
    assert r"\caption{A section. A reading of 100\%, \texttt{a\_b}.}" in shown
    assert r"\begin{tabular}{@{}lrrr@{}}" in shown
    assert shown.count(r"\midrule") == 2
    assert r"\multicolumn{4}{l}{\emph{Costs}} \\" in shown
    assert r"x\_y & 1 & 0.100 & $-$0.020 [$-$0.030, $-$0.010] \\" in shown
    assert r"\par a note" in shown
    for line in re.findall(r"^.*&.*\\\\$", shown, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)&", line)) == 3


def test_latex_has_the_first_paragraph_in_the_caption_and_the_others_below():
    section = Section("A section", ["First.", "Second."], tables=[TABLE], notes=["a note"])
    shown = latex(Page("A title", "The lead.", [section]))
    assert r"\caption{A section. First.}" in shown
    assert shown.index(r"\end{tabular}") < shown.index(r"\par Second.") < shown.index(r"\par a note")


def test_latex_begins_a_new_tabular_where_columns_differ():
    shown = latex(page(TABLE, Table("Other", ["a"], [["b"]])))
    assert shown.count(r"\begin{tabular}") == shown.count(r"\end{tabular}") == shown.count(r"\bottomrule") == 2
    assert "A section" not in latex(page())


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"\input{x} & 5% $a_b^c$ #1 ~",
         r"\textbackslash{}input\{x\} \& 5\% \$a\_b\textasciicircum{}c\$ \#1 \textasciitilde{}"),
        ("[5cm]", "{[}5cm]"), ("*", "{*}"), ("ViT-B-32", "ViT-B-32"),
        ("<\"`>", r"\textless{}\textquotedbl{}\textasciigrave{}\textgreater{}"),
    ],
)  # fmt: skip
def test_latex_stays_text(text, escaped):
    assert f"\n{escaped} \\\\\n" in latex(page(Table("", ["c"], [[text]])))
