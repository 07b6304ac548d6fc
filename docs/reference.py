"""Write the generated parts of README and docs, from the help of the command and from files of measurements.

    python docs/reference.py [--check]

A generated part is between `<!-- NAME -->` and `<!-- /NAME -->`. --check fails if one is stale.
"""

import inspect
import json
import re
import runpy
import sys
from pathlib import Path

from click.testing import CliRunner

from labclip.cli import main as command
from labclip.evaluation import BENCHMARKS, Report
from labclip.io.published import PUBLISHED, REPORTED
from labclip.report import Table, markdown_table
from labclip.report.values import UNMEASURABLE

DOCS = Path(__file__).parent
ROOT = DOCS.parent


# All gains and costs, without variants of the same metric.
MAIN_METRICS = (
    "search_map", "search_confused5", "search_map_heldout", "part_swap", "half_truth_grounded", "whole_truth",
    "binding", "binding_heldout", "tags_t2i_r1", "one_object_acc1",
)  # fmt: skip
# How benchmarks name the unit of a value that is not a ratio, by the value's format.
UNITS = {"{:.2f}\u00a0s": "seconds", "{:.2f}\u00a0GB": "gigabytes", "{:.0f}\u00a0MB": "megabytes"}
NUMBER = re.compile(r"([-+]?[\d.,]+(%|x|[\u00a0 ]?(s|GB|MB))?(±[\d.]+)?( of [\d,]+| \[.*\])?)?")


def read(path):
    """A JSON file by its path in the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def _scenes_result():
    return Report.from_json(ROOT / "benchmarks" / "results" / "scenes.json")["scenes"]


def table(columns, rows):
    """A Markdown table of texts. Columns of numbers, except the first, are aligned to the right."""
    rows = [*rows]
    numeric = [i > 0 and all(NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(columns))]
    lines = [columns, ["---:" if right else "---" for right in numeric], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbers(record, *keys):
    """Values of a record with three decimals; None is empty."""
    return ["" if record[key] is None else f"{record[key]:.3f}" for key in keys]


def interval(value, low, high, sign=""):
    """A value with its 95% interval."""
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def help_text():
    """The help of `labclip` and of each of its commands."""
    parts = []
    for name in ("", *command.list_commands(None)):
        # As a terminal of 80 columns shows it: click leaves two of them free.
        text = CliRunner().invoke(command, [*name.split(), "--help"], prog_name="labclip", terminal_width=78).stdout
        parts.append(f"{f'## labclip {name}' if name else ''}\n\n```text\n{text}```".lstrip())
    return "\n\n".join(parts)


def schema():
    """The keys of an alignment's `config.json`, from its JSON Schema."""
    rows = []

    def add(prefix, part):
        for name, key in part["properties"].items():
            kind = key.get("type", f"the number {key['const']}" if "const" in key else "string or null")
            kind = kind if isinstance(kind, str) else " or ".join(kind)
            optional = "" if name in part.get("required", ()) else ", optional"
            rows.append((f"`{prefix}{name}`", kind + optional, key["description"]))
            if "properties" in key:
                add(f"{name}.", key)

    add("", read("docs/alignment-folder.schema.json"))
    return table(("key", "type", "meaning"), rows)


def scored():
    """The short table of `labclip evaluate scenes`, from the file that `make results` writes."""
    rows = []
    for comparison in map(_scenes_result().metric, MAIN_METRICS):
        values = [f"{estimate.value:.3f}" for estimate in comparison.estimates]
        (difference,) = comparison.differences
        text = interval(difference.value, difference.low, difference.high, "+")
        rows.append([comparison.metric, *values, text if difference.measurable else UNMEASURABLE])
    return markdown_table(Table("", ["metric", "base", "LABCLIP", "difference, 95% interval"], rows))


