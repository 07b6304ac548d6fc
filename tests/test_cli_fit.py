import json
import os
import re
import subprocess
import sys

import pytest
from commands import fails, run
from folders import contents

import labclip
from labclip.features import embedding
from labclip.negatives import taggers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, a table of captions with negatives, and their features."""
    root = tmp_path_factory.mktemp("own")
    labclip.scenes.sample(400, seed=21).save(root)
    run("embed", "--model", "scenes", "--captions", root / "captions.csv", root / "features")
    return root


QUICK = ("--epochs", 30, "--batch-size", 64)


def test_a_fit_from_images_to_a_model(folder, tmp_path):
    pytest.importorskip("matplotlib")
    files = ("--plot", tmp_path / "fit.png", "--html", tmp_path / "fit.html")
    done = run("fit", folder / "features", tmp_path / "a", *QUICK, "--anyway", *files)
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    assert "What it gains and costs" in (tmp_path / "fit.html").read_text()
    assert re.search(r"validation +binding +0\.\d{3} +[01]\.\d{3} +[+-]0\.\d{3}\n", done.stdout)
    assert "Settings: recipe labclip," in done.stdout
    assert "LABCLIP" in done.stdout
    alignment = labclip.Alignment.from_pretrained(tmp_path / "a")
    assert alignment.base == labclip.Alignment.from_pretrained("scenes").base
    assert alignment.fingerprint is not None
    model = labclip.LABCLIP.from_pretrained(str(tmp_path / "a"))
    assert model.alignment.strength == alignment.strength
    assert "validation" in (tmp_path / "a" / "README.md").read_text()
    info = run("info", tmp_path / "a").stdout
    assert "Recipe: labclip" in info


def test_retained_sets_have_names(folder, tmp_path):
    features = folder / "features"
    out, named = tmp_path / "a", ("--retain", f"other={features}")
    done = run("fit", features, out, *QUICK, "--retain", features, *named, "--anyway", "--json")
    result = json.loads(done.stdout)
    assert set(result["results"]) == {"validation", "retain features", "retain other"}
    assert (result["written"], result["frontier"][0]["strength"], result["settings"]["epochs"]) == (str(out), 0, 30)


SPLIT = ("--split", "combinations")
WORDS = ("--attributes", ",".join(labclip.scenes.COLOURS), "--objects", ",".join(labclip.scenes.SHAPES))


def test_combinations_are_held_out_of_captions_and_negatives(folder, tmp_path):
    done = run("fit", folder / "features", tmp_path / "a", *QUICK, *SPLIT, *WORDS, "--anyway", "--json")
    result = json.loads(done.stdout)
    fitted, held = (int(re.match("[0-9]+", result[side])[0]) for side in ("data", "held_out"))
    assert 0 < held < fitted
    assert fitted + held == 400  # a negative has the words of its caption, so no row is on neither side
    assert result["held_out"].endswith("none of them negatives of the fit")
    other = run("fit", folder / "features", tmp_path / "b", *QUICK, *SPLIT, *WORDS, "--anyway", "--json", "--seed", 1)
    assert json.loads(other.stdout)["held_out"] != result["held_out"]


def test_a_split_that_can_not_be_made_is_refused(folder, tmp_path):
    words = (*SPLIT, "--attributes", "furry,bald", *WORDS[2:])
    message = fails("fit", folder / "features", tmp_path / "a", *words)
    assert "No caption has one of --attributes furry,bald and" in message
    assert not (tmp_path / "a").exists()


def test_a_fit_that_was_not_worth_it_writes_nothing_or_anyway_a_matrix_that_carries_the_verdict(folder, tmp_path):
    fit = ("fit", folder / "features", tmp_path / "a", "--epochs", 1, "--learning-rate", 1e-6)
    done = run(*fit, code=1)
    assert "not measurably better" in done.stdout or "Keep the base" in done.stdout
    assert "No matrix was written. Pass --anyway" in done.stderr
    assert not (tmp_path / "a").exists()
    run(*fit, "--anyway")
    words = (
        r"Of 40 held-out captions, \d+ became right and \d+ wrong \(p = [\d.]+\) at strength [\d.]+: not worth using"
    )
    for text in (run("info", tmp_path / "a").stdout, (tmp_path / "a" / "README.md").read_text()):
        assert re.search(words, " ".join(text.split()))
    info = json.loads(run("info", tmp_path / "a", "--json").stdout)
    assert info["worthwhile"] is False
    assert info["change"]["captions"] == 40


MODEL = ("--model", "scenes", "--epochs", 5, "--anyway")


def test_a_captions_file_is_embedded_once_and_fitted(folder, tmp_path, monkeypatch):
    pytest.importorskip("HanTa")
    captions, out, features = folder / "captions.csv", tmp_path / "a", tmp_path / "a-features"
    done = run("fit", captions, out, *MODEL, "--json")
    assert json.loads(done.stdout)["features"] == str(features)
    for sentence in (
        "Parts and keywords are made of captions that have none .--no-parts leaves them out.",
        f"The features are kept in {features}. .* labclip fit {features} OUT",
        r"400 images, 400 captions, 400 of them with negatives, \d+ parts, 400 lists of keywords",
    ):
        assert re.search(sentence, done.stderr), sentence
    run("embed", "--model", "scenes", "--captions", captions, "--parts", tmp_path / "parts")
    run("fit", tmp_path / "parts", tmp_path / "b", *MODEL[2:])
    for name in ("a-features/manifest.json", "parts/manifest.json"):
        assert json.loads((tmp_path / name).read_text())["counts"]["keywords"] == 400
    matrix, other = (labclip.Alignment.from_pretrained(tmp_path / name).matrix for name in ("a", "b"))
    assert matrix.equal(other)

    monkeypatch.setattr(embedding, "Corpus", None)  # nothing is read or embedded again
    assert "is not empty. Pass --force" in fails("fit", captions, out, *MODEL)
    run("fit", captions, out, *MODEL, "--force", "--seed", 1)
    assert not matrix.equal(labclip.Alignment.from_pretrained(out).matrix)
    # Of something else it says how to embed again.
    (folder / "fewer.csv").write_text("\n".join(captions.read_text().splitlines()[:300]))
    for file, options, differs in (
        ("fewer.csv", (), "has features of other captions"),
        ("captions.csv", ("--no-parts",), "their parts is"),
    ):
        stderr = run("fit", folder / file, out, *MODEL, "--force", *options, code=2).stderr
        typed = f"labclip embed --model scenes --captions {folder / file} {features}{'' if options else ' --parts'}"
        for part in (differs, "or --force", f"{typed} OPTIONS, then: labclip fit {features} {out}"):
            assert part in stderr


def test_a_killed_run_goes_on_to_the_same_matrix(folder, tmp_path, monkeypatch):
    kill = (
        "import os; from labclip.features import embedding, folder\n"
        "folder.KEEP_SECONDS = 0; embedding.write_rest = lambda *_, **__: os.kill(os.getpid(), 9)\n"
    )

    def in_child(before, *typed):  # both of them: another number of threads may round otherwise
        code = f"{before}from labclip.cli import main; main()"
        return subprocess.run([sys.executable, "-c", code, *map(str, typed)], capture_output=True, text=True)

    typed = ["fit", folder / "captions.csv", tmp_path / "a", *MODEL, "--no-parts"]
    killed = in_child(kill, *typed)
    assert killed.returncode == -9, killed.stderr
    assert os.listdir(tmp_path) == ["a-features"]
    message = fails("fit", tmp_path / "a-features", tmp_path / "b")
    assert "a-features is not finished" in message
    whole = in_child("", "embed", *MODEL[:2], "--captions", folder / "captions.csv", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    monkeypatch.setattr(labclip.LABCLIP, "encode_image", None)  # no image is encoded again
    run(*typed)
    run("fit", tmp_path / "whole", tmp_path / "b", *MODEL[2:])
    files, others = (contents(tmp_path / name) for name in ("a-features", "whole"))
    files.pop("manifest.json")  # whose fingerprint is of the process that finished it
    assert files == {name: others[name] for name in files}
    matrix, other = (labclip.Alignment.from_pretrained(tmp_path / name).matrix for name in ("a", "b"))
    assert matrix.equal(other)


def test_what_a_captions_file_lacks_is_said_before_a_model_is_loaded(folder, tmp_path, monkeypatch):
    pytest.importorskip("HanTa")
    rows = [line.split(",") for line in (folder / "captions.csv").read_text().splitlines()]
    for name, captions in {
        "plain.csv": [caption for _, caption, _ in rows[1:]],
        "german.csv": ["ein roter Ball neben einem blauen Haus"] * 400,
    }.items():
        lines = [f"{row[0]},{caption}" for row, caption in zip(rows[1:], captions, strict=True)]
        (folder / name).write_text("\n".join(["image,caption", *lines]))
    make = "To make some: labclip negatives"
    for table, options, code, *messages in (
        ("plain.csv", ("--no-parts",), 2, "plain.csv has no negatives and no parts, so a fit has nothing", make),
        ("plain.csv", ("--recipe", "papr"), 2, "no recipe 'papr'"),
        ("plain.csv", ("--recipe", "paper"), 2, "no negatives and no parts", make),
        ("german.csv", (), 2, "No parts and keywords are made: 0 of the first 200 rows", "need English", make),
        ("plain.csv", ("--column", "text"), 2, "No such option '--column'"),
        ("0.png", (), 2, ".txt, .tar. Rename or convert it.\n"),
        ("features/captions.jsonl", (), 2, "Pass --image-column NAME", "other options, type: labclip embed --model"),
        ("plain.csv", ("--device", "gpu"), 2, "--device 'gpu' can't be used"),
        ("plain.csv", (), 0, "has no negatives in its first 200 rows", make, "400 captions, 0 of them with negatives"),
    ):
        done = run("fit", folder / table, tmp_path / "a", *MODEL, *options, code=code)
        for part in messages:
            assert part in done.stderr, (table, options)
        assert (tmp_path / "a").exists() == (code == 0)
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    taggers._hanta.cache_clear()
    done = run("fit", folder / "captions.csv", tmp_path / "b", *MODEL)
    assert "No parts and keywords are made: To find nouns and adjectives, labclip needs HanTa. Type:" in done.stderr
    assert not (tmp_path / "b-features" / "kind.npy").exists()


def test_validation_of_another_base_is_refused_before_anything_is_embedded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "Corpus", None)
    other = labclip.Features.load(folder / "features")
    labclip.Features.from_arrays(images=other.images[:, :16], texts=other.texts[:, :16]).save(tmp_path / "other")
    for option in ("--validation", "--retain"):
        line = run("fit", folder / "captions.csv", tmp_path / "a", *MODEL, option, tmp_path / "other", code=2).stderr
        assert f"The features of {tmp_path / 'other'} were embedded by a base without a name, but the model is" in line
