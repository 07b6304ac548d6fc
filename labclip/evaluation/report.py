"""`Report`: the results of an evaluation as a page of tables and one figure, gains next to costs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from labclip.checks import check_choice
from labclip.evaluation import summary
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.results import Result, write_csv
from labclip.evaluation.scores import CONTROL, DIFFERING, Compared
from labclip.evaluation.summary import SIDES, MetricEntry
from labclip.files import atomic_file, read_json
from labclip.report import Cell, Figure, Page, Reported, Section, Table, latex, signed
from labclip.report.drawing import COLOURS, SOFT, legend_below, new_figure, plain_label
from labclip.report.values import RECALL, UNMEASURABLE, Value, gain_sentence, matrix_words, metric_words, version_facts

_HOW = "Fractions of 1; a tie is wrong. Intervals are 95%; items that share an image are not taken as independent."
_HOW_BLIND = (
    " NAME_blind replaces each image by the mean of the other images: what the captions alone give away. "
    "NAME_grounded subtracts that mean from the image: what the image adds."
)
_HOW_DIFFERENT = (
    " Differences are paired: all models answer the same items. A difference is measurable if its interval excludes "
    f"zero and the models differ on items of at least {DIFFERING} images. If it is not measurable, it may still be as "
    "large as the far end of its interval."
)


@dataclass(frozen=True, repr=False)
class Report(Reported):
    """What `evaluate` returns: the results of a base and its alignments on one or several benchmarks.

    `report["sugarcrepe"]` is the `Result` of one benchmark; `report["sugarcrepe"].items` has every item.

    Attributes:
        base: The base in words, for example "ViT-B-32-quickgelu (openai)".
        weights_sha256: SHA-256 of the base's weights.
        models: "base", then each alignment: "labclip" if there is only one, else its name, with "@strength" if
            strengths were passed.
        alignments: For each model except the base the facts of its matrix: name, strength, SHA-256, and whether it
            records its base.
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
        """The report as values: each benchmark in its own section, and first a short table if there are several."""
        has_several = len(self.results) > 1
        entries = summary.metrics(*self.results)
        alt, caption = "Differences to the base by metric; see the tables.", "Differences to the base, 95% intervals."
        figures = [Figure(partial(self._figure, entries), alt, caption)] if len(self.models) > 1 else []
        sections = [Section("In short", (), figures, self._tables(entries))] if has_several else []
        for result in self.results:
            size, paper = f"{result.images:,} images, {result.captions:,} captions.", result.benchmark.paper
            notes = [*result.notes, f"{size} Defined in {paper}." if paper else size]
            tables = self._tables(summary.metrics(result))
            sections.append(Section(result.benchmark.title, (), () if has_several else figures, tables, notes))
        measured_sides = {entry.side for result in self.results for entry in summary.metrics(result)}
        if unmeasured := [words for side, words in SIDES.items() if side not in measured_sides]:
            note = f"Not measured: {' and '.join(unmeasured)}. Type `labclip evaluate --list` for benchmarks of it."
            sections.append(Section("Not measured", notes=[note]))
        title = "What an alignment gains and costs" if len(self.models) > 1 else "What the base does"
        lead = self._lead([entry for entry in entries if entry.side in SIDES])
        return Page(f"{title}: {self.base}", lead, sections, self._facts())

    def _lead(self, entries: Sequence[MetricEntry]) -> str:
        """The result in two or three plain sentences, of the best alignment if there are several."""
        lead = summary.lead_metric(entries)
        _, *aligned = lead.compared.estimates
        if not aligned:
            hint = "Only the base was measured. Pass `alignments=A` to see what a matrix gains and what it costs."
            return f"{summary.base_sentence(lead)} {hint}"
        best = max(range(len(aligned)), key=lambda index: aligned[index].value)
        subject = "With the matrix"
        if len(aligned) > 1:
            subject = f"With {self.models[1 + best]} (the best of {len(aligned)})"
        grounded = [
            control.differences[best].value for control in lead.controls if control.metric.endswith("_grounded")
        ]
        measured_gain = lead.compared.differences[best].measured
        gain = gain_sentence(f"{subject} it is", aligned[best].value, measured_gain, grounded)
        costs = {entry.name: entry.compared.differences[best] for entry in entries if entry is not lead}
        return f"{summary.base_sentence(lead)} {gain} {summary.cost_sentence(costs)}"

    def _tables(self, entries: Sequence[MetricEntry]) -> list[Table]:
        """A table for each side."""
        tables = []
        for side in dict.fromkeys(entry.side for entry in entries):
            caption = SIDES.get(side, side)
            if len(self.models) > 1 and side in SIDES:
                caption = f"What it is for: {caption}" if side == "binding" else f"What it may cost: {caption}"
            rows = [(entry.title, compared) for entry in entries if entry.side == side
                    for compared in (entry.compared, *entry.controls)]  # fmt: skip
            tables.append(compared_table(caption[0].upper() + caption[1:], self.models, rows))
        return tables

    def _facts(self) -> list[tuple[str, str]]:
        """What was measured and with what, as names and values."""
        files = []
        for result in self.results:
            if result.data:
                options = [f"{key}={value}" for key, value in result.options.items()]
                files.append((result.benchmark.title, ", ".join([result.data, *options])))
        matrices = []
        for facts in self.alignments:
            unknown = "" if facts.get("recorded", True) else "; it does not say which base it was fitted on"
            matrices.append((str(facts["name"]), matrix_words(facts["matrix_sha256"], facts["strength"]) + unknown))
        metrics = [compared for result in self.results for compared in result.compared]
        difference_count, how = sum(len(compared.differences) for compared in metrics), _HOW
        how += _HOW_BLIND if any(compared.side == CONTROL for compared in metrics) else ""
        how += _HOW_DIFFERENT if difference_count else ""
        if difference_count >= 20:
            how += f" Of {difference_count} differences about one in twenty would look measurable by chance alone."
        measured = version_facts(self.weights_sha256, self.versions, self.date)
        return [*files, ("Base", self.base), *matrices, *measured, ("How to read", how)]

    def _figure(self, entries: Sequence[MetricEntry]) -> Any:
        """Metrics with one dot for each model next to the base, hollow if the difference is not measurable.

        A metric outside the headline is shown only if some model changes it measurably.
        """
        changed = [entry for entry in entries if any(change.measurable for change in entry.compared.differences)]
        entries = [entry for entry in entries if entry.in_headline or entry in changed] or entries
        groups = {side: group for side in SIDES if (group := [entry for entry in entries if entry.side == side])}
        models = self.models[1:]
        rows = [len(group) * max(1.0, 0.6 * len(models)) for group in groups.values()]
        height = 0.36 * sum(rows) + 0.5 * len(rows) + 0.8
        figure, _ = new_figure(5.6, height, rows=len(groups), sharex=True, height_ratios=rows)
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
            others: Reports of other bases on the same files; the table for a paper shows the bases one below the other.
            rows: "metrics" gives every table of the report. "models" gives one table for a paper, with the models in
                rows, the headline metrics of the benchmarks in columns, and a dagger for a measurable difference. With
                `others` or `percent` it is always "models".
            percent: Whether the table for a paper has percent with one decimal instead of fractions with three.

        Raises:
            ValueError: If `rows` is neither, or bases were measured on different items.
        """
        check_choice("rows", rows, ("metrics", "models"))
        if rows == "metrics" and not others and not percent:
            return super().to_latex()
        return latex(Page("", "", [_models_in_rows([self, *others], percent=percent)]))

    def write_items(self, path: str | Path) -> None:
        """Write every item of every benchmark with each model's answer as a csv file, whole or not at all.

        Raises:
            OSError: If it can't be written; an existing file is then unchanged.
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
        """The report that `to_json` made these values of: plain JSON values, or the path of a file of them.

        Raises:
            ValueError: If something is missing, or a benchmark is not in `BENCHMARKS`.
        """
        location = f"{value}" if isinstance(value, str | Path) else "The value"
        value = read_json(value) if isinstance(value, str | Path) else value
        try:
            models = value["measured"]["models"]
            results = [Result.from_json(entry, BENCHMARKS[name], models) for name, entry in value["benchmarks"].items()]
            return cls(**value["measured"], results=results)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{location} is no report that `to_json` made: {error!r}.") from error


