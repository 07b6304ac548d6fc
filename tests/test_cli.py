"""The command, as a person types it: results on stdout, no torch for help, messages that name options."""

import csv
import json
import re
from functools import partial

import models
import pytest
import torch
from commands import fails, run

import labclip
from labclip import LABCLIP, Alignment, Base, cli, scenes
from labclip.cli.options import with_options
from labclip.io.published import REPORTED


@pytest.fixture
def folder(tmp_path):
    model = LABCLIP(models.make("clip"), Alignment(models.matrix()), tokenizer=models.tokenizer())
    model.save_pretrained(tmp_path / "model", config=models.CONFIGS["clip"])
    return tmp_path / "model"


def test_list_names_every_matrix_and_info_of_a_published_one_is_one_screen():
    text, rows = run("list").stdout, json.loads(run("list", "--json").stdout)
    assert [row["name"] for row in rows] == ["scenes", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-B-32-cc3m"]
    for row in rows:
        assert f"{row['name']} " in text
    text = run("info", "ViT-B-32").stdout
    assert len(text.splitlines()) <= 50
    for sentence in (
        "One 512 x 512 matrix on the text embeddings of ViT-B-32-quickgelu (openai)",
        "Published, not measured by labclip",
        "Negation is not helped: 0.393 -> 0.345",
        "Measure it: labclip evaluate sugarcrepe coco zero-shot --model ViT-B-32\n",
        "which has no licence",
    ):
        assert " ".join(sentence.split()) in " ".join(text.split())
    facts = json.loads(run("info", "ViT-B-32", "--json").stdout)
    assert facts["matrix_sha256"].startswith("8cc53c13")
    figures = [figure for figure in REPORTED if figure.matrix == ["ViT-B-32", "coco"]]
    assert len(figures) == len(facts["gains"]) > 0 == len(facts["losses"])
    for row in figures:
        assert re.search(rf"{re.escape(row.words)} +{row.values['base']:.2f} +{row.values['labclip']:.2f} +[+-]", text)


BASE = Base("ViT-B-32", "openai", quick_gelu=True, embed_dim=models.DIM)


def info_of(folder, with_base=BASE, **metadata):
    Alignment(models.matrix(), base=with_base, metadata=metadata).save_pretrained(folder)
    return run("info", folder).stdout, json.loads(run("info", folder, "--json").stdout)


def test_info_of_a_folder_says_what_is_recorded_and_what_to_type(tmp_path):
    base = {"binding": 0.5, "t2i_r1": 0.4, "i2t_r1": 0.4, "modality_gap": 0.1, "verdict": "none", "binding_blind": 0.5}
    ours = {"binding": 0.4, "t2i_r1": 0.404, "i2t_r1": 0.5, "modality_gap": 0.2, "verdict": "all", "binding_blind": 0.1}
    pairs = {"matched": [0.1, 0.2, 0.3], "unmatched": [0.0, 0.1, 0.2]}
    cosines = {"strength": 0.5, "base": pairs, "labclip": pairs}
    results = {"validation": {"base": base, "labclip": ours}}
    text, facts = info_of(tmp_path, recipe="by hand", results=results, cosines=cosines)
    assert re.search(r"right +LABCLIP, strength 0.5 +0.100  0.200  0.300\n", text)
    assert facts["cosines"] == cosines
    assert "- Recipe: by hand\n" in text
    assert re.search(r"validation +binding +0.500    0.400 +-0.100\n", text)
    assert "a little too good" in text
    assert [row["metric"] for row in facts["gains"]] == ["i2t_r1"]
    assert [row["metric"] for row in facts["losses"]] == ["binding", "modality_gap"]
    assert f" {facts['measure']}\n" in text
    assert f" LABCLIP.from_pretrained('{tmp_path}')\n" in text
    keys = ("name", "base", "dim", "matrix_sha256", "strength", "seed", "gains")  # what the metadata says is not shown
    text, facts = info_of(tmp_path, None, **dict(zip(keys, range(1, 8), strict=True)))
    assert "Nothing was measured yet." in text
    assert f"LABCLIP(clip, Alignment.from_pretrained('{tmp_path}'))" in text
    assert (facts["name"], facts["base"], facts["seed"], facts["gains"]) == (str(tmp_path), None, 6, [])


def test_convert_makes_a_folder_that_loads(tmp_path):
    checkpoint, out = tmp_path / "matrix.pt", tmp_path / "out"
    torch.save({"linear.weight": models.matrix(), "t": torch.tensor(3.0)}, checkpoint)
    assert "The matrix is 16 x 16 but" in fails("convert", checkpoint, out, "--base", "ViT-B-32:openai")
    assert not out.exists()
    assert "Warning: the base is not recorded" in run("convert", checkpoint, out).stderr
    assert torch.equal(Alignment.from_pretrained(out).matrix, models.matrix())


def test_a_sample_is_what_other_commands_read(tmp_path):
    out = tmp_path / "data"
    lines = run("sample", out, "--n", 30, "--seed", 2).stdout.splitlines()
    rows = csv.DictReader((out / "captions.csv").read_text().splitlines())
    assert [row["caption"] for row in rows] == scenes.sample(30, seed=2).captions
    for line in lines[1:]:
        typed = line.replace("features", f"{tmp_path}/f").replace("my-al", f"{tmp_path}/a")
        program, command, *arguments = typed.split()
        assert program == "labclip"
        more = {"fit": ["--epochs", 1, "--anyway"], "evaluate": ["--no-cache"]}.get(command, [])
        run(command, *arguments, *more)


def test_push_uploads_what_can_be_loaded_again(hub, folder):
    result = run("push", folder, "org/pushed")
    assert result.stdout.startswith(f"{hub.url}/org/pushed/commit/")
    assert Alignment.from_pretrained("org/pushed").dim == models.DIM
    (folder / "config.json").write_text("{}")
    assert "is not the config of an alignment" in fails("push", folder, "org/other")
    assert "org/other" not in hub.repos


MESSAGES = [
    ("fit", "Name another, or pass force=True to overwrite it.", "Name another, or pass --force to overwrite it."),
    ("fit", "keep is 2. Pass less, for example keep=0.97.", "--keep is 2. Pass less, for example --keep 0.97."),
    ("fit", "Lower `learning_rate`, now 5.", "Lower --learning-rate, now 5."),
    ("embed", "Pass clean=True to clean both, or clean=False.", "Pass --clean to clean both, or --as-is."),
    ("evaluate", "Pass alignments=A, or a model that has one.", "Pass --alignment A, or a model that has one."),
    ("evaluate", "Pass options={'column': NAME}, one of a, b.", "Pass --option column=NAME, one of a, b."),
    ("diagnose", "Delete that file, or pass cache=None.", "Delete that file, or pass --no-cache."),
    ("fit", "use labclip.training.split_combinations.", "use --split combinations."),
    ("fit", "Make it again: labclip.embed(..., force=True).", "Make it again: labclip embed --force."),
    ("transform", "type the same call again", "type the same command again"),
    # What is no parameter of the command, a path, or a command that is typed already stays.
    ("demo", "Pass force=True.", "Pass force=True."),
    ("embed", "split=train/a.csv and split=b.csv hold nothing", "split=train/a.csv and split=b.csv hold nothing"),
]


@pytest.mark.parametrize(("command", "message", "typed"), MESSAGES)
def test_a_command_names_its_options_for_the_parameters_of_python(command, message, typed):
    assert with_options(message, command, cli.main.commands) == typed


# evaluate


QUICK = ("--model", "scenes", "--option", "n=100")
evaluate = partial(run, "evaluate")


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten own images and their csv."""
    root = tmp_path_factory.mktemp("ten")
    scenes.sample(10, seed=31).save(root).rename(root / "own.csv")
    return root


def test_json_is_one_object_of_benchmarks_models_and_metrics():
    report = json.loads(evaluate("scenes", *QUICK, "--strength", 0, "--strength", 1, "--json").stdout)
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
    stdout = evaluate("csv", "--model", "scenes", "--data", ten / "own.csv", *flags).stdout
    assert "a tie is wrong" in stdout
    assert "| binding |" in files["--markdown"].read_text()
    assert r"\begin{tabular}" in files["--latex"].read_text()
    page = files["--out"].read_text()
    assert "<script" not in page
    assert "binding" in page
    assert "Pass --data FILE" in fails("evaluate", "csv", "--model", "scenes")
    assert "--option is 'n'. Type KEY=VALUE" in fails("evaluate", "scenes", *QUICK[:3], "n")


def test_items_are_a_csv_file_with_every_models_answer(ten, tmp_path):
    path = tmp_path / "items.csv"
    stdout = evaluate("csv", "--model", "scenes", "--data", ten / "own.csv", "--items", path, "--json").stdout
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
    stdout = evaluate("--list").stdout
    facts = {benchmark["name"]: benchmark for benchmark in json.loads(evaluate("--list", "--json").stdout)}
    assert set(facts) == set(labclip.evaluation.BENCHMARKS)
    assert facts["scenes"]["options"] == {"n": 1000, "seed": 0}
    assert all(f"{name}:" in stdout for name in facts)


@pytest.mark.parametrize("flag", ["--items", "--markdown"])
def test_no_file_is_overwritten_unless_asked(ten, tmp_path, flag):
    asked = ("csv", "--model", "scenes", "--data", ten / "own.csv", flag)
    (kept := tmp_path / "kept.html").write_text("mine")
    assert "kept.html already exists. Pass --force" in evaluate(*asked, kept, code=2).stderr
    assert kept.read_text() == "mine"
    evaluate(*asked, kept, "--force")
    assert kept.read_text() != "mine"


def test_several_models_are_one_table_for_a_paper(ten, tmp_path):
    table = tmp_path / "table.tex"
    models = ("--model", "scenes", "--model", "scenes", "--option", "scenes:n=100", "--data", f"csv={ten / 'own.csv'}")
    done = evaluate("scenes", "csv", *models, "--images", ten, "--latex", table, "--percent", "--json")
    reports = json.loads(done.stdout)["reports"]
    assert [report["measured"]["models"] for report in reports] == [["base", "labclip"]] * 2
    assert reports[0]["benchmarks"] == reports[1]["benchmarks"]
    rows = [line for line in table.read_text().splitlines() if line.startswith("scenes (embedded) & ")]
    value = reports[0]["benchmarks"]["scenes"]["models"]["base"]["binding"]
    assert len(rows) == 2
    assert rows[0].split(" & ")[1] == f"{100 * value:.1f}"
