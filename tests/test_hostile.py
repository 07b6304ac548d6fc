"""Files and options that nobody means to pass: one line that says what is wrong, nothing lost or half-written.

Each test runs a table of cases through commands and says which of them failed, and how.
"""

import gzip
import io
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import sound
from click.testing import CliRunner
from PIL import Image
from sound import TABLE, WRITERS

from labclip import LABCLIP, cli

SWAP = ["--method", "swap", "--attributes", "red,blue"]
EMBED = ["embed", "--model", "scenes", "--captions"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    sound.make(folder := tmp_path_factory.mktemp("hostile"))
    return folder


@pytest.fixture
def here(made, monkeypatch):
    """The folder of `made`, where the embedded model is open already; what a test adds is removed."""
    monkeypatch.chdir(made)
    opening, opens = LABCLIP.from_pretrained, {"device": "cpu", "precision": "fp32"}
    model = opening("scenes")
    quick = lambda name, **kw: model if name == "scenes" and kw in ({}, opens) else opening(name, **kw)  # noqa: E731
    monkeypatch.setattr(LABCLIP, "from_pretrained", quick)
    before = set(os.listdir())
    yield made
    remove(set(os.listdir()) - before)


def remove(paths):
    for path in paths:
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)


def tree():
    """Every file with what would change if it was written."""
    paths = [path for path in Path().rglob("*") if "unfinished" not in path.name]
    return {path: 0 if path.is_dir() else (about := os.lstat(path)).st_mtime_ns + about.st_size for path in paths}


def run(*arguments):
    return CliRunner().invoke(cli.main, [*map(str, arguments), "-q"])


def problems(*arguments, says=""):
    """What is wrong with how a command fails."""
    before = tree()
    result = run(*arguments)
    errors, after = result.stderr, tree()
    if arguments[0] == "embed":  # which may have begun
        after.pop(Path("out"), None)
    remove(Path().glob("out"))
    checks = {
        f"exit code {result.exit_code}": result.exit_code != 2,
        "not one line": errors.count("\n") != 1 or not errors.startswith("Error: ") or bool(result.stdout),
        "not in our words": any(word in errors for word in ("Traceback", "[Errno", "--debug")),
        f"says no {says!r}": says not in errors,
        "files changed": before != after,
    }
    failed_checks = [check for check, has_failed in checks.items() if has_failed]
    return [(arguments, *failed_checks, errors)] if failed_checks else []


CONTENTS = {
    "random": np.random.default_rng(3).bytes(5000), "empty": b"", "object": b"{}", "gzip": gzip.compress(TABLE),
    "latin1": b"caption,image\ncaf\xe9,ok/0.png\n",
}  # fmt: skip
FILES = {
    "negatives": (["negatives", "FILE", "out.csv", *SWAP], ".csv"),
    "negatives jsonl": (["negatives", "FILE", "out.csv", *SWAP], ".jsonl"),
    "negatives parquet": (["negatives", "FILE", "out.csv", *SWAP], ".parquet"),
    "embed": ([*EMBED, "FILE", "out"], ".json"),
    "transform": (["transform", "FILE", "out.npy", "--alignment", "al"], ".npy"),
    "convert": (["convert", "FILE", "out"], ".pt"),
    "diagnose": (["diagnose", "--model", "scenes", "--data", "FILE"], ".csv"),
    "csv": (["evaluate", "csv", "--model", "scenes", "--data", "FILE"], ".csv"),
    "fit": (["fit", "feat", "out", "--validation", "FILE", "--epochs", "1"], ""),
    "fold": (["fold", "--model", "FILE", "out"], ""),
    "push": (["push", "FILE", "org/name"], ""),
    "alignment": (["transform", "texts.npy", "out.npy", "--alignment", "FILE"], ""),
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_too_odd(here, hub, name):
    arguments, ending = FILES[name]
    Path(f"bad-folder{ending}").mkdir()
    for content, data in CONTENTS.items():
        Path(f"bad-{content}{ending}").write_bytes(data)
    assert not [
        problem
        for path in [
            *(f"bad-{name}{ending}" for name in [*CONTENTS, "folder", "missing"]),
            f"bad\x1b[31m{ending}",
        ]
        for problem in problems(*(argument.replace("FILE", path) for argument in arguments), says="bad")
    ]


INPUTS = {
    "negatives plain.csv link.csv --method swap --attributes red,blue": "already exists",
    "transform texts.npy ./texts.npy --alignment al --force": "is the input itself",
    "transform texts.npy stored --alignment al": "does not end in .npy",
    "fit feat ok/../feat --force": "is an input",
    "fit feat al --retain other=al --force": "is an input",
    "fit feat out --validation feat": "Pass --validation of other images",
    "fold --model whole whole --force": "is an input",
    "fold --model scenes al --force": "this command did not write it",
    "convert matrix.pt matrix.pt --force": "is an input",
    "embed --model scenes --captions plain.csv ok": "is not a feature folder",
    "embed --model scenes --captions plain.csv feat": "has features of other captions",
    "evaluate csv --model scenes --data plain.csv --items plain.csv --force": "another",
    "evaluate scenes --model scenes --latex nowhere/x": "mkdir -p",
}


def test_what_is_an_input_is_never_an_output(here):
    os.symlink("plain.csv", "link.csv")
    os.makedirs("stored")
    shutil.copy("texts.npy", "stored/a.npy")
    assert not [problem for command, says in INPUTS.items() for problem in problems(*command.split(), says=says)]


def image(kind, mode="RGB", size=(8, 8)):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("default")  # Pillow's, of damaged files
def test_no_image_is_too_odd(here):
    png = image("PNG")
    images = {
        "empty": (b"", "not a complete image"), "page": (b"<html>404</html>", "not a complete image"),
        "cut": (png[:40], "not a complete image"), "cut.jpg": (image("JPEG")[:300], "not a complete image"),
        "tiff": (b"II*\0\x08\0\0\0" + b"\xff" * 200, "not a complete image"), "heic": (b"\0\0\0\x18ftypheic", "HEIC"),
        "zeroed": (png[:16] + bytes(8) + png[24:], "not a complete"), "missing": (None, "No such file"),
        "bomb": (image("PNG", "1", (20_000, 10_000)), "exceeds"),
    }  # fmt: skip
    failures = []
    for name, (content, message) in images.items():
        if content is not None:
            Path("odd").write_bytes(content)
        Path("one.csv").write_text(
            f"image,caption,negative\n{name if content is None else 'odd'},a red cube,a blue cube\n"
        )
        failures += problems(*EMBED, "one.csv", "out", says=message)
        failures += problems("evaluate", "csv", "--model", "scenes", "--data", "one.csv")
    assert not failures


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_no_more_leaves_nothing_half(here, name, monkeypatch, tmp_path):
    """A limit on the size of files stands for a full disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a result is kept that could not be written
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    failures = []
    try:
        for size in (0, 10, 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            result = run(*WRITERS[name])
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            errors = result.stderr
            is_sound = result.exit_code == 2 and errors.count("\n") == 1 and "[Errno" not in errors
            if (not is_sound or sound.left(".")) and (result.exit_code or size < 1000):
                failures.append((size, result.exit_code, errors, sound.left(".")))
            remove(Path().glob("*out*"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not failures