def finding():
    """What the encoders of the embedded model know and what their cosine sees, from docs/diagnosis.json."""
    diagnosis = read("docs/diagnosis.json")
    probes, models = diagnosis["probes"], diagnosis["binding"]["models"]
    rows = [
        ("linear probe on the image embedding", probes["image"]["accuracy"], probes["image"]["bag_chance"]),
        ("linear probe on the text embedding", probes["text"]["accuracy"], probes["text"]["bag_chance"]),
        ("cosine, right against swapped caption", models["base"], models["base"]["chance"]),
        ("the same with the matrix", models["own"], models["own"]["chance"]),
    ]
    cells = [
        (label, interval(*map(accuracy.get, ("value", "low", "high"))), f"{chance:g}")
        for label, accuracy, chance in rows
    ]
    return table(("which attribute belongs to which object", "accuracy, 95% interval", "chance or bag of words"), cells)


def costs():
    """What a matrix gains and costs, from the files of three commands; published figures for negation."""
    scenes, photos, rows = _scenes_result(), read("benchmarks/recipes.json")["datasets"]["photos"], []
    trials = read("weights/scenes/results.json")
    shipped = next(trial for trial in trials["trials"] if trial["seed"] == trials["shipped"])
    for metric, label in (("binding", "pairs of the fit"), ("binding_heldout", "an unseen pair")):
        rows.append((f"binding, {label}", *(estimate.value for estimate in scenes.metric(metric).estimates)))
    for metric, label in (
        ("binding_heldout_both", "binding, two unseen pairs"),
        ("binding_three", "binding, three objects in a sentence; the fit had two"),
        ("query_three", "binding, three objects as a query of parts"),
        ("tags_three_t2i_r1", "text-to-image R@1, tags of three objects"),
    ):
        rows.append((label, shipped["base"][metric], shipped["labclip"][metric]))
    for recipe, label in (("published", "the paper's settings for CLEVR"), ("labclip", "labclip's default")):
        for key, metric in (("binding, seen", "binding"), ("R@1 t2i, seen", "text-to-image R@1")):
            rows.append((f"photos, {label}: {metric}", *(photos[side][key]["mean"] for side in ("base", recipe))))
        recall = photos[recipe]["recall elsewhere, of the base's"]["mean"]
        rows.append((f"photos, {label}: recall on other collections", 1.0, recall))
    (negation,) = (entry for entry in REPORTED if entry.benchmark == "negation")
    rows.append((f"negation, {BENCHMARKS['negation'].title}", negation.values["base"], negation.values["labclip"]))
    return table(("what", "base", "LABCLIP"), [(row[0], f"{row[1]:.3f}", f"{row[2]:.3f}") for row in rows])


def ratios(file="ratios.json"):
    """The tables of `make bench`, from the file it writes: ratios, then times and memory."""
    compared, amounts = [], []
    for row in read(f"benchmarks/{file}"):
        label, against = row["what"].strip(), row["against"]
        time = "" if row["seconds"] in (None, row["ratio"]) else f"{row['seconds']:.2f}\u00a0s"
        unit = next((unit for unit, name in UNITS.items() if against.startswith(name)), None)
        if unit is None:
            compared.append((label, against, f"{row['ratio']:.2f}x", f"{row['aim']:.2f}x", time))
            continue
        if included := re.search(r"(\S+ \S+ [\d.]+) included", against):
            label = f"{label}, {included[1]} s included"
        value, aim = unit.format(row["ratio"]), unit.format(row["aim"])
        amounts.append((label, value, "", aim) if value.endswith("s") else (label, time, value, aim))
    columns = ("what", "time", "memory", "aim")
    if not any(row[2] for row in amounts):
        columns, amounts = ("what", "time", "aim"), [(label, time, aim) for label, time, _, aim in amounts]
    first = table(("what", "compared with", "ratio", "aim", "run time"), compared)
    return "\n\n".join([first, table(columns, amounts)] if amounts else [first])


def recipes():
    """The tables of `benchmarks/recipes.py`, from the file it writes. Recipes with equal figures share a row."""
    measured, parts = read("benchmarks/recipes.json"), []
    for dataset, by_recipe in measured["datasets"].items():
        columns = [key for key in next(iter(by_recipe.values())) if key != "seconds"]
        names = {}
        for recipe, row in by_recipe.items():
            cells = tuple(_with_error(**row[key]) for key in columns)
            names[cells] = f"{names[cells]}; {recipe.removeprefix('labclip, ')}" if cells in names else recipe
        count = "" if dataset == "photos" else f"{measured['count']:,} scenes, "
        heading = f"`{dataset}`, {count}seeds {', '.join(map(str, measured['seeds']))}:"
        parts += [heading, table(("", *columns), [[name, *cells] for cells, name in names.items()])]
    return "\n\n".join(parts)


