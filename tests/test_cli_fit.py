import json
import re

import pytest
from commands import fails, run

import labclip


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
    found = json.loads(done.stdout)
    assert set(found["results"]) == {"validation", "retain features", "retain other"}
    assert (found["written"], found["frontier"][0]["strength"], found["settings"]["epochs"]) == (str(out), 0, 30)
    for wrong, message in (
        (("--retain", features, "--retain", f"features={features}"), "Each --retain needs a name of its own"),
        (("--retain", f"={features}"), "Write --retain NAME=FEATURES"),
        (("--retain", tmp_path / "nothing"), "There is no folder"),
    ):
        assert message in run("fit", features, tmp_path / "b", *wrong, code=2).stderr


SPLIT = ("--split", "combinations")
WORDS = ("--attributes", ",".join(labclip.scenes.COLOURS), "--objects", ",".join(labclip.scenes.SHAPES))


def test_combinations_are_held_out_of_captions_and_negatives(folder, tmp_path):
    done = run("fit", folder / "features", tmp_path / "a", *QUICK, *SPLIT, *WORDS, "--anyway", "--json")
    found = json.loads(done.stdout)
    fitted, held = (int(re.match("[0-9]+", found[side])[0]) for side in ("data", "held_out"))
    assert 0 < held < fitted
    assert fitted + held == 400  # a negative has the words of its caption, so no row is on neither side
    assert found["held_out"].endswith("none of them negatives of the fit")
    other = run("fit", folder / "features", tmp_path / "b", *QUICK, *SPLIT, *WORDS, "--anyway", "--json", "--seed", 1)
    assert json.loads(other.stdout)["held_out"] != found["held_out"]


def test_a_split_that_can_not_be_made_is_refused(folder, tmp_path):
    colours, shapes = WORDS[:2], WORDS[2:]
    for arguments, message in {
        (*SPLIT, *colours): "--split combinations needs --attributes and --objects, for example red,blue",
        colours: "--attributes and --objects go with --split combinations",
        (*SPLIT, "--attributes", "furry,bald", *shapes): "No caption names one of --attributes furry,bald and",
    }.items():
        assert message in run("fit", folder / "features", tmp_path / "a", *arguments, code=2).stderr
    assert not (tmp_path / "a").exists()


def test_a_fit_that_was_not_worth_it_says_so_and_writes_nothing(folder, tmp_path):
    done = run("fit", folder / "features", tmp_path / "a", "--epochs", 1, "--learning-rate", 1e-6, code=1)
    assert "not measurably better" in done.stdout or "keep the base" in done.stdout
    assert "No matrix was written. Pass --anyway" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_matrix_that_is_written_anyway_carries_the_verdict(folder, tmp_path):
    run("fit", folder / "features", tmp_path / "a", "--epochs", 1, "--learning-rate", 1e-6, "--anyway")
    words = (
        r"Of 40 held-out captions, \d+ became right and \d+ wrong \(p = [\d.]+\) at strength [\d.]+: not worth using"
    )
    for text in (run("info", tmp_path / "a").stdout, (tmp_path / "a" / "README.md").read_text()):
        assert re.search(words, " ".join(text.split()))
    found = json.loads(run("info", tmp_path / "a", "--json").stdout)
    assert found["worthwhile"] is False
    assert found["change"]["captions"] == 40


def test_bad_input_is_one_line(folder, tmp_path):
    for options, message in {
        "--recipe papr": "no recipe 'papr'",
        "--device gpu": "device 'gpu' can't be used",
        "--keep 2": "--keep is 2.0. Pass a fraction of 1",
        "--plot fit.doc": "fit.doc does not end in .png or",
        f"--validation {folder / 'features'}": "has images of the fit: its image 0",
    }.items():
        assert message in fails("fit", folder / "features", tmp_path / "a", "-q", *options.split())
    assert not (tmp_path / "a").exists()
