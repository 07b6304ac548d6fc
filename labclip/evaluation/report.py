"""`Report`: what an evaluation found, as a page of tables and one figure, gains and costs beside each other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from labclip.evaluation import summary
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.results import Result, write_csv
from labclip.evaluation.scores import CONTROL, DIFFERING, Compared
from labclip.evaluation.summary import SIDES, Shown
from labclip.files import atomic_file, read_json
from labclip.report import Figure, Reported, latex
from labclip.report.drawing import COLOURS, SOFT, empty, legend_below, literal
from labclip.report.values import (
    RECALL,
    UNMEASURABLE,
    Cell,
    Mark,
    Page,
    Section,
    Table,
    Value,
    gain_sentence,
    matrix_in_words,
    measured_by,
    signed,
    worded,
)  # fmt: skip

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%; items that share an image count as one where they agree."
_HOW_BLIND = (
    " NAME_blind has the mean of the other images in the place of each image: what the captions alone give away. "
    "NAME_grounded has the image less that mean: what the image adds."
)
_HOW_DIFFERENT = (
    " Differences are paired, on the same items; one is measurable where its interval excludes zero and the models "
    f"differ on items of at least {DIFFERING} images. One that is not may still be as large as the far end of its "
    "interval."
)
_MANY = 20
_ROW, _BETWEEN, _MARGINS = 0.36, 0.5, 0.8  # inches


@dataclass(frozen=True, repr=False)
class Report(Reported):
    """What `evaluate` returns: the results of a base and its alignments on one or several benchmarks.

    `report["sugarcrepe"]` is one benchmark's `Result`; `report["sugarcrepe"].items` tells item by item.

    Attributes:
        base: The base in words, for example "ViT-B-32-quickgelu (openai)".
        weights_sha256: SHA-256 of the base's weights.
        models: "base", then each alignment: "labclip" where there is one, else its name, with "@strength" where one
            alignment is asked about at several.
        alignments: For each model but the base, what the matrix is: name, strength, SHA-256, and whether it records its
            base.
        results: One for each benchmark.
        versions: Versions of the packages that the numbers depend on.
        date: Date of the measurement, for example "2026-03-01"; "" if not recorded.
    """

    base: str
    weights_sha256: str
    models: Sequence[str]
    alignments: Sequence[dict[str, Any]]
    results: Sequence[Result]
    versions: dict[str, str]
    date: str = ""

    def __getitem__(self, benchmark: str) -> Result:
        by_name = {result.benchmark.name: result for result in self.results}
        if benchmark not in by_name:
            raise KeyError(f"The report has no benchmark {benchmark!r}; it has {', '.join(by_name)}.")
        return by_name[benchmark]

    def __repr__(self) -> str:
        names = ", ".join(result.benchmark.name for result in self.results)
        return f"Report({names}; {self.base}: {', '.join(self.models)})"

    def page(self) -> Page:
        """The report as values: where there are several benchmarks a short table first, then each by itself."""
        several = len(self.results) > 1
        chosen = summary.headline(self.results) if several else summary.metrics(self.results[0])
        alt, caption = "Differences to the base by metric; see the tables.", "Differences to the base, 95% intervals."
        figures = [Figure(partial(self._figure, chosen), alt, caption)] if len(self.models) > 1 else []
        sections = [Section("In short", (), figures, self._tables(chosen))] if several else []
        for result in self.results:
            size, paper = f"{result.images:,} images, {result.captions:,} captions.", result.benchmark.paper
            notes = [*result.notes, f"{size} Defined in {paper}." if paper else size]
            tables, shown = self._tables(summary.metrics(result)), () if several else figures
            sections.append(Section(result.benchmark.title, (), shown, tables, notes))
        measured = {metric.side for result in self.results for metric in summary.metrics(result)}
        if lacking := [words for side, words in SIDES.items() if side not in measured]:
            note = f"Not measured: {' and '.join(lacking)}. Type `labclip evaluate --list` for benchmarks of it."
            sections.append(Section("Not measured", notes=[note]))
        title = "What an alignment gains and costs" if len(self.models) > 1 else "What the base does"
        lead = self._lead([metric for metric in chosen if metric.side in SIDES])
        return Page(f"{title}: {self.base}", lead, sections, self._facts())

    def _lead(self, chosen: Sequence[Shown]) -> str:
        """The result in two or three plain sentences; of several alignments, the best one's."""
        lead = summary.lead_metric(chosen)
        _, *aligned = lead.compared.estimates
        if not aligned:
            words = "Only the base was measured. Pass `alignments=A` to see what a matrix gains and what it costs."
            return f"{summary.opening(lead)} {words}"
        best = max(range(len(aligned)), key=lambda at: aligned[at].value)
        subject = (
            "With the matrix" if len(aligned) == 1 else f"With {self.models[1 + best]} (the best of {len(aligned)})"
        )
        grounded = [
            control.differences[best].value for control in lead.controls if control.metric.endswith("_grounded")
        ]
        moved = lead.compared.differences[best]
        gain = gain_sentence(f"{subject} it is", aligned[best].value, moved.measured, grounded)
        costs = {metric.name: metric.compared.differences[best] for metric in chosen if metric is not lead}
        return f"{summary.opening(lead)} {gain} {summary.cost_sentence(costs)}"

    def _tables(self, chosen: Sequence[Shown]) -> list[Table]:
        tables = []
        for side in dict.fromkeys(metric.side for metric in chosen):
            caption = SIDES.get(side, side)
            if len(self.models) > 1 and side in SIDES:
                caption = f"What it is for: {caption}" if side == "binding" else f"What it may cost: {caption}"
            shown = [(metric.title, compared) for metric in chosen if metric.side == side
                     for compared in (metric.compared, *metric.controls)]  # fmt: skip
            tables.append(compared_table(caption[0].upper() + caption[1:], self.models, shown))
        return tables

    def _facts(self) -> list[tuple[str, str]]:
        files = [
            (
                result.benchmark.title,
                ", ".join([result.data, *(f"{key}={value}" for key, value in result.options.items())]),
            )
            for result in self.results
            if result.data
        ]
        matrices = []
        for facts in self.alignments:
            unknown = "" if facts.get("recorded", True) else "; it does not say which base it was fitted on"
            matrices.append((str(facts["name"]), matrix_in_words(facts["matrix_sha256"], facts["strength"]) + unknown))
        compared = [metric for result in self.results for metric in result.compared]
        differences, how = sum(len(metric.differences) for metric in compared), _HOW
        how += _HOW_BLIND if any(metric.side == CONTROL for metric in compared) else ""
        how += _HOW_DIFFERENT if differences else ""
        if differences >= _MANY:
            how += f" Of {differences} differences about one in twenty would look measurable by chance alone."
        measured = measured_by(self.weights_sha256, self.versions, self.date)
        return [*files, ("Base", self.base), *matrices, *measured, ("How to read", how)]

    def _figure(self, chosen: Sequence[Shown]) -> Any:
        """Metrics with one dot a model beside the base, hollow where the difference is not measurable.

        Of those that no model moves measurably the headline alone.
        """
        moving = [metric for metric in chosen if any(moved.measurable for moved in metric.compared.differences)]
        chosen = [metric for metric in chosen if metric.stands or metric in moving] or chosen
        by_side = {side: [metric for metric in chosen if metric.side == side] for side in SIDES}
        groups = {side: group for side, group in by_side.items() if group}
        models = self.models[1:]
        rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
        height = _ROW * sum(rows) + _BETWEEN * len(rows) + _MARGINS
        figure, _ = empty(5.6, height, rows=len(groups), sharex=True, height_ratios=rows)
        for axes, (side, group) in zip(figure.axes, groups.items(), strict=True):
            _panel(axes, group, models)
            axes.set_title(SIDES[side], loc="left", fontsize=10)
        figure.axes[-1].set_xlabel("difference to the base; hollow: not measurable", fontsize=9)
        if len(models) > 1:
            legend_below(figure, figure.axes[0])
        return figure

    def to_latex(self, *others: Report, rows: str = "metrics", percent: bool = False) -> str:
        """The report's tables as LaTeX with booktabs, or one table for a paper.

        Args:
            others: Reports of other bases on the same files, which the table for a paper has below one another.
            rows: "metrics" is every table of the report; "models", which is also taken where there are others or
                percent, is one table with the models in rows, the headline metrics of the benchmarks in columns, and a
                dagger for a measurable difference.
            percent: Whether the table for a paper has percent with one decimal, not fractions with three.

        Raises:
            ValueError: If `rows` is neither, or bases were measured on different items.
        """
        if rows not in ("metrics", "models"):
            raise ValueError(f'rows is {rows!r}. Pass "metrics" or "models".')
        if rows == "metrics" and not others and not percent:
            return super().to_latex()
        return latex(Page("", "", [_models_in_rows([self, *others], percent=percent)]))

    def write_items(self, path: str | Path) -> None:
        """Write every item of every benchmark with each model's answer as a csv file, whole or not at all.

        Raises:
            OSError: If it can't be written; what was there is then still whole.
        """
        with (
            atomic_file(Path(path)) as part,
            part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            write_csv({result.benchmark.name: result.items for result in self.results}, self.models, file)

    def to_json(self) -> dict[str, Any]:
        """`{"benchmarks": {name: {"models": {model: {metric: value}}, "n": ..., ...}}, "measured": {...}}`."""
        facts = {**vars(self), "models": list(self.models), "alignments": list(self.alignments)}
        del facts["results"]
        return {
            "benchmarks": {result.benchmark.name: result.to_json(self.models) for result in self.results},
            "measured": facts,
        }

    @classmethod
    def from_json(cls, value: Any) -> Report:
        """A report from what `to_json` made of it: plain JSON values, or the path of a file of them.

        Raises:
            ValueError: If something is missing, or a benchmark is none of `BENCHMARKS`.
        """
        location = f"{value}" if isinstance(value, str | Path) else "The value"
        value = read_json(value) if isinstance(value, str | Path) else value
        try:
            models = value["measured"]["models"]
            results = [Result.from_json(entry, BENCHMARKS[name], models) for name, entry in value["benchmarks"].items()]
            return cls(**value["measured"], results=results)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{location} is no report that `to_json` made: {error!r}.") from error


def compared_table(caption: str, models: Sequence[str], shown: Sequence[tuple[str, Compared]]) -> Table:
    """Metrics of a base and its alignments, each below a title or ""; of several alignments a row each."""
    alignments, several = models[1:], len(models) > 2
    rows: list[list[Value]] = []
    for title, compared in shown:
        base, *others = compared.estimates
        before = f"{title}, " if title else ""
        metric = Cell(before + compared.metric, words=before + worded(compared.metric))
        head: list[Value] = [metric, base.n, base.chance, base.value]
        if not others:
            rows.append([*head, f"[{base.low:.3f}, {base.high:.3f}]"])
        for model, estimate, moved in zip(alignments, others, compared.differences, strict=True):
            words = signed(moved.value) if moved.measurable else UNMEASURABLE
            name: list[Value] = [model] if several else []
            mark: Mark = "none" if not moved.measurable else "good" if moved.gain > 0 else "bad"
            rows.append([*head, *name, estimate.value, Cell(words, mark), summary.interval(moved)])
    values = ["model", "value"] if several else list(alignments)
    columns = ["metric", "n", "chance", "base", *values, *["difference"][: len(alignments)], "95% interval"]
    return Table(caption, columns, rows, (0, 4) if several else (0,), minor=(1, 2))


def _panel(axes: Any, group: Sequence[Shown], models: Sequence[str]) -> None:
    step = 0.7 / len(models)
    for at, model in enumerate(models):
        colour, shift = COLOURS[at % len(COLOURS)], (at - (len(models) - 1) / 2) * step
        for row, shown in enumerate(group):
            moved = shown.compared.differences[at]
            axes.plot([moved.low, moved.high], [row + shift] * 2, color=colour, linewidth=1.5)
            face = colour if moved.measurable else "white"
            label = {"label": literal(model)} if row == 0 else {}
            axes.plot([moved.value], [row + shift], "o", color=colour, markerfacecolor=face, markersize=6, **label)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(group)), ["\n".join(textwrap.wrap(literal(metric.name), 26)) for metric in group])
    axes.set_ylim(len(group) - 0.5, -0.5)


