"""Write the generated parts of README and docs, from the command's own help and from files of measurements.

    python docs/reference.py [--check]

Parts stand between `<!-- NAME -->` and `<!-- /NAME -->`. With --check, fails where one is stale.
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


# Gains and every cost; what is left out is a variant of a row that stays.
SCORED = (
    "search_map",
    "search_confused5",
    "search_map_heldout",
    "part_swap",
    "half_truth_grounded",
    "whole_truth",
    "binding",
    "binding_heldout",
    "tags_t2i_r1",
    "one_object_acc1",
)


# How `make bench` says what a number is that is no ratio, and how it is written.
UNITS = {"{:.2f}\u00a0s": "seconds", "{:.2f}\u00a0GB": "gigabytes", "{:.0f}\u00a0MB": "megabytes"}


def read(path):
    """A JSON file of measurements, by its path in the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


NUMBER = re.compile(r"([-+]?[\d.,]+(%|x|[\u00a0 ]?(s|GB|MB))?(±[\d.]+)?( of [\d,]+| \[.*\])?)?")


def table(columns, rows):
    """A Markdown table of cells that are text already; columns of numbers are aligned to the right."""
    rows = [*rows]
    numeric = [at > 0 and all(NUMBER.fullmatch(row[at]) for row in rows) for at in range(len(columns))]
    lines = [columns, ["---:" if right else "---" for right in numeric], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def numbers(one, *keys):
    """Values of a record with three decimals."""
    return [f"{one[key]:.3f}" for key in keys]


def help_text():
    """The help of the command and of each of its commands."""
    parts = []
    for name in ("", *command.list_commands(None)):
        # What a terminal of 80 columns shows: two of them stay free.
        shown = CliRunner().invoke(command, [*name.split(), "--help"], prog_name="labclip", terminal_width=78).stdout
        parts.append(f"{f'## labclip {name}' if name else ''}\n\n```text\n{shown}```".lstrip())
    return "\n\n".join(parts)


def schema():
    """The keys of an alignment's `config.json`, from its JSON Schema."""
    rows = []

    def add(prefix, part):
        for name, one in part["properties"].items():
            kind = one.get("type", f"the number {one['const']}" if "const" in one else "string or null")
            kind = kind if isinstance(kind, str) else " or ".join(kind)
            optional = "" if name in part.get("required", ()) else ", optional"
            rows.append((f"`{prefix}{name}`", kind + optional, one["description"]))
            if "properties" in one:
                add(f"{name}.", one)

    add("", read("docs/alignment-folder.schema.json"))
    return table(("key", "type", "meaning"), rows)


def scored():
    """The short table of `labclip evaluate scenes`, from the file that `make results` writes."""
    result = Report.from_json(ROOT / "benchmarks" / "results" / "scenes.json")["scenes"]
    rows = []
    for name in SCORED:
        found = result.metric(name)
        base, ours = (f"{estimate.value:.3f}" for estimate in found.estimates)
        moved = found.differences[0]
        text = f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]" if moved.measurable else UNMEASURABLE
        rows.append([name, base, ours, text])
    return markdown_table(Table("", ["metric", "base", "LABCLIP", "difference, 95% interval"], rows))


def finding():
    """What each encoder knows and what their cosine sees, of the embedded model, from docs/diagnosis.json."""
    found = read("docs/diagnosis.json")
    probes, models = found["probes"], found["binding"]["models"]
    rows = [
        ("linear probe on the image embedding", probes["image"]["accuracy"], probes["image"]["bag_chance"]),
        ("linear probe on the text embedding", probes["text"]["accuracy"], probes["text"]["bag_chance"]),
        ("cosine, right against swapped caption", models["base"], models["base"]["chance"]),
        ("the same with the matrix", models["own"], models["own"]["chance"]),
    ]
    cells = [
        (what, f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]", f"{chance:g}") for what, one, chance in rows
    ]
    return table(("which attribute belongs to which object", "accuracy, 95% interval", "chance or bag of words"), cells)


