"""The command that measures a base and its alignments on benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labclip.cli.files import check_names, check_outputs, check_page, refuse, write_files
from labclip.cli.group import (
    STRENGTH,
    as_json_option,
    chosen_device,
    device_option,
    exif_option,
    main,
    models_option,
    open_model,
    precision_option,
    progress,
    show,
    show_json,
)

_FILE = click.Path(path_type=Path)


@main.command(
    example="labclip evaluate sugarcrepe --model ViT-B-32 --data sugar-crepe/data --images val2017",
    interrupted="Embeddings that were encoded are kept in the cache.",
)
@click.argument("benchmarks", metavar="BENCHMARK...", nargs=-1)
@models_option
@click.option(
    "--alignment",
    multiple=True,
    metavar="A",
    help="A name, folder or repository; may be given again. [default: the model's own]",
)
@click.option("--strength", type=STRENGTH, multiple=True, help="Evaluate at this strength; may be given again.")
@click.option(
    "--data", multiple=True, metavar="PATH", help="File or folder. For several benchmarks: NAME=PATH, once for each."
)
@click.option("--images", multiple=True, metavar="DIR", help="Folder of images, or NAME=DIR. [default: that of --data]")
@click.option(
    "--option",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the benchmark, see `--list`. For one of several: NAME:KEY=VALUE.",
)
@click.option("--on-missing", type=click.Choice(["raise", "skip"]), default="raise", show_default=True)
@click.option(
    "--cache",
    type=_FILE,
    metavar="DIR",
    help="Folder of cached embeddings. [default: LABCLIP_CACHE, else ~/.cache/labclip]",
)
@click.option("--no-cache", is_flag=True, help="Do not cache embeddings.")
@click.option("--batch-size", type=click.IntRange(1, 65_536), default=64, show_default=True, help="Images in one pass.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads that read images. [default: one a processor]")
@exif_option
@device_option
@precision_option
@click.option(
    "--ties",
    type=click.Choice(["wrong", "index"]),
    default="wrong",
    show_default=True,
    help="index adds, in a table of its own, what published code gives that takes the first of equal answers.",
)
@click.option("--markdown", type=_FILE, metavar="FILE", help="Write the tables as Markdown.")
@click.option("--latex", type=_FILE, metavar="FILE", help="Write the tables as LaTeX.")
@click.option(
    "--rows",
    type=click.Choice(["metrics", "models"]),
    help="Of the LaTeX: every table, or one table of models for a paper. [default: models, if there are several]",
)
@click.option("--percent", is_flag=True, help="Percent in the table of models.")
@click.option("--out", type=_FILE, metavar="FILE.html", help="Write a self-contained page.")
@click.option("--items", type=_FILE, metavar="FILE.csv", help="Write every item and its answers.")
@click.option("--force", is_flag=True, help="Overwrite files of these names.")
@click.option("--list", "listed", is_flag=True, help="List the benchmarks, the files each needs and where to get them.")
@as_json_option
def evaluate(
    benchmarks: tuple[str, ...], models: list[str], data: tuple[str, ...], images: tuple[str, ...],
    option: tuple[str, ...], markdown: Path | None, latex: Path | None, rows: str | None, percent: bool,
    out: Path | None, items: Path | None, force: bool, listed: bool, as_json: bool, cache: Path | None, no_cache: bool,
    device: str | None, precision: str, ignore_exif: bool, alignment: tuple[str, ...], strength: tuple[float, ...],
    **settings: Any,
) -> None:  # fmt: skip
    """Measure gains and costs of alignments on benchmarks.

    A tie is wrong. Each image and caption is encoded once; a second run takes what the first one kept.
    """
    if listed:
        from labclip.evaluation.benchmarks import BENCHMARKS

        if as_json:
            show_json(_facts(BENCHMARKS))
        else:
            show(_listing(BENCHMARKS))
        return
    if not benchmarks:
        raise ValueError(
            "Type: labclip evaluate BENCHMARK --model M --data PATH. `labclip evaluate --list` names them."
        )
    if not models:
        given = [*benchmarks, "--model M", *(f"--data {one}" for one in data)]
        raise ValueError(f"Missing option --model M. Type: labclip evaluate {' '.join(given)}")
    if (rows == "models" or percent) and latex is None:
        raise ValueError("--rows models and --percent are of the LaTeX. Pass --latex FILE too.")
    rows = rows or ("models" if len(models) > 1 else "metrics")
    if rows == "metrics" and (percent or len(models) > 1):
        raise ValueError("Several models in one table, and --percent, need --rows models. Pass it too.")
    if len(models) > 1 and (out or items):
        raise ValueError(f"{out or items} is of one model, but there are {len(models)}. Pass one --model for it.")
    asked = _asked(benchmarks, data, images, option)
    inputs = [Path(one) for one in (*asked["data"].values(), *asked["images"].values())]
    check_outputs([markdown, latex, items, out], force=force, others=inputs)
    if cache is not None and no_cache:
        raise ValueError(f"--cache {cache} and --no-cache contradict each other. Pass one of them.")
    if out is not None:
        check_page(out)
    check_names(*models, *alignment)
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
    if as_json:
        show_json({"reports": [one.to_json() for one in every]} if others else report.to_json())
    else:
        show("\n\n\n".join(map(str, every)))
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


def _facts(benchmarks: Any) -> list[dict[str, Any]]:
    told = ("name", "title", "measures", "wants", "source", "licence", "paper", "options")
    return [{key: getattr(one, key) for key in told} for one in benchmarks.values()]


def _listing(benchmarks: Any) -> str:
    lines = []
    for one in benchmarks.values():
        options = ", ".join(f"{name}={default}" for name, default in one.options.items())
        lines += [
            f"{one.name}: {one.title} ({one.paper}), {one.measures}",
            f"    wants    {one.wants}",
            f"    from     {one.source}",
            f"    licence  {one.licence}",
            *([f"    options  {options}"] if options else []),
        ]
    return "\n".join(lines)