def compared_table(caption: str, models: Sequence[str], metrics: Sequence[tuple[str, Compared]]) -> Table:
    """A table of metrics, each with a title or ""; with a row for each alignment if there are several."""
    alignments, has_several = models[1:], len(models) > 2
    rows: list[list[Value]] = []
    for title, compared in metrics:
        base, *others = compared.estimates
        prefix = f"{title}, " if title else ""
        metric = Cell(prefix + compared.metric, words=prefix + metric_words(compared.metric))
        head: list[Value] = [metric, base.n, base.chance, base.value]
        if not others:
            rows.append([*head, f"[{base.low:.3f}, {base.high:.3f}]"])
        for model, estimate, change in zip(alignments, others, compared.differences, strict=True):
            words = signed(change.value) if change.measurable else UNMEASURABLE
            name: list[Value] = [model] if has_several else []
            cell = Cell(words, "none" if not change.measurable else "good" if change.gain > 0 else "bad")
            interval = f"[{signed(change.low)}, {signed(change.high)}]"
            rows.append([*head, *name, estimate.value, cell, interval])
    values = ["model", "value"] if has_several else list(alignments)
    columns = ["metric", "n", "chance", "base", *values, *["difference"][: len(alignments)], "95% interval"]
    return Table(caption, columns, rows, (0, 4) if has_several else (0,), minor=(1, 2))