def costs():
    """What a matrix gains and costs, from the files of three commands, and published figures where there is none."""
    scenes = Report.from_json(ROOT / "benchmarks" / "results" / "scenes.json")["scenes"]
    trials = read("weights/scenes/results.json")
    results = next(trial for trial in trials["trials"] if trial["seed"] == trials["shipped"])
    photos, rows = read("benchmarks/recipes.json")["datasets"]["photos"], []
    for name, what in (("binding", "pairs of the fit"), ("binding_heldout", "an unseen pair")):
        rows.append((f"binding, {what}", *(one.value for one in scenes.metric(name).estimates)))
    for name, what in (
        ("binding_heldout_both", "binding, two unseen pairs"),
        ("binding_three", "binding, three objects in a sentence; the fit had two"),
        ("query_three", "binding, three objects as a query of parts"),
        ("tags_three_t2i_r1", "text-to-image R@1, tags of three objects"),
    ):
        rows.append((what, results["base"][name], results["labclip"][name]))
    for recipe, what in (("published", "the paper's settings for CLEVR"), ("labclip", "labclip's default")):
        for key, metric in (("binding, seen", "binding"), ("R@1 t2i, seen", "text-to-image R@1")):
            rows.append((f"photos, {what}: {metric}", *(photos[side][key]["mean"] for side in ("base", recipe))))
        share = photos[recipe]["recall elsewhere, of the base's"]["mean"]
        rows.append((f"photos, {what}: recall on other collections", 1.0, share))
    (negation,) = (one for one in REPORTED if one.benchmark == "negation")
    rows.append((f"negation, {BENCHMARKS['negation'].title}", *map(negation.values.get, ("base", "labclip"))))
    return table(("what", "base", "LABCLIP"), [(what, f"{base:.3f}", f"{ours:.3f}") for what, base, ours in rows])


def ratios(file="ratios.json"):
    """The tables of `make bench`, from the file it writes: ratios, and below them times and memory by themselves."""
    shares, amounts = [], []
    for row in read(f"benchmarks/{file}"):
        what, against = row["what"].strip(), row["against"]
        took = "" if row["seconds"] in (None, row["ratio"]) else f"{row['seconds']:.2f}\u00a0s"
        write = next((unit.format for unit, words in UNITS.items() if against.startswith(words)), None)
        if write is None:
            shares.append((what, against, f"{row['ratio']:.2f}x", f"{row['aim']:.2f}x", took))
            continue
        if included := re.search(r"(\S+ \S+ [\d.]+) included", against):
            what = f"{what}, {included[1]} s included"
        value, aim = write(row["ratio"]), write(row["aim"])
        amounts.append((what, value, "", aim) if value.endswith("s") else (what, took, value, aim))
    heads = ("what", "time", "memory", "aim")
    if not any(row[2] for row in amounts):
        heads, amounts = ("what", "time", "aim"), [(what, time, aim) for what, time, _, aim in amounts]
    first = table(("what", "compared with", "ratio", "aim", "run time"), shares)
    return "\n\n".join([first, table(heads, amounts)] if amounts else [first])


def recipes():
    """The tables of `benchmarks/recipes.py`, from the file it writes."""
    found = read("benchmarks/recipes.json")
    parts = []
    for dataset, recipes in found["datasets"].items():
        columns = [key for key in next(iter(recipes.values())) if key != "seconds"]
        rows = {}
        for name, row in recipes.items():
            cells = tuple(_with_error(**row[key]) for key in columns)
            rows[cells] = f"{rows[cells]}; {name.removeprefix('labclip, ')}" if cells in rows else name
        rows = [[name, *cells] for cells, name in rows.items()]
        seeds = ", ".join(map(str, found["seeds"]))
        count = "" if dataset == "photos" else f"{found['count']:,} scenes, "
        parts.append(f"`{dataset}`, {count}seeds {seeds}:\n\n{table(('', *columns), rows)}")
    return "\n\n".join(parts)


