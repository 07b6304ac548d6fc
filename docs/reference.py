"""Writes the generated parts of README and docs from the command's own help and from files of measurements.

    python docs/reference.py [--check]

Parts stand between `<!-- NAME -->` and `<!-- /NAME -->`. With --check, fails where one is stale.
"""

import inspect
import json
import re
import sys
from pathlib import Path

from click.testing import CliRunner

from labclip.cli import main as command
from labclip.evaluation import BENCHMARKS, Report
from labclip.evaluation.summary import UNMEASURABLE
from labclip.io.card import results_table
from labclip.io.published import PUBLISHED
from labclip.io.reported import REPORTED
from labclip.report import Table, markdown_table

DOCS = Path(__file__).parent
ROOT = DOCS.parent


def help_text():
    """The help of the command and of each of its commands."""
    parts = []
    for name in ("", *command.list_commands(None)):
        # What a terminal of 100 columns shows: two of them stay free.
        shown = CliRunner().invoke(command, [*name.split(), "--help"], prog_name="labclip", terminal_width=98).stdout
        parts.append(f"{f'## labclip {name}' if name else ''}\n\n```text\n{shown}```".lstrip())
    return "\n\n".join(parts)


def measured():
    """The embedded model's table, from the file that `make weights` writes beside it; all of it is in its card."""
    config = json.loads((ROOT / "weights" / "scenes" / "config.json").read_text(encoding="utf-8"))
    rows = config["metadata"]["results"]["scenes"]
    shown = {side: {key: values[key] for key in SHOWN} for side, values in rows.items()}
    return results_table({"scenes": shown})


def scored():
    """The short table of `labclip evaluate scenes`, from the file that `make results` writes."""
    result = Report.from_json(ROOT / "benchmarks" / "results" / "scenes.json")["scenes"]
    rows = []
    for name in ("binding", "binding_heldout", "t2i_r1", "i2t_r1", "tags_t2i_r1", "tags_i2t_r1", "one_object_acc1"):
        found = result.metric(name)
        base, ours = (f"{estimate.value:.3f}" for estimate in found.estimates)
        moved = found.differences[0]
        said = f"{moved.value:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]" if moved.measurable else UNMEASURABLE
        rows.append([name, base, ours, said])
    return markdown_table(Table("", ["metric", "base", "LABCLIP", "difference, 95% interval"], rows))


def ratios(file="ratios.json"):
    """A table of `make bench`, from the file it writes."""
    rows = ["| what | against | ratio | aim | seconds |", "|---|---|---|---|---|"]
    for row in json.loads((ROOT / "benchmarks" / file).read_text(encoding="utf-8")):
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3f}"
        unit = " s" if row["against"].startswith("seconds") else ""
        cells = (row["what"], row["against"], f"{row['ratio']:.2f}{unit}", f"{row['aim']:.2f}{unit}", seconds)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


# Gains and every cost; what is left out is a variant of a row that stays.
SHOWN = (
    "binding_seen",
    "binding_heldout",
    "sentences_t2i_r1",
    "sentences_i2t_r1",
    "tags_t2i_r1",
    "tags_i2t_r1",
    "single_object",
    "modality_gap",
)


def recipes():
    """The tables of `benchmarks/recipes.py`, from the file it writes."""
    found = json.loads((ROOT / "benchmarks" / "recipes.json").read_text(encoding="utf-8"))
    parts = []
    for world, table in found["worlds"].items():
        columns = [key for key in next(iter(table.values())) if key != "seconds"]
        lines = [f"`{world}`, {found['count']:,} scenes, seeds {', '.join(map(str, found['seeds']))}:", ""]
        lines += [f"|  | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, row in table.items():
            cells = [f"{row[key]:.2f}" if key in ("strength", "||A - I||") else f"{row[key]:.3f}" for key in columns]
            lines.append(f"| {name} | {' | '.join(cells)} |".rstrip())
        parts.append("\n".join(lines).replace("||A - I||", "distance from I"))
    return "\n\n".join(parts)


def fitting():
    """The table of `benchmarks/fit.py`, from the file it writes."""
    return ratios("fit.json")


def shuffling():
    """What `benchmarks/negatives.py` wrote."""
    rows = ["| what | captions/s | aim | have none |", "|---|---|---|---|"]
    for row in json.loads((ROOT / "benchmarks" / "negatives.json").read_text(encoding="utf-8")):
        aim = "" if row["aim"] is None else f"{row['aim']:,}"
        rows.append(f"| {row['what']} | {row['rate']:,.0f} | {aim} | {row['without']:,} of {row['captions']:,} |")
    return "\n".join(rows)


def embedding():
    """What `benchmarks/features.py` wrote."""
    rows = ["| what | ratio | aim |", "|---|---|---|"]
    for row in json.loads((ROOT / "benchmarks" / "features.json").read_text(encoding="utf-8")):
        rows.append(f"| {row['what']} | {row['ratio']:.2f} | {row['aim']} |")
    return "\n".join(rows)


def finetuned():
    """The table of `benchmarks/finetune.py`, from the file it writes."""
    table = json.loads((ROOT / "benchmarks" / "finetune.json").read_text(encoding="utf-8"))
    lines = [f"|  | {' | '.join(table)} |", "|---" * (len(table) + 1) + "|"]
    for key in next(iter(table.values())):
        digits = 0 if key == "seconds" else 3
        lines.append(f"| {key} | {' | '.join(f'{row[key]:.{digits}f}' for row in table.values())} |")
    return "\n".join(lines)


def results():
    """The reports that `benchmarks/results.py` keeps, one below the other."""
    return "\n".join(report.to_markdown(level=2) for report in _kept()).rstrip()


def published():
    """What others published for the method, each beside what labclip measured of it, or what to type."""
    rows, commands = [], {}
    for one in REPORTED:
        others = ", ".join(
            f"{name} {_decimals(value)}" for name, value in one.values.items() if name not in ("base", "labclip")
        )
        title = BENCHMARKS[one.benchmark].title if one.benchmark in BENCHMARKS else "Linear probes, CLEVR"
        measured = next(filter(None, (_measured(report, one) for report in _kept())), None)
        if measured is None:
            commands.setdefault(one.command, title)
        values = [_decimals(one.values[side]) if side in one.values else "" for side in ("base", "labclip")]
        rows.append([title, one.metric, one.clip or "not said", *values, others, measured or "not measured here"])
    columns = ["benchmark", "metric", "CLIP", "base", "LABCLIP", "others", "by labclip"]
    table = markdown_table(Table("", columns, rows, words=(0, 1, 2, 5, 6)))
    width = max(map(len, commands))
    lines = [f"{command:{width}}  # {title}" for command, title in commands.items()]
    return "\n".join([table, "", "What measures each that was not measured here:", "", "```bash", *lines, "```"])


def _kept():
    return [Report.from_json(path) for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))]