def _with_error(mean, error):
    return f"{mean:.3f}" if not error else f"{mean:.3f}±{error:.3f}"


def divergence():
    """The table of `benchmarks/divergence.py`, from the file it writes."""
    rows = [
        (f"`{dataset}`", f"{row['above']:g}", str(row["points"]), *numbers(row["own"], "mean", "worst"),
         *numbers(row["elsewhere"], "mean", "worst"))
        for dataset, bins in read("benchmarks/divergence.json")["datasets"].items() for row in bins
    ]  # fmt: skip
    sides = ("own, mean", "own, worst", "elsewhere, mean", "elsewhere, worst")
    return table(("dataset", "divergence above", "points", *sides), rows)


def grounded():
    """The table of `benchmarks/grounded.py`, from the file it writes."""
    tables = read("benchmarks/grounded.json")["tables"]
    keys = [key for key in tables["photos"]["base"] if key != "strength"]
    rows = [
        (f"`{dataset}`", recipe, *numbers(row, *keys))
        for dataset, by_recipe in tables.items() for recipe, row in by_recipe.items()
    ]  # fmt: skip
    return table(("photos", "recipe", *keys), rows)


def kinds():
    """The tables of `benchmarks/kinds.py`, from the file it writes."""
    return "\n\n".join(
        table((f"`{dataset}`", *mixtures["base"]), [(name, *numbers(row, *row)) for name, row in mixtures.items()])
        for dataset, mixtures in read("benchmarks/kinds.json")["tables"].items()
    )


def rules():
    """The table of `benchmarks/kinds.py --rules`, from the file it writes."""
    measured, rows, previous = read("benchmarks/rules.json")["tables"]["scenes"], [], None
    keys = [key for key in measured["base"] if "unseen" not in key]
    for name, row in measured.items():
        texts, _, rule = name.rpartition("; ") if ";" in name else (name, "", "")
        rows.append(["" if texts == previous else texts, rule, *numbers(row, *keys)])
        previous = texts
    return table(("captions; texts", "selected by", *keys), rows)


def strengths():
    """What each strength gains and costs on photos, from the file that `benchmarks/grounded.py` writes."""
    keys = ("grounded", "blind", "R@1 t2i", "R@1 i2t")
    rows = [
        (f"`{dataset}`", f"{row['strength']:g}", *numbers(row, *keys), f"{row['lost']:.1%}", f"{row['divergence']:.2f}")
        for dataset, points in read("benchmarks/grounded.json")["strengths"].items() if "gap" not in dataset
        for row in points
    ]  # fmt: skip
    return table(("photos", "strength", *keys, "lost", "divergence"), rows)


def amount():
    """The table of `benchmarks/amount.py`, from the file it writes."""
    keys = ("grounded", "grounded, unseen pairs", "search mAP", "R@1 t2i")
    rows = [
        (row["captions"], row["worth using"], *numbers(row, *keys), f"{row['seconds']:.0f} s" if row["seconds"] else "")
        for row in read("benchmarks/amount.json")["rows"]
    ]
    labels = ("binding, grounded", "the same, unseen pairs", *keys[2:])
    return table(("captions", "worth using", *labels, "time of the fit"), rows)


def seeds():
    """The table of `weights/seeds.py`, from the file it writes."""
    rows = read("benchmarks/seeds.json")["rows"]
    cells = [(f"`{row['metric']}`", *numbers(row, "base", "mean", "least", "most")) for row in rows]
    return table(("metric", "base", "mean", "lowest", "highest"), cells)