def divergence():
    """The tables of `benchmarks/divergence.py`, from the file it writes."""
    found, rows = read("benchmarks/divergence.json"), []
    for dataset, bins in found["datasets"].items():
        for row in bins:
            sides = [f"{row[side][kind]:.3f}" for side in ("own", "elsewhere") for kind in ("mean", "worst")]
            rows.append([f"`{dataset}`", f"{row['above']:g}", str(row["points"]), *sides])
    heads = ("dataset", "divergence above", "points", "own, mean", "own, worst", "elsewhere, mean", "elsewhere, worst")
    return table(heads, rows)


def grounded():
    """The tables of `benchmarks/grounded.py`, from the file it writes."""
    rows = []
    for dataset, recipes in read("benchmarks/grounded.json")["tables"].items():
        for name, found in recipes.items():
            shown = {key: value for key, value in found.items() if key != "strength"}
            rows.append([f"`{dataset}`", name, *("" if one is None else f"{one:.3f}" for one in shown.values())])
    return table(("photos", "recipe", *shown), rows)


def kinds():
    """The tables of `benchmarks/kinds.py`, from the file it writes."""
    tables = []
    for name, mixtures in read("benchmarks/kinds.json")["tables"].items():
        rows = [(mixture, *numbers(found, *found)) for mixture, found in mixtures.items()]
        tables.append(table((f"`{name}`", *mixtures["base"]), rows))
    return "\n\n".join(tables)


def rules():
    """The table of `benchmarks/kinds.py --rules`, from the file it writes."""
    found = read("benchmarks/rules.json")["tables"]["scenes"]
    keys, rows, before = [key for key in found["base"] if "unseen" not in key], [], None
    for name, row in found.items():
        *texts, rule = name.split("; ") if ";" in name else (name, "")
        rows.append(["" if texts == before else "; ".join(texts), rule, *numbers(row, *keys)])
        before = texts
    return table(("captions; texts", "selected by", *keys), rows)


def strengths():
    """What each strength gains and costs on photos, from the file that `benchmarks/grounded.py` writes."""
    rows = []
    for dataset, points in read("benchmarks/grounded.json")["strengths"].items():
        if "gap" not in dataset:
            for point in points:
                figures = numbers(point, "grounded", "blind", "R@1 t2i", "R@1 i2t")
                rows.append((f"`{dataset}`", f"{point['strength']:g}", *figures, f"{point['lost']:.1%}",
                             f"{point['divergence']:.2f}"))  # fmt: skip
    return table(("photos", "strength", "grounded", "blind", "R@1 t2i", "R@1 i2t", "lost", "divergence"), rows)


def amount():
    """The table of `benchmarks/amount.py`, from the file it writes."""
    rows, keys = read("benchmarks/amount.json")["rows"], ("grounded", "grounded, unseen pairs", "search mAP", "R@1 t2i")
    cells = [
        [one["captions"], one["worth using"], *numbers(one, *keys), f"{one['seconds']:.0f} s" if one["seconds"] else ""]
        for one in rows
    ]
    heads = ("captions", "worth using", "binding, grounded", "the same, unseen pairs", *keys[2:], "time of the fit")
    return table(heads, cells)


def seeds():
    """The table of `weights/seeds.py`, from the file it writes."""
    rows = read("benchmarks/seeds.json")["rows"]
    return table(
        ("metric", "base", "mean", "lowest", "highest"),
        [[f"`{one['metric']}`", *numbers(one, "base", "mean", "least", "most")] for one in rows],
    )


def allowance():
    """The table of `benchmarks/allowance.py`, from the file it writes."""
    rows = read("benchmarks/allowance.json")
    return table(
        tuple(rows[0]),
        [[f"{one['images']:,}", one["rule"], *(f"{value:.1%}" for value in [*one.values()][2:])] for one in rows],
    )


