import csv
import json
from functools import partial

import commands
import pytest

import labclip

QUICK = ("--model", "scenes", "--option", "n=100")


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten own images and their csv; one caption tries to be markup."""
    root = tmp_path_factory.mktemp("ten")
    labclip.scenes.sample(10, seed=31).save(root).rename(root / "own.csv")
    return root


run = partial(commands.run, "evaluate")


def test_json_is_one_object_of_benchmarks_models_and_metrics():
    report = json.loads(run("scenes", *QUICK, "--strength", 0, "--strength", 1, "--json").stdout)
    assert list(report) == ["benchmarks", "measured"]
    assert list(report["benchmarks"]) == ["scenes"]
    models = report["benchmarks"]["scenes"]["models"]
    assert list(models) == report["measured"]["models"] == ["base", "labclip@0", "labclip@1"]
    assert models["labclip@0"] == models["base"]
    assert models["labclip@1"]["binding"] > models["base"]["binding"] + 0.2
    assert set(models["base"]) >= {"binding", "t2i_r1", "i2t_r1"}
    assert labclip.evaluation.Report.from_json(report).to_json() == report


def test_ten_own_images_and_every_kind_of_output(ten, tmp_path):
    files = {flag: tmp_path / f"report.{ending}" for flag, ending in
             (("--markdown", "md"), ("--latex", "tex"), ("--out", "html"))}  # fmt: skip
    flags = [part for pair in files.items() for part in pair]
    stdout = run("csv", "--model", "scenes", "--data", ten / "own.csv", *flags).stdout
    assert "a tie is wrong" in stdout
    assert "| binding |" in files["--markdown"].read_text()
    assert r"\begin{tabular}" in files["--latex"].read_text()
    page = files["--out"].read_text()
    assert "<script" not in page
    assert "binding" in page
    assert "Pass --data FILE" in commands.fails("evaluate", "csv", "--model", "scenes")
    assert "--option is 'n'. Type KEY=VALUE" in commands.fails("evaluate", "scenes", *QUICK[:3], "n")


def test_items_are_a_csv_file_with_every_models_answer(ten, tmp_path):
    path = tmp_path / "items.csv"
    stdout = run("csv", "--model", "scenes", "--data", ten / "own.csv", "--items", path, "--json").stdout
    values = json.loads(stdout)["benchmarks"]["csv"]["models"]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    binding = [row for row in rows if row["metrics"] == "binding"]
    with (ten / "own.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["caption"], row["caption_2"]) for row in binding] == [(r["caption"], r["negative"]) for r in written]
    assert [row["image"] for row in binding] == [str(ten / row["image"]) for row in written]
    assert binding[3]["location"] == "own.csv line 5"
    for model in ("base", "labclip"):
        right = [int(row[f"{model} right"]) for row in binding]
        assert sum(right) / len(right) == pytest.approx(values[model]["binding"])
        assert all((float(row[f"{model} margin"]) > 0) == (row[f"{model} right"] == "1") for row in binding)


def test_the_list_names_every_benchmark_with_its_files_and_options():
    stdout = run("--list").stdout
    facts = {benchmark["name"]: benchmark for benchmark in json.loads(run("--list", "--json").stdout)}
    assert set(facts) == set(labclip.evaluation.BENCHMARKS)
    assert facts["scenes"]["options"] == {"n": 1000, "seed": 0}
    assert all(f"{name}:" in stdout for name in facts)


@pytest.mark.parametrize("flag", ["--items", "--markdown"])
def test_no_file_is_overwritten_unless_asked(ten, tmp_path, flag):
    asked = ("csv", "--model", "scenes", "--data", ten / "own.csv", flag)
    (kept := tmp_path / "kept.html").write_text("mine")
    assert "kept.html exists already. Pass --force" in run(*asked, kept, code=2).stderr
    assert kept.read_text() == "mine"
    run(*asked, kept, "--force")
    assert kept.read_text() != "mine"


def test_several_models_are_one_table_for_a_paper(ten, tmp_path):
    table = tmp_path / "table.tex"
    models = ("--model", "scenes", "--model", "scenes", "--option", "scenes:n=100", "--data", f"csv={ten / 'own.csv'}")
    done = run("scenes", "csv", *models, "--images", ten, "--latex", table, "--percent", "--json")
    reports = json.loads(done.stdout)["reports"]
    assert [report["measured"]["models"] for report in reports] == [["base", "labclip"]] * 2
    assert reports[0]["benchmarks"] == reports[1]["benchmarks"]
    rows = [line for line in table.read_text().splitlines() if line.startswith("scenes (embedded) & ")]
    value = reports[0]["benchmarks"]["scenes"]["models"]["base"]["binding"]
    assert len(rows) == 2
    assert rows[0].split(" & ")[1] == f"{100 * value:.1f}"
