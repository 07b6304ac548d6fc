"""The commands evaluate and diagnose: they measure gains and costs, and find where a model loses binding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli import options
from labclip.cli.files import check_inputs, check_outputs, write
from labclip.cli.group import chosen_device, main, note, open_model, progress, show_either
from labclip.files import check_benchmark

_FACTS = ("name", "title", "measures", "wants", "source", "licence", "paper", "options")


@main.command(
    example="labclip evaluate sugarcrepe --model ViT-B-32 --data sugar-crepe/data --images val2017",
    interrupted="Embeddings are kept in the cache.",
)
@click.argument("benchmarks", metavar="BENCHMARK...", nargs=-1)
@options.text("*--model models", "M", f"{options.MODEL} May be given again.", type=options.NAME)
@options.text("*--alignment", "A", "A name, folder or repository; may be given again. [default: the model's own]",
              type=options.NAME)  # fmt: skip
@click.option("--strength", type=options.STRENGTH, multiple=True, help="Evaluate at this strength; may be given again.")
@options.text("*--data", "PATH", "File or folder. For several benchmarks: NAME=PATH, once for each.")
@options.text("*--images", "DIR", "Folder of images, or NAME=DIR. [default: that of --data]")
@options.text(
    "*--option pairs", "KEY=VALUE", "Option of the benchmark, see `--list`. For one of several: NAME:KEY=VALUE."
)
@options.choice("--on-missing", ["raise", "skip"], "Stop at a missing image, or leave it out.", default="raise")
@options.path("--cache", "DIR", "Folder of cached embeddings. [default: LABCLIP_CACHE, else ~/.cache/labclip]")
@options.no_cache
@options.batch_size
@options.workers
@options.ignore_exif
@options.device
@options.precision
@options.choice("--ties", ["wrong", "index"], "index adds the figures of code that takes the first of tied answers.",
                default="wrong")  # fmt: skip
@options.path("--markdown", "FILE", "Write the tables as Markdown.")
@options.path("--latex", "FILE", "Write the tables as LaTeX.")
@options.choice("--rows", ["metrics", "models"], "Rows of the LaTeX tables. [default: models if there are several]")
@options.flag("--percent", "Write percent, in one table of models.")
@options.path("--out", "FILE.html", "Write a self-contained page.")
@options.path("--items", "FILE.csv", "Write every item and its answers.")
@options.flag("--force", "Overwrite existing files.")
@options.flag("--list list_benchmarks", "List the benchmarks, the files each needs and where to get them.")
@options.as_json
def evaluate(
    benchmarks: tuple[str, ...], models: list[str], data: tuple[str, ...], images: tuple[str, ...],
    pairs: tuple[str, ...], markdown: Path | None, latex: Path | None, rows: str | None, percent: bool,
    out: Path | None, items: Path | None, force: bool, list_benchmarks: bool, as_json: bool, cache: Path | None,
    no_cache: bool, device: str | None, precision: str, ignore_exif: bool, alignment: tuple[str, ...],
    strength: tuple[float, ...], **settings: Any,
) -> None:  # fmt: skip
    """Measure gains and costs of alignments on benchmarks.

    A tie is wrong. Each image and caption is encoded once; a second run uses the cache.
    """
    if list_benchmarks:
        from labclip.evaluation.benchmarks import BENCHMARKS

        facts = [{key: getattr(benchmark, key) for key in _FACTS} for benchmark in BENCHMARKS.values()]
        show_either(as_json, facts, "\n".join(map(_describe_benchmark, facts)))
        return
    if not benchmarks or not models:
        missing = "option '--model'" if benchmarks else "argument 'BENCHMARK' (see --list)"
        raise click.UsageError(f"Missing {missing}. Type: labclip evaluate BENCHMARK --model M --data PATH.")
    for name in benchmarks:
        check_benchmark(name)  # before torch is imported
    if latex is None and (rows or percent):
        raise ValueError("--rows and --percent go with --latex FILE. Pass it too.")
    if len(models) > 1 and (out or items):
        raise ValueError(f"{out or items} is for one model, but there are {len(models)}. Pass one --model.")
    if cache and no_cache:
        raise ValueError("--cache and --no-cache exclude each other. Pass one of them.")
    files, folders = _by_benchmark(benchmarks, data, "--data"), _by_benchmark(benchmarks, images, "--images")
    inputs = [*files.values(), *folders.values()]
    check_outputs(markdown, latex, items, page=out, force=force, inputs=inputs)
    check_inputs(*inputs)
    from labclip.evaluation.evaluate import evaluate as measure

    reports = [
        measure(
            open_model(model, device, precision, ignore_exif=True) if ignore_exif else model,
            benchmarks, data=files, images=folders, options=_options(benchmarks, pairs),
            alignments=alignment, strengths=strength, device=chosen_device(device), precision=precision,
            cache=False if no_cache else cache or True, progress=progress(), **settings,
        )
        for model in models
    ]  # fmt: skip
    values = [report.to_json() for report in reports]
    show_either(as_json, {"reports": values} if len(values) > 1 else values[0], "\n\n\n".join(map(str, reports)))
    if markdown:
        write(markdown, "\n".join(report.to_markdown() for report in reports))
    if latex:
        write(latex, reports[0].to_latex(*reports[1:], rows=rows or "metrics", percent=percent))
    if items:
        reports[0].write_items(items)
    if out:
        reports[0].write_html(out)


def _by_benchmark(benchmarks: tuple[str, ...], texts: tuple[str, ...], option: str) -> dict[str, str]:
    """The path for each benchmark: from NAME=PATH, else the PATH without a name."""
    paths: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or name not in benchmarks:
            name, path = "", text
        if paths.setdefault(name, path) != path:
            raise ValueError(f"{option} is given twice, {paths[name]} and {path}. Type {option} NAME=PATH for each.")
    default = paths.pop("", None)
    return paths if default is None else dict.fromkeys(benchmarks, default) | paths


def _options(benchmarks: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """The options of each benchmark: from KEY=VALUE for all benchmarks, or NAME:KEY=VALUE for one."""
    values: dict[str, dict[str, str]] = {name: {} for name in benchmarks}
    for text in texts:
        target, colon, pair = text.partition(":")
        names, pair = ([target], pair) if colon and target in values else (benchmarks, text)
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--option is {text!r}. Type KEY=VALUE, or NAME:KEY=VALUE for one of several benchmarks.")
        for name in names:
            values[name][key] = value
    return values


def _describe_benchmark(facts: dict[str, Any]) -> str:
    defaults = ", ".join(f"{name}={default}" for name, default in facts["options"].items())
    rows = {"wants": facts["wants"], "from": facts["source"], "licence": facts["licence"], "options": defaults}
    lines = [f"    {name:8} {value}" for name, value in rows.items() if value]
    return "\n".join(["{name}: {title} ({paper}), {measures}".format(**facts), *lines])


@main.command(
    example="labclip diagnose --model ViT-B-32 --out report.html",
    interrupted="Embeddings of PATH are kept in the cache.",
)
@options.model
@options.path("--data", "PATH", "Labelled images (CLEVR, CLEVR2D, PUG) or a table of captions. [default: scenes]")
@options.path("--images", "DIR", "Folder of the images. [default: that of PATH]")
@options.alignment
@options.strength
@options.number("--folds", click.IntRange(2, 100), "Folds of the cross-validation.", default=3)
@options.number("--scenes", click.IntRange(1, 1_000_000), "Number of scenes drawn without --data.", default=5000)
@click.option("--fit/--no-fit", default=True, help="Whether to fit matrices, to show how much they could restore.")
@options.number("--seed", options.SEED, "Seed of scenes, splits and fits.", default=0)
@options.device
@options.ignore_exif
@options.no_cache
@options.path("--out", "FILE", "Write the whole report as one HTML page.")
@options.as_json
def diagnose(
    model: str, data: Path | None, images: Path | None, alignment: str | None, strength: float | None,
    device: str | None, ignore_exif: bool, no_cache: bool, out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Find where a model loses binding and what could repair it.

    Linear probes read images and captions separately, the cosine compares them. Matrices are fitted on some
    combinations, and their gains and costs are measured on the others. Parts such as "a red cube" are also searched in
    scenes and captions. Takes about a minute on two cores.
    """
    check_inputs(data, images)
    check_outputs(page=out, inputs=filter(None, [data, images]))
    from labclip.analysis.diagnosis import diagnose as find

    loaded_model = open_model(model, device, ignore_exif=ignore_exif, alignment=alignment, strength=strength)
    diagnosis = find(loaded_model, data, images=images, cache=not no_cache, progress=progress(), **settings)
    show_either(as_json, diagnosis.to_json(), str(diagnosis))
    if out is not None:
        diagnosis.write_html(out)
        note(f"Report: {out}")