def _with_error(mean, error):
    return f"{mean:.3f}" if not error else f"{mean:.3f}±{error:.3f}"


def shuffling():
    """What `benchmarks/negatives.py` wrote."""
    rows = []
    for row in read("benchmarks/negatives.json"):
        aim = "" if row["aim"] is None else f"{row['aim']:,}"
        rows.append((row["what"], f"{row['rate']:,.0f}", aim, f"{row['without']:,} of {row['captions']:,}"))
    return table(("what", "captions/s", "aim", "have none"), rows)


def serving():
    """What `benchmarks/app.py` wrote, beside the aims on two free cores."""
    found = read("benchmarks/app.json")
    aims = {
        "start": ("until the page can be opened", 12),
        "start_processor": ("processor time of that", ""),
        "caption": ("a changed caption", 0.3),
        "search": ("a search over 500 scenes", 0.5),
    }
    rows = [(what, f"{found[key]:g} s", aim and f"{aim} s") for key, (what, aim) in aims.items()]
    told = f"{found['cores']} cores, with {found['load']:g} processes waiting for them when it started:"
    return f"{told}\n\n{table(('what', 'time', 'aim'), rows)}"


def embedding():
    """What `benchmarks/features.py` wrote."""
    rows = [
        (*row["what"].split(" of "), f"{row['ratio']:.2f}x", f"{row['aim']:.2f}x")
        for row in read("benchmarks/features.json")
    ]
    return table(("what", "compared with", "measured", "aim"), rows)


def scaled():
    """A billion rows, from what `benchmarks/transform.py` wrote of a million or fewer."""
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
    """A billion images, each with a caption, from what `benchmarks/driver.py` wrote of fewer; workers are assumed."""
    found = {row["what"]: row for row in read("benchmarks/driver.json")}
    hours = {what: row["seconds"] * 1e9 / row["rows"] / 3600 for what, row in found.items() if "seconds" in row}
    rate = found["images"]["rows"] / found["images"]["seconds"]
    work = 1e9 / 1_000 / 3600 + 1e9 / 10_000 / 3600
    rows = [
        ("images of 70 kB, and two embeddings of 512 float32 each", f"70 TB read, {2 * 4 * 512 / 1e3:.1f} TB written"),
        ("the table", f"{hours['planned']:.1f} hours to read"),
        ("workers that encode 1,000 images or 10,000 captions a second", f"{work:,.0f} hours of one"),
        *((f"{count} such workers", f"{work / count:.1f} hours") for count in (16, 64)),
        ("the process that writes, beside them", f"{hours['images'] + hours['captions']:.1f} hours of one core"),
        ("workers that it keeps busy with images", f"{rate / 1_000:.0f} such"),
        ("the hashes of the files at the end", f"{hours['checked']:.1f} hours"),
    ]
    return table(("what", "takes"), rows)


def finetuned():
    """The table of `benchmarks/finetune.py`, from the file it writes."""
    found = read("benchmarks/finetune.json")
    keys = next(iter(found.values()))
    return table(
        ("", *found),
        [
            ("time", *(f"{row[key]:.0f} s" if row[key] else "" for row in found.values()))
            if key == "seconds"
            else (key, *(f"{row[key]:.3f}" for row in found.values()))
            for key in keys
        ],
    )


def results():
    """The reports that `benchmarks/results.py` keeps, one below the other."""
    text = "\n".join(report.to_markdown(level=2) for report in _kept()).rstrip()
    return re.sub(r"(?:^\|.*\n)+", _folded, text, flags=re.MULTILINE)


def _folded(table):
    """A Markdown table, the rows with 1.000 of both models named below it."""
    lines = table[0].splitlines(keepends=True)
    equal = [row for row in lines if "| 1.000 | 1.000 |" in row]
    names = ", ".join(f"`{row.split(' | ')[0].strip('| ')}`" for row in equal)
    return "".join(row for row in lines if row not in equal) + (f"\nBoth have 1.000 in {names}.\n" if equal else "")


