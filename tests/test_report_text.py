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
    assert sum("0.250" in line for line in lines) == 1
    assert "".join(line.split("  ")[0] for line in lines if line.startswith("mmm")) == "m" * 70


def test_tables_of_one_section_stand_below_one_another():
    short = Table("Costs", TABLE.columns, [["x", 1, 0.1, "-0.020"]])
    lines = terminal(page(TABLE, short)).splitlines()
    assert len({line.index("chance") for line in lines if line.startswith("metric")}) == 1
    assert {len(line) for line in lines if line.endswith(("0.380", "difference", "-0.020"))} == {49}


def test_what_a_terminal_would_obey_is_shown():
    shown = terminal(page(Table("\x1b[2J", ["a"], [["\x1b]0;title\x07"]]), words="\x1b[31mred\x9b"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert r"\x1b[31mred\x9b" in shown


def test_markdown_has_the_columns_it_says():
    assert markdown(page(TABLE, notes=["a note"]), level=3) == (
        "### A title\n\nThe lead, `code`.\n\n#### A section\n\nwords\n\n**Gains**\n\n"
        "| metric | n | chance | difference |\n| --- | ---: | ---: | ---: |\n"
        "| binding | 12,345 | 0.500 | +0.380 |\n| t2i_r1 | 7 |  | no measurable difference |\n\n- a note\n"
    )


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("$x_1$", r"\$x_1\$"), ("a|b", "a\\|b"), ("<script>", "&lt;script&gt;"), ("a\\|b", "a\\\\\\|b"),
        ("![x](javascript:alert(1))", "![x]\\(javascript:alert(1))"), ("&amp;", "&amp;amp;"),
        ("*a* _b_ c_d `e", "\\*a\\* \\_b\\_ c_d \\`e"), ("two\nlines\r| x", "two lines \\| x"),
        ("+0.380 [+0.350, +0.410]", "+0.380 [+0.350, +0.410]"),
    ],
)  # fmt: skip
def test_markdown_stays_text(text, escaped):
    assert markdown_table(Table("", ["c"], [[text]])).splitlines()[-1] == f"| {escaped} |"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("# no heading", "\\# no heading"), ("- no list", "\\- no list"), ("1. no list", "1\\. no list"),
     ("> no quotation", "&gt; no quotation"), ("=====", "\\====="), ("a `b|c` d", "a `b|c` d")],
)  # fmt: skip
def test_a_paragraph_begins_nothing(text, escaped):
    assert f"\n\n{escaped}\n" in markdown(page(words=text))


def test_latex_is_one_table_a_section_with_a_tabular_for_each_set_of_columns():
    costs = Table("Costs", TABLE.columns, [["x_y", 1, 0.1, "-0.020 [-0.030, -0.010]"]])
    other = Table("Other", ["a", "a heading of some words"], [["b", 1]])
    section = Section(
        "A section", ["A reading of 100%, `a_b`.", "Second."], tables=[TABLE, costs, other], notes=["a note"]
    )
    shown = latex(Page("A title", "The lead.", [section, Section("Without a table")]))
    assert [shown.count(words) for words in (r"\begin{table}", r"\end{table}", r"\caption")] == [1, 1, 1]
    assert [shown.count(words) for words in (r"\begin{tabular}", r"\end{tabular}", r"\bottomrule")] == [2, 2, 2]
    for part in (
        r"\caption{A section. A reading of 100\%, \texttt{a\_b}.}",
        r"\begin{tabular}{@{}lrrr@{}}",
        r"\multicolumn{4}{l}{\emph{Costs}} \\",
        r"x\_y & 1 & 0.100 & $-$0.020 [$-$0.030, $-$0.010] \\",
        r"a & \shortstack[r]{a heading of\\some words} \\",
    ):
        assert part in shown
    assert shown.rindex(r"\end{tabular}") < shown.index(r"\par Second.") < shown.index(r"\par a note")


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
