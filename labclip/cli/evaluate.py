"""The command that measures a base and its alignments on benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli import options
from labclip.cli.files import check_names, check_outputs, check_page, refuse, write_files
from labclip.cli.group import chosen_device, main, open_model, progress, show_either


@main.command(
    example="labclip evaluate sugarcrepe --model ViT-B-32 --data sugar-crepe/data --images val2017",
    interrupted="Embeddings that were encoded are kept in the cache.",
)
@click.argument("benchmarks", metavar="BENCHMARK...", nargs=-1)
@options.models
@options.text("*--alignment", "A", "A name, folder or repository; may be given again. [default: the model's own]")
@click.option("--strength", type=options.STRENGTH, multiple=True, help="Evaluate at this strength; may be given again.")
@options.text("*--data", "PATH", "File or folder. For several benchmarks: NAME=PATH, once for each.")
@options.text("*--images", "DIR", "Folder of images, or NAME=DIR. [default: that of --data]")
@options.text(
    "*--option chosen", "KEY=VALUE", "Option of the benchmark, see `--list`. For one of several: NAME:KEY=VALUE."
)
@options.choice("--on-missing", ["raise", "skip"], default="raise")
@options.path("--cache", "DIR", "Folder of cached embeddings. [default: LABCLIP_CACHE, else ~/.cache/labclip]")
@options.flag("--no-cache", "Do not cache embeddings.")
@options.number("--batch-size", options.COUNT, "Images in one pass.", default=64)
@options.number("--workers", click.IntRange(1, 256), "Threads that read images. [default: one a processor]")
@options.ignore_exif
@options.device
@options.precision
@options.choice(
    "--ties", ["wrong", "index"], "index adds, in a table of its own, what published code gives that takes the first "
    "of equal answers.", default="wrong",
)  # fmt: skip
@options.path("--markdown", "FILE", "Write the tables as Markdown.")
@options.path("--latex", "FILE", "Write the tables as LaTeX.")
@options.choice(
    "--rows", ["metrics", "models"], "Of the LaTeX: every table, or one table of models for a paper. [default: models, "
    "if there are several]",
)  # fmt: skip
@options.flag("--percent", "Percent in the table of models.")
@options.path("--out", "FILE.html", "Write a self-contained page.")
@options.path("--items", "FILE.csv", "Write every item and its answers.")
@options.flag("--force", "Overwrite files of these names.")
@options.flag("--list listed", "List the benchmarks, the files each needs and where to get them.")
@options.as_json
def evaluate(
    benchmarks: tuple[str, ...], models: list[str], data: tuple[str, ...], images: tuple[str, ...],
    chosen: tuple[str, ...], markdown: Path | None, latex: Path | None, rows: str | None, percent: bool,
    out: Path | None, items: Path | None, force: bool, listed: bool, as_json: bool, cache: Path | None, no_cache: bool,
    device: str | None, precision: str, ignore_exif: bool, alignment: tuple[str, ...], strength: tuple[float, ...],
    **settings: Any,
) -> None:  # fmt: skip
    """Measure gains and costs of alignments on benchmarks.

    A tie is wrong. Each image and caption is encoded once; a second run takes what the first one kept.
    """
    if listed:
        from labclip.evaluation.benchmarks import BENCHMARKS

        facts = [{key: getattr(one, key) for key in _FACTS} for one in BENCHMARKS.values()]
        show_either(as_json, facts, "\n".join(map(_listed, facts)))
        return
    if not benchmarks or not models:
        lacks = "option '--model'" if benchmarks else "argument 'BENCHMARK', of those that --list names"
        raise click.UsageError(f"Missing {lacks}. Type: labclip evaluate BENCHMARK --model M --data PATH.")
    if (rows == "models" or percent) and latex is None:
        raise ValueError("--rows models and --percent are of the LaTeX. Pass --latex FILE too.")
    rows = rows or ("models" if len(models) > 1 else "metrics")
    if rows == "metrics" and (percent or len(models) > 1):
        raise ValueError("Several models in one table, and --percent, need --rows models. Pass it too.")
    if len(models) > 1 and (out or items):
        raise ValueError(f"{out or items} is of one model, but there are {len(models)}. Pass one --model for it.")
    asked = _asked(benchmarks, data, images, chosen)
    inputs = [Path(one) for one in (*asked["data"].values(), *asked["images"].values())]
    check_outputs([markdown, latex, items, out], force=force, others=inputs)
    if cache is not None and no_cache:
        raise ValueError(f"--cache {cache} and --no-cache contradict each other. Pass one of them.")
    if out is not None:
        check_page(out)
    check_names(*models, *alignment)
    from labclip.data.located import DataFiles

    for name in benchmarks:
        given = (asked[key].get(name) for key in ("data", "images"))
        file, folder = (None if path is None else Path(path).expanduser() for path in given)
        DataFiles(file, folder, hint=f"labclip evaluate --list says what {name} needs, and where people get it.")
    from labclip.evaluation.evaluate import evaluate as measure

    report, *others = every = [
        measure(
            open_model(model, device, precision, ignore_exif=True) if ignore_exif else model,
            benchmarks, **asked, alignments=alignment, strengths=strength,
            device=chosen_device(device), precision=precision, cache=False if no_cache else cache or True,
            progress=progress(), **settings,
        )
        for model in models
    ]  # fmt: skip
    failed = write_files(
        (markdown, lambda path: path.write_text("\n".join(one.to_markdown() for one in every), encoding="utf-8")),
        (latex, lambda path: path.write_text(report.to_latex(*others, rows=rows, percent=percent), encoding="utf-8")),
        (items, report.write_items),
        (out, report.write_html),
    )
    value = {"reports": [one.to_json() for one in every]} if others else report.to_json()
    show_either(as_json, value, "\n\n\n".join(map(str, every)))
    refuse(failed)


def _asked(
    benchmarks: tuple[str, ...], data: tuple[str, ...], images: tuple[str, ...], options: tuple[str, ...]
) -> dict[str, Any]:
    """Each benchmark's files and options, from what may be written once or for each: PATH or NAME=PATH."""
    chosen: dict[str, dict[str, str]] = {name: {} for name in benchmarks}
    for one in options:
        target, _, rest = one.partition(":") if one.partition(":")[0] in chosen else ("", "", one)
        key, equals, value = rest.partition("=")
        if not equals or not key:
            raise ValueError(f"--option is {one!r}. Type KEY=VALUE, or NAME:KEY=VALUE for one of several benchmarks.")
        for name in [target] if target else benchmarks:
            if chosen[name].setdefault(key, value) != value:
                raise ValueError(f"--option {key} of {name} is {chosen[name][key]} and {value}. Pass it once.")
    return {
        "data": _by_name(benchmarks, data, "--data"),
        "images": _by_name(benchmarks, images, "--images", shared=True),
        "options": chosen,
    }