def published():
    """What others published for the method, beside what labclip measured of it, if anything, or what to type."""
    rows, commands = [], {}
    for one in REPORTED:
        others = ", ".join(
            f"{name} {_decimals(value)}" for name, value in one.values.items() if name not in ("base", "labclip")
        )
        title = BENCHMARKS[one.benchmark].title if one.benchmark in BENCHMARKS else "Linear probes, CLEVR"
        measured = next(filter(None, (_measured(report, one) for report in _kept())), "")
        if not measured:
            commands[one.command] = None
        values = [_decimals(one.values[side]) if side in one.values else "" for side in ("base", "labclip")]
        clip = (one.clip or "not said").replace("-", "\N{NON-BREAKING HYPHEN}")
        rows.append([title, one.metric, clip, *values, others, measured])
    columns = ["benchmark", "metric", "CLIP", "base", "LABCLIP", "others", "by labclip"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    reported = markdown_table(Table("", columns, rows, words=(0, 1, 2, 5, 6)))
    return "\n".join([reported, "", "What to type to measure them, in this order:", "", "```bash", *commands, "```"])


def _kept():
    return [Report.from_json(path) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]


def _decimals(value):
    """A published figure with the decimals it was published with: two, or three where it has them."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"


def _measured(report, one):
    """Base and LABCLIP where a kept report has the very figure, else None."""
    entry = next((entry for entry in PUBLISHED if [entry.name, entry.alignment] == one.matrix), None)
    matrices = [alignment["matrix_sha256"] for alignment in report.alignments]
    asked = [result.benchmark.name for result in report.results]
    if entry is None or matrices != [entry.matrix_sha256] or one.benchmark not in asked:
        return None
    estimates = report[one.benchmark].metric(one.measured_as or one.metric).estimates
    return ", ".join(f"{estimate.value:.3f}" for estimate in estimates)


def benchmarks():
    """A table of all benchmarks, and a section of each: what it needs and measures, as `labclip evaluate` has it."""
    parts, rows = [], []
    for one in BENCHMARKS.values():
        about = " ".join(inspect.getdoc(one.read).partition("\n\n")[0].split())
        headline = ", ".join(f"`{name}`" for name in one.headline)
        rows.append((f"[{one.name}](#{one.name})", one.title, headline))
        lines = [f"### {one.name}", "", _linked(f"{one.title} ({one.paper}). {about}"), ""]
        lines += [f"- needs: {_linked(one.wants)}", f"- from: {_linked(one.source)}; licence: {one.licence}"]
        if one.options:
            lines += [f"- options: {', '.join(f'`{name}={default}`' for name, default in one.options.items())}"]
        parts.append("\n".join(lines))
    return "\n\n".join([table(("name", "benchmark", "main metrics"), rows), *parts])


def _linked(text):
    """Text as Markdown: addresses and papers become links, and an asterisk stays one."""
    text = re.sub(
        r"(?<![\w/.])((?:[\w-]+\.)+(?:com|org|edu|co|ac\.uk)(?:/[\w./~-]*\w)?)(?![\w.])", r"[\1](https://\1)", text
    )
    return re.sub(r"arXiv:([\d.]+\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text).replace("*", r"\*")


def diagnosed():
    """The verdict and the tables of `docs/diagnosis.json`, which `labclip diagnose --model scenes --json` prints."""
    found = read("docs/diagnosis.json")
    verdict = found["verdict"]
    sentences = "\n".join(f"- {sentence}" for sentence in (*verdict["reasons"], *verdict["repair"]))
    gap = [(when, *numbers(one, "distance", "separability")) for when, one in found["gap"].items()]
    scenes = found["benchmarks"]["scenes"]["models"]
    parts = []
    for name in ("part_swap", "part_foil", "half_truth", "whole_truth", "search_map", "search_confused5"):
        values = [(scenes[model], f"{name}{ending}") for ending in ("", *CONTROLS) for model in ("base", "own")]
        parts.append((name, *(f"{one[key]:.3f}" if key in one else "" for one, key in values)))
    parts = [row for row in parts if row[1:3] != ("1.000", "1.000")]
    medians = [
        (PERMUTED[kind], *(numbers(part[when]["quantiles"], "0.5")[0] for when in ("before", "after")))
        for kind, part in found["permutations"].items()
    ]
    columns = [f"{model}{ending}" for ending in ("", *CONTROLS) for model in ("base", "own")]
    shown = [
        f"**{verdict['headline']}**",
        sentences,
        table(("parts and search", *(one.replace("_", ", ") for one in columns)), parts),
        table(("modality gap", "distance of the means", "linear separability"), gap),
        table(("caption against", "cosine before, median", "after"), medians),
        f"{found['scenes']:,} scenes of {found['combinations']:,} combinations, seed {found['seed']}, "
        f"labclip {found['version']}.",
    ]
    return "\n\n".join(shown)


def libraries():
    """The table of docs/libraries.py, with what `benchmarks/in_libraries.py` wrote of each."""
    measured, rows = read("benchmarks/in_libraries.json"), []
    for library in _libraries():
        anchor = re.sub(r"[^a-z0-9_ -]", "", library.title.lower()).replace(" ", "-")
        found = [row for row in measured if row["title"] == library.title]
        for row in found:
            figures = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("base", "aligned")]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            runner = "tests" if library.installed else "script" if any([*figures, ratio]) else "hand"
            package = f"{row['package']} {row['version']}"
            rows.append([f"[{library.title}](#{anchor})", package, *figures, ratio, runner])
    return table(("library", "tried with", "base", "aligned", "time", "run by"), rows)


def sections():
    """A section for each library: its words, and the lines to type."""
    return "\n\n".join(
        f"## {library.title}\n\n{library.words}\n\n<!-- library -->\n```python\n{library.code}\n```"
        for library in _libraries()
    )


def _libraries():
    return runpy.run_path(str(DOCS / "libraries.py"))["LIBRARIES"]


CONTROLS = ("_blind", "_grounded")
PERMUTED = {"swapped": "attributes swapped", "shuffled": "words shuffled"}

PARTS = {
    "diagnosis": diagnosed,
    "help": help_text,
    "libraries": libraries,
    "sections": sections,
    "benchmarks": benchmarks,
    "schema": schema,
    "finding": finding,
    "costs": costs,
    "scored": scored,
    "ratios": ratios,
    "recipes": recipes,
    "divergence": divergence,
    "amount": amount,
    "seeds": seeds,
    "allowance": allowance,
    "grounded": grounded,
    "kinds": kinds,
    "rules": rules,
    "strengths": strengths,
    "fitting": lambda: ratios("fit.json"),
    "finetuned": finetuned,
    "shuffling": shuffling,
    "embedding": embedding,
    "serving": serving,
    "evaluating": lambda: ratios("evaluation.json"),
    "scaled": scaled,
    "embedded": embedded,
    "transforming": lambda: ratios("transform.json"),
    "results": results,
    "published": published,
}


def fresh(text):
    """A page with its generated parts as they should be."""
    return re.sub(
        rf"<!-- ({'|'.join(PARTS)}) -->\n.*?<!-- /\1 -->",
        lambda found: f"<!-- {found[1]} -->\n\n{PARTS[found[1]]()}\n\n<!-- /{found[1]} -->",
        text,
        flags=re.DOTALL,
    )


def pages():
    """Every page with generated parts, as it should be."""
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")))}
    return {path: fresh(text) for path, text in texts.items() if re.search(r"<!-- /\w+ -->", text)}


def main():
    """Write the pages, or check them."""
    for path, text in pages().items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is stale. Type: python docs/reference.py")


if __name__ == "__main__":
    main()
