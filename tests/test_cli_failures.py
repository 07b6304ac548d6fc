"""What goes wrong is one line and an exit code, nothing is lost by it, and nothing of others reaches the terminal."""

import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import click
import models
import planted
import pytest
import sound
import torch
from commands import fails, run
from PIL import Image

import labclip.demo  # whole: modules keep what they import, also what a test has patched
from labclip import Alignment, cli, scenes
from labclip.checks import printable


@pytest.fixture
def raising(monkeypatch):
    """Make `labclip demo` raise."""

    def arrange(error, warning=None):
        def fail(folder):
            if warning:
                warnings.warn(warning, UserWarning, stacklevel=1)
            raise error

        monkeypatch.setattr("labclip.cli.demo.make_folder", fail)

    return arrange


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(28, "No space left on device", "/a/b"),
            "/a/b can't be used (No space left on device). Check the path",
        ),
        (OSError(5, "Input/output error"), "Reading or writing failed (Input/output error)."),
        (MemoryError(), "There is not enough memory (main memory). Pass a smaller --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory (CUDA out of memory.). Pass a"),
        (KeyError("x"), "KeyError: 'x'. The same command with --debug shows where it comes from."),
        (ValueError("two\nlines"), "Error: two lines"),
    ],
)
def test_whatever_is_raised_is_one_line(raising, error, expected):
    raising(error)
    message = fails("demo", "-q")
    assert expected in message
    assert "[Errno" not in message


def test_errors_and_warnings_are_one_line_that_names_options(raising, tmp_path):
    raising(ValueError("Pass out=DIR."), warning="mind the gap, or pass out=DIR")
    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stderr = run("demo", "--out", tmp_path, code=2).stderr
    assert "Warning: mind the gap, or pass --out DIR\n" in stderr
    assert "Error: Pass --out DIR.\n" in stderr
    assert warnings.showwarning is show


@pytest.mark.parametrize("arguments", [("demo", "--debug"), ("--debug", "demo", "-v")])
def test_debug_shows_where_an_error_comes_from(raising, arguments):
    raising(KeyError("x"))
    stderr = run(*arguments, code=2).stderr
    assert "Traceback (most recent call last)" in stderr
    assert "in fail" in stderr
    assert stderr.endswith("--debug shows where it comes from.\n")