def _models_in_rows(reports: Sequence[Report], *, percent: bool) -> Section:
    """A table for a paper, one part a base; see `Report.to_latex`. What was not measured of a base is a dash."""
    columns: dict[tuple[str, str], dict[int, Compared]] = {}
    for index, report in enumerate(reports):
        for result in report.results:
            standing = result.benchmark.headline or [
                compared.metric for compared in result.compared if compared.side != CONTROL
            ]
            for compared in result.compared:
                if compared.metric not in standing:
                    continue
                measured = columns.setdefault((result.benchmark.title, compared.metric), {})
                measured[index] = compared
                first, n = next(iter(measured.values())).estimates[0].n, compared.estimates[0].n
                if first != n:
                    raise ValueError(
                        f"{result.benchmark.name} {compared.metric} was measured on {first:,} items of one base and on "
                        f"{n:,} of {report.base}. Measure all bases on the same files with the same options."
                    )

    def number(value: float | None) -> str:
        return "--" if value is None else f"{100 * value:.1f}" if percent else f"{value:.3f}"

    def cell(compared: Compared | None, at: int) -> str:
        if compared is None:
            return number(None)
        return number(compared.estimates[at].value) + "†" * (at > 0 and compared.differences[at - 1].measurable)

    titles = list(dict.fromkeys(title for title, _ in columns))
    heads = [f"{title} {_short(metric)}" if len(titles) > 1 else _short(metric) for title, metric in columns]
    tables = []
    for index, report in enumerate(reports):
        names = [report.base, *report.models[1:]]
        rows = [[name, *(cell(column.get(index), at) for column in columns.values())] for at, name in enumerate(names)]
        tables.append(Table("", ["", *heads], rows))
    chances = (next(iter(measured.values())).estimates[0].chance for measured in columns.values())
    tables.append(Table("", ["", *heads], [["chance", *map(number, chances)]]))
    words = (
        f"{'In percent' if percent else 'Fractions of 1'}; a tie is wrong. A dagger: measurably different from the "
        f"base (the 95% interval of the paired difference excludes zero, and the models differ on at least {DIFFERING} "
        f"units)."
    )
    return Section(", ".join(titles), [words], tables=tables)


def _short(metric: str) -> str:
    """A metric as short as papers have it: "tags_t2i_r1" is "tags T2I R@1"."""
    if match := RECALL.fullmatch(metric):
        of, way, k = match.groups("")
        return f"{of} {way.upper()} R@{k}".lstrip()
    return worded(metric)