def _panel(axes: Any, group: Sequence[MetricEntry], models: Sequence[str]) -> None:
    """Draw the metrics of one side."""
    step = 0.7 / len(models)
    for index, model in enumerate(models):
        colour, shift = COLOURS[index % len(COLOURS)], (index - (len(models) - 1) / 2) * step
        for row, entry in enumerate(group):
            change = entry.compared.differences[index]
            axes.plot([change.low, change.high], [row + shift] * 2, color=colour, linewidth=1.5)
            face = colour if change.measurable else "white"
            label = {"label": plain_label(model)} if row == 0 else {}
            axes.plot([change.value], [row + shift], "o", color=colour, markerfacecolor=face, markersize=6, **label)
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_yticks(range(len(group)), ["\n".join(textwrap.wrap(plain_label(entry.name), 26)) for entry in group])
    axes.set_ylim(len(group) - 0.5, -0.5)


def _models_in_rows(reports: Sequence[Report], *, percent: bool) -> Section:
    """A table for a paper, one part for each base; see `Report.to_latex`. A dash if a base was not measured."""
    measured = [_headline_metrics(report) for report in reports]
    columns: dict[tuple[str, str], Compared] = {}  # those of the first report that has them
    for report, metrics in zip(reports, measured, strict=True):
        for (title, metric), compared in metrics.items():
            first, n = columns.setdefault((title, metric), compared).estimates[0].n, compared.estimates[0].n
            if first != n:
                raise ValueError(
                    f"{title} {metric} was measured on {first:,} items of one base and on {n:,} of {report.base}. "
                    f"Measure all bases on the same files with the same options."
                )

    def number(value: float | None) -> str:
        return "--" if value is None else f"{100 * value:.1f}" if percent else f"{value:.3f}"

    def cell(compared: Compared | None, model: int) -> str:
        if compared is None:
            return number(None)
        measurable = model > 0 and compared.differences[model - 1].measurable
        return number(compared.estimates[model].value) + "†" * measurable

    titles = list(dict.fromkeys(title for title, _ in columns))
    heads = [f"{title} {_short(metric)}" if len(titles) > 1 else _short(metric) for title, metric in columns]
    tables = []
    for report, metrics in zip(reports, measured, strict=True):
        names = [report.base, *report.models[1:]]
        rows = [[name, *(cell(metrics.get(column), model) for column in columns)] for model, name in enumerate(names)]
        tables.append(Table("", ["", *heads], rows))
    chances = (compared.estimates[0].chance for compared in columns.values())
    tables.append(Table("", ["", *heads], [["chance", *map(number, chances)]]))
    words = (
        f"{'In percent' if percent else 'Fractions of 1'}; a tie is wrong. A dagger: measurably different from the "
        f"base (the 95% interval of the paired difference excludes zero, and the models differ on at least {DIFFERING} "
        f"units)."
    )
    return Section(", ".join(titles), [words], tables=tables)


def _headline_metrics(report: Report) -> dict[tuple[str, str], Compared]:
    """The headline metrics of a report, by the benchmark's title and the metric's name; all if there is no headline."""
    return {
        (result.benchmark.title, compared.metric): compared
        for result in report.results
        for compared in result.compared
        if compared.metric in result.benchmark.headline or not (result.benchmark.headline or compared.side == CONTROL)
    }


def _short(metric: str) -> str:
    """The short name of a metric that papers use: "tags_t2i_r1" is "tags T2I R@1"."""
    if match := RECALL.fullmatch(metric):
        query, direction, k = match.groups("")
        return f"{query} {direction.upper()} R@{k}".lstrip()
    return metric_words(metric)