def _by_name(benchmarks: tuple[str, ...], given: tuple[str, ...], flag: str, *, shared: bool = False) -> dict[str, str]:
    """The path of each benchmark; where it may be shared, one without a name is of all that have none of their own."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (equals and name in benchmarks):
            if len(benchmarks) > 1 and not shared:
                raise ValueError(f"{flag} {one}: which benchmark is it of? Type {flag} NAME=PATH, for example "
                                 f"{flag} {benchmarks[0]}={one}.")  # fmt: skip
            name, path = "" if len(benchmarks) > 1 else benchmarks[0], one
        if name in found:
            of = name or "all benchmarks"
            raise ValueError(f"{flag} of {of} is given twice, {found[name]} and {path}. Pass it once.")
        found[name] = path
    rest = found.pop("", None)
    return found if rest is None else dict.fromkeys(benchmarks, rest) | found


_FACTS = ("name", "title", "measures", "wants", "source", "licence", "paper", "options")


def _listed(facts: dict[str, Any]) -> str:
    taken = ", ".join(f"{name}={default}" for name, default in facts["options"].items())
    rows = {"wants": facts["wants"], "from": facts["source"], "licence": facts["licence"], "options": taken}
    lines = [f"    {name:8} {value}" for name, value in rows.items() if value]
    return "\n".join(["{name}: {title} ({paper}), {measures}".format(**facts), *lines])