def test_interrupted_is_130_and_says_how_to_go_on(monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("labclip.cli.embed.open_model", interrupt)
    out, captions = tmp_path / "a folder", tmp_path / "a.csv"
    captions.write_text("image,caption\n")
    stderr = run("embed", "--model", "scenes", "--captions", captions, out, code=130).stderr
    assert stderr == (
        "\nInterrupted. Embeddings are kept, and the same command continues from there. Type again: "
        f"labclip embed --model scenes --captions {captions} {shlex.quote(str(out))}\n"
    )


def shell(command):
    env = dict(os.environ, PYTHONPATH=str(Path(labclip.__file__).parents[1]))
    command = command.replace("labclip", f"{shlex.quote(sys.executable)} -m labclip", 1)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, check=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_stdout_that_takes_nothing_is_an_error():
    done = shell("labclip list > /dev/full")
    assert done.returncode != 0
    assert "Reading or writing failed (No space left on device)" in done.stderr
    done = shell("set -o pipefail; labclip list | exec 0<&- true")
    assert (done.returncode, done.stderr) == (1, "")


NASTY = "\x1b]0;title\x07\x1b[31mred\u202eblue\r"


def test_what_a_terminal_would_obey_is_escaped_wherever_it_is_printed(tmp_path):
    assert printable(NASTY) == r"\x1b]0;title\x07\x1b[31mred\u202eblue\r"
    assert printable("a\n\tb é 日本 \udcff") == "a\n\tb é 日本 \\udcff"
    table = tmp_path / "a.csv"
    table.write_text(f'image,caption\n"{NASTY}.png",a red cube\n0.png,a cube\n', newline="")
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    alignment = Alignment(models.matrix(), metadata={"data": NASTY, "results": {NASTY: {"base": {NASTY: 1}}}})
    alignment.save_pretrained(tmp_path / "alignment")
    embed = ("embed", "--model", "scenes", "--captions", table, tmp_path / "out")
    for text in (
        run(*embed, code=2).stderr,
        run(*embed, "--on-error", "skip").stderr,
        run("info", tmp_path / "alignment").stdout,
        run("info", tmp_path / NASTY, code=2).stderr,
        run(NASTY, code=2).stderr,
    ):
        assert not set(text.replace("\r", "", text.count("\r") if "images" in text else 0)) & set("\x1b\x07\u202e")
        assert r"\x1b[31mred" in text


def test_every_command_has_an_example_that_it_understands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("matrix.pt").touch()
    Path("my-alignment").mkdir()
    for name, command in cli.main.commands.items():
        text = run(name, "--help").stdout
        assert f"Example:\n    {command.example}\n" in text
        program, typed, *arguments = shlex.split(command.example)
        assert (program, typed) == ("labclip", name)
        with command.make_context(name, arguments, parent=click.Context(cli.main)) as context:
            assert context.params
        for option in ("-q, --quiet", "-v, --verbose", "--debug"):
            assert option in text
    assert run("-V").stdout == run("--version").stdout == f"labclip, version {labclip.__version__}\n"


def test_quiet_shows_results_alone_and_verbose_says_more(tmp_path):
    scenes.sample(4, seed=1).save(tmp_path)
    arguments = ("--model", "scenes", "--captions", tmp_path / "captions.csv")
    assert "images" in run("embed", *arguments, tmp_path / "a").stderr
    for index, command in enumerate((("embed", "-q"), ("--quiet", "embed"))):
        done = run(*command, *arguments, tmp_path / f"quiet{index}")
        assert done.stderr == ""
        assert "4 images, 4 captions" in done.stdout
    assert "Error: " in run("embed", "-q", *arguments[:3], tmp_path / "none.csv", tmp_path / "b", code=2).stderr
    stderr = run("embed", "-v", *arguments, tmp_path / "c").stderr
    for line in ("scenes: Alignment(dim=256", "on cpu, fp32\n", "embed took "):
        assert line in stderr
    assert run("list").stderr == ""


def test_a_disk_that_is_too_full_is_told_before_the_work(monkeypatch, tmp_path):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("labclip.files.shutil.disk_usage", lambda path: full)
    assert "out needs 1,048,576 bytes, but 1,000 are free" in fails("fit", "no-features", tmp_path / "out")
    scenes.sample(4, seed=1).save(tmp_path)
    stderr = run("embed", "--model", "scenes", "--captions", tmp_path / "captions.csv", tmp_path / "e", code=2).stderr
    assert "1,000 are free" in stderr


def test_a_file_that_can_not_be_written_loses_neither_the_result_nor_what_was_there(tmp_path, monkeypatch):
    """The disk is full once a file is complete: what was there before is there still, and nothing beside it."""
    monkeypatch.chdir(tmp_path)
    planted.drawn(60).save("features")
    Path("a.html").write_text("before")
    replace = os.replace

    def full(part, target):
        if target.name != "a.html":
            return replace(part, target)
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr("labclip.files.os.replace", full)
    done = run("fit", "features", "matrix", "--epochs", 1, "--html", "a.html", "--anyway", code=2)
    assert "held-out captions" in done.stdout
    assert "a.html can't be used (No space left on device)" in done.stderr
    assert Path("a.html").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "features", "matrix"]
    assert Alignment.from_pretrained("./matrix").dim == 24


