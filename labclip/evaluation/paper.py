"""A table for a paper: a model each row, the headline metrics of each benchmark in columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from labclip.evaluation.results import Measured
from labclip.evaluation.scores import CONTROL, DIFFERING, Compared
from labclip.evaluation.summary import RECALL, worded
from labclip.report.markup import PREAMBLE, tex, tex_row

_NARROW = 8  # columns of numbers that one column of a two-column page holds
_MARK = r"\rlap{$^{\dagger}$}"

_Column = tuple[str, str]  # benchmark and metric
_Found = Mapping[_Column, Compared]


def latex_of_models(reports: Sequence[Measured], *, percent: bool = False) -> str:
    """Reports of several bases on the same items as one LaTeX table with booktabs; see `Report.to_latex`.

    Columns are the metrics that stand for a benchmark (`Benchmark.headline`), of one that names none all. What was not
    measured of a base is a dash.
    """
    groups, found = _columns(reports)
    columns = [(name, metric) for name, (_, metrics) in groups.items() for metric in metrics]
    titles, rules, start = [""], [], 2
    for title, metrics in groups.values():
        titles.append(rf"\multicolumn{{{len(metrics)}}}{{c}}{{{tex(title)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + len(metrics) - 1}}}")
        start += len(metrics)
    unit = "In percent" if percent else "Fractions of 1"
    caption = (
        f"{unit}; a tie is wrong. $^{{\\dagger}}$: measurably different from the base (the 95\\% interval of the "
        f"paired difference excludes zero, and the models differ on at least {DIFFERING} units)."
    )
    kind = "table*" if len(columns) > _NARROW else "table"
    lines = [rf"\begin{{{kind}}}", r"\centering", rf"\caption{{{caption}}}", r"\footnotesize"]
    lines += [r"\setlength{\tabcolsep}{5pt}", rf"\begin{{tabular}}{{@{{}}l{'r' * len(columns)}@{{}}}}", r"\toprule"]
    lines += [tex_row(titles), " ".join(rules), tex_row(["", *(_heading(metric) for _, metric in columns)])]
    for report, by_column in zip(reports, found, strict=True):
        lines.append(r"\midrule")
        for at, model in enumerate(report.models):
            name = rf"\quad {tex(model)}" if at else tex(report.base)
            lines.append(tex_row([name, *(_cell(by_column.get(column), at, percent) for column in columns)]))
    chances = [next((one[column].estimates[0].chance for one in found if column in one), None) for column in columns]
    lines += [r"\midrule", tex_row(["chance", *(_number(chance, percent) for chance in chances)])]
    return "\n".join([PREAMBLE, "", *lines, r"\bottomrule", r"\end{tabular}", rf"\end{{{kind}}}"]) + "\n"


def _columns(reports: Sequence[Measured]) -> tuple[dict[str, tuple[str, list[str]]], list[_Found]]:
    """Of each benchmark title and metrics, in the order of the reports; and what each report found of them."""
    groups: dict[str, tuple[str, list[str]]] = {}
    found: list[_Found] = []
    sizes: dict[_Column, int] = {}
    for report in reports:
        by_column = {}
        for result in report.results:
            name = result.benchmark.name
            _, metrics = groups.setdefault(name, (result.benchmark.title, []))
            for one in result.compared:
                if one.side == CONTROL or (result.benchmark.headline and one.metric not in result.benchmark.headline):
                    continue
                if one.metric not in metrics:
                    metrics.append(one.metric)
                n = one.estimates[0].n
                if sizes.setdefault((name, one.metric), n) != n:
                    raise ValueError(
                        f"{name} {one.metric} was measured on {sizes[name, one.metric]:,} items of one base and on "
                        f"{n:,} of {report.base}. Measure all bases on the same files with the same options."
                    )
                by_column[name, one.metric] = one
        found.append(by_column)
    return groups, found


def _cell(one: Compared | None, at: int, percent: bool) -> str:
    if one is None:
        return _number(None, percent)
    mark = _MARK if at and one.differences[at - 1].measurable else ""
    return _number(one.estimates[at].value, percent) + mark


def _heading(metric: str) -> str:
    """A metric as short as papers have it, in lines: "tags_t2i_r1" is "tags T2I" above "R@1"."""
    found = RECALL.fullmatch(metric)
    words = worded(metric)
    if found is not None:
        of, way, k = found.groups("")
        words = f"{of} {way.upper()} R@{k}"
    lines = textwrap.wrap(words, 10, break_long_words=False)
    stack = r"\\".join(map(tex, lines))
    return rf"\shortstack[r]{{{stack}}}" if len(lines) > 1 else tex(words)


def _number(value: float | None, percent: bool) -> str:
    if value is None:
        return "--"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"