def allowance():
    """The table of `benchmarks/allowance.py`, from the file it writes."""
    rows = read("benchmarks/allowance.json")
    percentages = [key for key in rows[0] if key not in ("images", "rule")]
    cells = [(f"{row['images']:,}", row["rule"], *(f"{row[key]:.1%}" for key in percentages)) for row in rows]
    return table(("images", "rule", *percentages), cells)


def shuffling():
    """The table of `benchmarks/negatives.py`, from the file it writes."""
    rows = []
    for row in read("benchmarks/negatives.json"):
        aim = "" if row["aim"] is None else f"{row['aim']:,}"
        rows.append((row["what"], f"{row['rate']:,.0f}", aim, f"{row['without']:,} of {row['captions']:,}"))
    return table(("what", "captions/s", "aim", "without a negative"), rows)


def serving():
    """The table of `benchmarks/app.py`, from the file it writes, with the aims on two free cores."""
    measured = read("benchmarks/app.json")
    aims = {
        "start": ("until the page can be opened", "12 s"),
        "start_processor": ("processor time of that", ""),
        "caption": ("a changed caption", "0.3 s"),
        "search": ("a search over 500 scenes", "0.5 s"),
    }
    rows = [(label, f"{measured[key]:g} s", aim) for key, (label, aim) in aims.items()]
    machine = f"Measured on {measured['cores']} cores, at a load of {measured['load']:g}:"
    return f"{machine}\n\n{table(('what', 'time', 'aim'), rows)}"


def embedding():
    """The table of `benchmarks/features.py`, from the file it writes."""
    rows = [
        (*row["what"].split(" of "), f"{row['ratio']:.2f}x", f"{row['aim']:.2f}x")
        for row in read("benchmarks/features.json")
    ]
    return table(("what", "compared with", "measured", "aim"), rows)


def scaled():
    """The time for a billion rows, computed from the million or fewer that `benchmarks/transform.py` measured."""
    row = read("benchmarks/transform.json")[0]
    count, dim = (int(word.replace(",", "")) for word in re.search(r"([\d,]+) x (\d+)", row["what"]).groups())
    hours, terabytes = row["seconds"] * 1e9 / count / 3600, 2 * dim * 1e9 / 1e12
    rate = 2 * dim * count / row["seconds"] / 1e6
    rows = [
        (f"1,000,000,000 x {dim} float16", f"{terabytes:.2f} TB read, {terabytes:.2f} TB written"),
        ("one machine of two cores", f"{hours:.1f} hours, {rate:,.0f} MB/s read and as many written"),
        *((f"{machines} such machines", f"{hours / machines * 60:.2g} minutes") for machines in (16, 64)),
    ]
    return table(("what", "takes"), rows)


def embedded():
    """The time for a billion images with captions, from what `benchmarks/driver.py` measured; workers are assumed."""
    stages = {row["what"]: row for row in read("benchmarks/driver.json")}
    hours = {stage: row["seconds"] * 1e9 / row["rows"] / 3600 for stage, row in stages.items()}
    rate = stages["images"]["rows"] / stages["images"]["seconds"]
    work = 1e9 / 1_000 / 3600 + 1e9 / 10_000 / 3600
    rows = [
        ("images of 70 kB, and two embeddings of 512 float32 each", f"70 TB read, {2 * 4 * 512 / 1e3:.1f} TB written"),
        ("the table", f"{hours['planned']:.1f} hours to read"),
        ("workers that encode 1,000 images or 10,000 captions a second", f"{work:,.0f} hours of one"),
        *((f"{count} such workers", f"{work / count:.1f} hours") for count in (16, 64)),
        ("one process that writes", f"{hours['images'] + hours['captions']:.1f} hours of one core"),
        ("workers that it can keep busy with images", f"{rate / 1_000:.0f}"),
        ("the hashes of the files at the end", f"{hours['checked']:.1f} hours"),
    ]
    return table(("what", "takes"), rows)


def finetuned():
    """The table of `benchmarks/finetune.py`, from the file it writes."""
    models = read("benchmarks/finetune.json")
    metrics = [key for key in models["base"] if key != "seconds"]
    rows = [(metric, *(f"{model[metric]:.3f}" for model in models.values())) for metric in metrics]
    times = [f"{model['seconds']:.0f} s" if model["seconds"] else "" for model in models.values()]
    return table(("", *models), [*rows, ("time", *times)])