EARLY = {
    "fold": "Missing argument 'OUT'. See: labclip fold --help",
    "transform a b --alignment scenes --alignment al": "--alignment is given twice",
    "embed --clean --as-is out": "--clean/--as-is is given twice",
    "embed --model= out": "The argument '--model=' has no value",
    "fit nothing out": "nothing is not a feature folder. If it is a captions file, also pass the base",
    "fit none.csv out --model scenes": "There is no file none.csv",
    "fit feat out --model scenes": "feat is a feature folder. Leave out --model",
    "fit feat out --checkpoint plain.csv": "plain.csv is a file. Pass the path of a folder",
    "fit plain.csv out --model scenes --images none": "There is no none. Pass a path that exists",
    "fit feat plain.csv/out": "plain.csv is a file. Pass the path of a folder",
    "fit feat al": "al is not empty. Pass --force to overwrite it",
    "fit feat out --validation al": "There is no feature folder al",
    "embed --model scenes --captions none.csv out": "There is no file none.csv",
    "embed --model scenes --captions plain.csv out --column captoin": "has no column 'captoin'; it has 'caption'",
    "embed --model scenez --captions plain.csv out": "Did you mean 'scenes'?",
    "evaluate scenes --model ./nothing": "There is no folder ./nothing",
    "evaluate csv --model scenes --data none.csv": "There is no none.csv. Pass a path that exists",
    "transform none.npy out.npy --alignment al": "There is no none.npy",
    "transform texts.npy out.npy --alignment ./nothing": "There is no folder ./nothing",
    "diagnose --model scenes --data nothing": "There is no nothing",
    "fold --model scenes feat": "feat holds no open_clip_config.json, so this command did not write it",
    "negatives plain.csv out.csv --method swap --attributes red,blue --column captoin": "has no column 'captoin'",
    "convert none.pt out": "File 'none.pt' does not exist",
    "push nothing org/name": "Directory 'nothing' does not exist",
    "fit feat out --retain feat --retain feat=feat": "Each --retain needs a name of its own",
    "fit feat out --retain =feat": "Write --retain NAME=FEATURES",
    "fit feat out --split combinations --attributes red": "--split combinations needs --attributes and --objects",
    "fit feat out --attributes red": "--attributes and --objects go with --split combinations",
    "evaluate scenes": "Missing option '--model'. Type: labclip evaluate BENCHMARK --model M",
    "evaluate scenes --model scenes --markdown a.html --items a.html": "a.html is an input or another output",
    "evaluate scenes --model scenes --out x.csv": "x.csv must end in .html or .htm.",
    "evaluate scenes --model scenes --percent": "--rows and --percent go with --latex FILE. Pass it too.",
    "evaluate scenes --model scenes --model scenes --items i.csv": "i.csv is for one model, but there are 2. Pass one",
    "negatives plain.csv out.csv": "Missing option '--method'",
    "negatives plain.csv out.csv --method swap": "--method swap needs --attributes, such as red,blue",
    "negatives plain.csv out.csv --method shuffle --attributes a,b": "--method swap needs --attributes",
    "negatives plain.csv out.csv --method parts --k 2": "go with the methods swap and shuffle",
    "negatives plain.csv out.csv --method swap --attributes a,b --image-column x": "has no column 'x'",
    "negatives plain.csv out.txt --method swap --attributes a,b": ".txt'. Negatives are written as .tsv, .csv, .jsonl,",
    "sample ok": "ok is not empty. Pass an empty or a new folder",
}


def test_what_is_wrong_with_arguments_is_one_line_before_torch_is_imported(tmp_path):
    """Torch, OpenCLIP and transformers take three seconds of processor time."""
    sound.make(tmp_path)
    code = (
        "import sys; from labclip.cli import main\nfor line in sys.stdin:\n    try: main(line.split())\n"
        "    except SystemExit as end: print(end.code, *{'torch', 'open_clip', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, input="\n".join(EARLY), capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["2"] * len(EARLY), done.stderr
    for command, line, expected in zip(EARLY, done.stderr.splitlines(), EARLY.values(), strict=True):
        assert line.startswith("Error: "), (command, line)
        assert expected in line, command