def _decimals(value):
    """A published figure with the decimals it was published with: two, or three where it has them."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:.3f}"


def _measured(report, one):
    """Base and LABCLIP where a kept report has the very figure, else None."""
    entry = next((entry for entry in PUBLISHED if (entry.name, entry.alignment) == one.matrix), None)
    matrices = [alignment["matrix_sha256"] for alignment in report.alignments]
    asked = [result.benchmark.name for result in report.results]
    if entry is None or matrices != [entry.matrix_sha256] or one.benchmark not in asked:
        return None
    estimates = report[one.benchmark].metric(one.measured_as or one.metric).estimates
    return ", ".join(f"{estimate.value:.3f}" for estimate in estimates)


def benchmarks():
    """The table of benchmarks: what each wants and measures, from the table that `labclip evaluate` uses."""
    lines = ["| name | wants | from | licence | metrics, the first lines of its reader | options |", "|---" * 6 + "|"]
    for one in BENCHMARKS.values():
        said = " ".join(inspect.getdoc(one.read).partition("\n\n")[0].split())
        options = ", ".join(f"`{name}={default}`" for name, default in one.options.items())
        cells = (f"`{one.name}`<br>{one.title}, {one.paper}", one.wants, one.source, one.licence, said, options)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def diagnosed():
    """The verdict and the tables of `docs/diagnosis.json`, which `labclip diagnose --model scenes --json` prints."""
    found = json.loads((DOCS / "diagnosis.json").read_text(encoding="utf-8"))
    lines = [f"**{found['verdict']['headline']}**", ""]
    lines += [f"- {sentence}" for sentence in (*found["verdict"]["reasons"], *found["verdict"]["repair"])]
    gap = found["gap"]
    lines += ["", "| modality gap | distance of the means | told apart by a plane |", "|---|---|---|"]
    lines += [f"| {when} | {one['distance']:.3f} | {one['separability']:.3f} |" for when, one in gap.items()]
    lines += ["", "| caption against | cosine before, median | after |", "|---|---|---|"]
    for kind, part in found["permutations"].items():
        medians = [f"{part[when]['quantiles']['0.5']:.3f}" for when in ("before", "after")]
        lines.append(f"| {PERMUTED[kind]} | {' | '.join(medians)} |")
    lines += ["", "| held-out scenes as sums of objects | R² | R² of a bag | contents found | twins told apart |"]
    lines.append("|---" * 5 + "|")
    for side, one in found["decomposition"].items():
        cells = [f"{one[key]:.3f}" for key in ("r2", "bag_r2", "retrieval", "exchanged")]
        lines.append(f"| {side} | {' | '.join(cells)} |")
    lines += ["", "| unseen objects from concepts | learnt from | objects named | twins told apart | twins |"]
    lines.append("|---" * 5 + "|")
    for side, part in found["complexity"].items():
        for one in part:
            cells = [f"{one[key]:.3f}" for key in ("accuracy", "binding")]
            name = f"{side}, {one['predictor']}"
            lines.append(f"| {name} | {one['fraction']:g} | {' | '.join(cells)} | {one['twins']:,} |")
    count, combinations = found["scenes"], found["combinations"]
    lines += [
        "",
        f"{count:,} scenes of {combinations:,} combinations, seed {found['seed']}, labclip {found['version']}.",
    ]
    return "\n".join(lines)


PERMUTED = {"exchanged": "attributes exchanged", "shuffled": "words shuffled"}

PARTS = {
    "diagnosis": diagnosed,
    "help": help_text,
    "benchmarks": benchmarks,
    "measured": measured,
    "scored": scored,
    "ratios": ratios,
    "recipes": recipes,
    "fitting": fitting,
    "finetuned": finetuned,
    "shuffling": shuffling,
    "embedding": embedding,
    "evaluating": lambda: ratios("evaluation.json"),
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