def results():
    """The reports that `benchmarks/results.py` keeps, one below the other."""
    text = "\n".join(report.to_markdown(level=2) for report in _kept_reports()).rstrip()
    return re.sub(r"(?:^\|.*\n)+", _without_ones, text, flags=re.MULTILINE)


def _kept_reports():
    return [Report.from_json(path) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]


def _without_ones(match):
    """A Markdown table whose rows with 1.000 of both models are only named, below it."""
    lines = match[0].splitlines(keepends=True)
    ones = [line for line in lines if "| 1.000 | 1.000 |" in line]
    names = ", ".join(f"`{line.split(' | ')[0].strip('| ')}`" for line in ones)
    return "".join(line for line in lines if line not in ones) + (f"\nBoth have 1.000 in {names}.\n" if ones else "")


def published():
    """Published figures of the method, with labclip's own measurement or else the command that measures it."""
    rows, commands, reports = [], {}, _kept_reports()
    for entry in REPORTED:
        others = ", ".join(
            f"{name} {_decimals(value)}" for name, value in entry.values.items() if name not in ("base", "labclip")
        )
        title = BENCHMARKS[entry.benchmark].title if entry.benchmark in BENCHMARKS else "Linear probes, CLEVR"
        measured = next(filter(None, (_measured(report, entry) for report in reports)), "")
        if not measured:
            commands[entry.command] = None
        values = [_decimals(entry.values[side]) if side in entry.values else "" for side in ("base", "labclip")]
        clip = (entry.clip or "not stated").replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append([title, entry.metric, clip, *values, others, measured])
    columns = ["benchmark", "metric", "CLIP", "base", "LABCLIP", "others", "by labclip"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    reported = markdown_table(Table("", columns, rows, words=(0, 1, 2, 5, 6)))
    return "\n".join([reported, "", "What to type to measure them, in this order:", "", "```bash", *commands, "```"])


def _decimals(value):
    """A published figure with two decimals, or with three if it has them."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"


def _measured(report, reported):
    """Base and LABCLIP in a report on the same matrix and benchmark, else None."""
    entry = next((entry for entry in PUBLISHED if [entry.name, entry.alignment] == reported.matrix), None)
    matrices = [alignment["matrix_sha256"] for alignment in report.alignments]
    benchmarks = [result.benchmark.name for result in report.results]
    if entry is None or matrices != [entry.matrix_sha256] or reported.benchmark not in benchmarks:
        return None
    estimates = report[reported.benchmark].metric(reported.measured_as or reported.metric).estimates
    return ", ".join(f"{estimate.value:.3f}" for estimate in estimates)


def benchmarks():
    """A table of all benchmarks, and a section for each: what it needs and measures."""
    parts, rows = [], []
    for benchmark in BENCHMARKS.values():
        about = " ".join(inspect.getdoc(benchmark.read).partition("\n\n")[0].split())
        headline = ", ".join(f"`{name}`" for name in benchmark.headline)
        rows.append((f"[{benchmark.name}](#{benchmark.name})", benchmark.title, headline))
        lines = [f"### {benchmark.name}", "", _linked(f"{benchmark.title} ({benchmark.paper}). {about}"), ""]
        lines += [f"- needs: {_linked(benchmark.wants)}"]
        lines += [f"- from: {_linked(benchmark.source)}; licence: {benchmark.licence}"]
        if benchmark.options:
            lines += [f"- options: {', '.join(f'`{name}={value}`' for name, value in benchmark.options.items())}"]
        parts.append("\n".join(lines))
    return "\n\n".join([table(("name", "benchmark", "main metrics"), rows), *parts])


def _linked(text):
    """Text as Markdown, with links for addresses and papers."""
    text = re.sub(
        r"(?<![\w/.])((?:[\w-]+\.)+(?:com|org|edu|co|ac\.uk)(?:/[\w./~-]*\w)?)(?![\w.])", r"[\1](https://\1)", text
    )
    return re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text).replace("*", r"\*")


def diagnosed():
    """The verdict and the tables of `docs/diagnosis.json`, which `labclip diagnose --model scenes --json` prints."""
    diagnosis = read("docs/diagnosis.json")
    verdict, scenes = diagnosis["verdict"], diagnosis["benchmarks"]["scenes"]["models"]
    gap = [(when, *numbers(row, "distance", "separability")) for when, row in diagnosis["gap"].items()]
    columns = [(model, suffix) for suffix in ("", "_blind", "_grounded") for model in ("base", "own")]
    parts = []
    for metric in ("part_swap", "part_foil", "half_truth", "whole_truth", "search_map", "search_confused5"):
        values = [scenes[model].get(f"{metric}{suffix}") for model, suffix in columns]
        if values[:2] != [1, 1]:
            parts.append((metric, *("" if value is None else f"{value:.3f}" for value in values)))
    names = {"swapped": "attributes swapped", "shuffled": "words shuffled"}
    medians = [
        (names[kind], *(f"{row[when]['quantiles']['0.5']:.3f}" for when in ("before", "after")))
        for kind, row in diagnosis["permutations"].items()
    ]
    labels = [f"{model}{suffix}".replace("_", ", ") for model, suffix in columns]
    return "\n\n".join([
        f"**{verdict['headline']}**",
        "\n".join(f"- {sentence}" for sentence in (*verdict["reasons"], *verdict["repair"])),
        table(("parts and search", *labels), parts),
        table(("modality gap", "distance of the means", "linear separability"), gap),
        table(("caption against", "cosine before, median", "after"), medians),
        f"{diagnosis['scenes']:,} scenes of {diagnosis['combinations']:,} combinations, seed {diagnosis['seed']}, "
        f"labclip {diagnosis['version']}.",
    ])  # fmt: skip


def libraries():
    """A table of the libraries of docs/libraries.py, with the rows that `benchmarks/in_libraries.py` wrote."""
    measured, rows = read("benchmarks/in_libraries.json"), []
    for library in _libraries():
        anchor = re.sub(r"[^a-z0-9_ -]", "", library.title.lower()).replace(" ", "-")
        for row in (row for row in measured if row["title"] == library.title):
            figures = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("base", "aligned")]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            runner = "tests" if library.installed else "script" if any([*figures, ratio]) else "hand"
            package = f"{row['package']} {row['version']}"
            rows.append([f"[{library.title}](#{anchor})", package, *figures, ratio, runner])
    return table(("library", "tried with", "base", "aligned", "time", "run by"), rows)


def sections():
    """A section for each library: its text, and the code to type."""
    return "\n\n".join(
        f"## {library.title}\n\n{library.words}\n\n<!-- library -->\n```python\n{library.code}\n```"
        for library in _libraries()
    )


def _libraries():
    return runpy.run_path(str(DOCS / "libraries.py"))["LIBRARIES"]


PARTS = {
    function.__name__: function
    for function in (
        libraries, sections, benchmarks, schema, finding, costs, scored, ratios, recipes, divergence, amount, seeds,
        allowance, grounded, kinds, rules, strengths, finetuned, shuffling, embedding, serving, scaled, embedded,
        results, published,
    )
}  # fmt: skip
PARTS |= {
    "help": help_text,
    "diagnosis": diagnosed,
    "fitting": lambda: ratios("fit.json"),
    "evaluating": lambda: ratios("evaluation.json"),
    "transforming": lambda: ratios("transform.json"),
}


def _generate(match):
    name = match[1]
    return f"<!-- {name} -->\n\n{PARTS[name]()}\n\n<!-- /{name} -->"


def pages():
    """The new text of each page that has generated parts."""
    part = re.compile(rf"<!-- ({'|'.join(PARTS)}) -->\n.*?<!-- /\1 -->", re.DOTALL)
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}
    return {path: part.sub(_generate, text) for path, text in texts.items() if part.search(text)}


def main():
    """Write the pages, or check them."""
    for path, text in pages().items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is stale. Type: python docs/reference.py")


if __name__ == "__main__":
    main()
