"""Files, options and arrays that nobody means to pass: one line that says what is wrong, nothing lost or half-written.

Each test runs a table of cases through commands and says which of them failed, and how.
"""

import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import sound
import torch
from click.testing import CliRunner
from PIL import Image
from sound import QUICK, TABLE, WRITERS

import labclip
from labclip import LABCLIP, Alignment, cli, scenes
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.sources import Sources
from labclip.messages import printable

_TO_TYPE = re.compile(r"(: |[Tt]ype: )(labclip|hf|mkdir|mv|pip) ")
SWAP = ["--method", "swap", "--attributes", "red,blue"]
EMBED = ["embed", "--model", "scenes", "--captions"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


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


def problems(*arguments, says="", works=False):
    """What is wrong with how a command fails; with how it ends, where it may as well work."""
    before = tree()
    done = run(*arguments)
    said, after = done.stderr, tree()
    if arguments[0] == "embed":  # which may have begun
        after.pop(Path("out"), None)
    remove(Path().glob("out"))
    if done.exit_code == 0 and works:
        return []
    checks = {
        f"exit code {done.exit_code}": done.exit_code != 2,
        "not one line": said.count("\n") != 1 or not said.startswith("Error: ") or bool(done.stdout),
        "not in our words": any(word in said for word in ("Traceback", "[Errno", "--debug")),
        "not short": len(said) > 2100,
        "no advice": not said.rstrip().endswith((".", "--help")) and not _TO_TYPE.search(said),
        f"says no {says!r}": not any(one in said for one in ((says,) if isinstance(says, str) else says)),
        "files changed": before != after,
    }
    wrong = [what for what, is_so in checks.items() if is_so]
    return [(arguments, *wrong, said)] if wrong else []


def hostile(ending, good=TABLE):
    """Paths with an ending, none of which is a sound file, and what a message must name of each."""
    contents = {
        "nul": bytes(100), "random": np.random.default_rng(3).bytes(5000), "bom": b"\xef\xbb\xbf", "empty": b"",
        "utf16": TABLE.decode().encode("utf-16"), "latin1": b"caption,image\ncaf\xe9,ok/0.png\n",
        "deep": b"[" * 200_000, "digits": b'{"a":1' + b"0" * 5000 + b"}", "escape": b"\x1b[31mred\x07\n",
        "quote": b'"', "comma": b",,\n,,\n", "gzip": gzip.compress(good), "null": b"null", "object": b"{}",
        "flipped": bytes(byte ^ 0xFF if at % 50 == 7 else byte for at, byte in enumerate(good)),
    }  # fmt: skip
    bad = Path("bad")
    shutil.rmtree(bad, ignore_errors=True)
    (bad / f"folder{ending}").mkdir(parents=True)
    for name, content in contents.items():
        (bad / f"{name}{ending}").write_bytes(content)
    for name, target in {
        "loop": f"loop{ending}",
        "dangling": "nowhere",
        "zero": "/dev/zero",
        "dev": "/dev/null",
    }.items():
        (bad / f"{name}{ending}").symlink_to(target)
    os.mkfifo(bad / f"fifo{ending}")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"bad/socket{ending}")
    with open(bad / f"sparse{ending}", "wb") as file:
        file.truncate(1 << 40)
    return [
        *((f"bad/{name}", (name, "bad")) for name in sorted(os.listdir(bad))), (f"bad/missing{ending}", "missing"),
        (f"bad/{'x' * 300}{ending}", "xxx"), (f"bad/\x1b[31m{ending}", r"\x1b[31m"),
        (f"~nobody/x{ending}", f"/x{ending}"), (f"file:///nowhere{ending}", "nowhere"), ("", "has no value"), (" ", ""),
    ]  # fmt: skip


def all_of(arguments, ending, good=TABLE, without=()):
    """The problems of a command, for each hostile file in the place of FILE."""
    return [
        problem
        for path, says in hostile(ending, good)
        if not any(name in path for name in without)
        for problem in problems(*(one.replace("FILE", path) for one in arguments), says=says)
    ]


FILES = {
    "negatives": (["negatives", "FILE", "out.csv", *SWAP], ".csv"),
    "negatives jsonl": (["negatives", "FILE", "out.csv", *SWAP], ".jsonl"),
    "negatives parquet": (["negatives", "FILE", "out.csv", *SWAP], ".parquet"),
    "embed": ([*EMBED, "FILE", "out"], ".json"),
    "transform": (["transform", "FILE", "out.npy", "--alignment", "al"], ".npy"),
    "convert": (["convert", "FILE", "out"], ".pt"),
    "diagnose": (["diagnose", "--model", "scenes", "--data", "FILE"], ".csv"),
    "csv": (["evaluate", "csv", "--model", "scenes", "--data", "FILE"], ".csv"),
    "features": (["evaluate", "features", "--model", "scenes", "--data", "FILE"], ""),
    "fit": (["fit", "feat", "out", "--validation", "FILE", "--epochs", "1"], ""),
    "fold": (["fold", "--model", "FILE", "out"], ""),
    "push": (["push", "FILE", "org/name"], ""),
    "alignment": (["transform", "texts.npy", "out.npy", "--alignment", "FILE"], ""),
    "images": ([*EMBED, "plain.csv", "--images", "FILE", "out"], ""),
}
GOOD = {".npy": "texts.npy", ".pt": "matrix.pt"}


@pytest.mark.parametrize("name", [slow(name) if name in ("embed", "images") else name for name in FILES])
def test_no_file_is_too_odd(here, hub, name):
    arguments, ending = FILES[name]
    # A file of captions is hashed whole before it is read; a folder of images may be empty.
    without = {"embed": ["sparse"], "images": ["folder"]}.get(name, [])
    assert not all_of(arguments, ending, Path(GOOD[ending]).read_bytes() if ending in GOOD else TABLE, without)


@pytest.mark.parametrize("ending", [".json", slow(".csv"), slow(""), slow(".parquet"), slow(".tar")])
def test_no_file_is_too_odd_for_a_benchmark(here, ending):
    found = []
    for path, says in hostile(ending)[:-2]:
        for name in BENCHMARKS.keys() - {"scenes", "features"}:
            try:
                BENCHMARKS[name].read(Sources(Path(path), None, "raise", "Get it there."))
                found.append((name, path, "works"))
            except (ValueError, OSError) as error:
                said, own = printable(str(error)), isinstance(error, OSError) and error.filename is not None
                if not own and (said[-1] != "." or not any(one in said for one in np.atleast_1d(says))):
                    found.append((name, path, said))
            except Exception as error:
                found.append((name, path, repr(error)))
    assert not found


OUTS = {
    "folder": (["convert", "matrix.pt", "FILE"], ""),
    "embed": ([*EMBED, "plain.csv", "FILE"], ""),
    "negatives": (["negatives", "plain.csv", "FILE", *SWAP], ".csv"),
    "transform": (["transform", "texts.npy", "FILE", "--alignment", "al"], ".npy"),
    "markdown": ([*QUICK, "--markdown", "FILE"], ".md"),
}


@pytest.mark.parametrize("name", OUTS)
def test_no_place_to_write_is_too_odd(here, name):
    """What is there is kept: without --force nothing of `bad` may be another afterwards."""
    arguments, ending = OUTS[name]
    # Where something may be made, and pipes and sockets, which wait for who reads.
    new = ["missing", "dangling", "dev", "zero", "nowhere", "~nobody", "\x1b", "fifo", " "]
    assert not all_of(
        arguments, ending, without=[*new, "socket" if ending == ".md" else "folder" if not ending else " "]
    )


INPUTS = {
    "negatives plain.csv link.csv --method swap --attributes red,blue": "is the input itself",
    "transform texts.npy ./texts.npy --alignment al --force": "is the input itself",
    "transform texts.npy stored --alignment al": "does not end in .npy",
    "transform stored texts.npy --alignment al --force": "is a file",
    "fit feat ok/../feat --force": "is an input",
    "fit feat al --retain other=al --force": "is an input",
    "fit feat copy --force": "so this command did not write it",
    "fit feat ok --force": "this command did not write it",
    "fit feat out --validation feat": "Pass --validation of other images",
    "fit feat out --retain feat --retain feat": "is named as another is",
    "fold --model whole whole --force": "is an input",
    "fold --model scenes al --force": "this command did not write it",
    "convert matrix.pt matrix.pt --force": "is an input",
    "embed --model scenes --captions plain.csv plain.csv": "is a file",
    "embed --model scenes --captions plain.csv ok": "is no feature folder",
    "embed --model scenes --captions plain.csv feat": "has features already",
    "evaluate csv --model scenes --data plain.csv --items plain.csv --force": "is an input",
    "evaluate scenes --model scenes --latex nowhere/x": "mkdir -p",
}


def test_what_is_an_input_is_never_an_output(here):
    os.symlink("plain.csv", "link.csv")
    os.makedirs("stored")
    shutil.copy("texts.npy", "stored/a.npy")
    shutil.copytree("feat", "copy")
    assert not [one for command, says in INPUTS.items() for one in problems(*command.split(), says=says)]


OPTIONS = {
    ("fit", "feat", "out", "--epochs", "1"): "split recipe keep objective device learning-rate rank batch-size epochs "
    "hard-negatives logit-scale distill identity-penalty negative-weight seed",
    tuple(QUICK): "strength alignment data images on-missing batch-size workers device precision ties rows option",
    ("diagnose", "--model", "scenes"): "data images alignment strength folds scenes seed device",
    ("negatives", "plain.csv", "out.csv", *SWAP): "k seed column image-column method tagger",
    ("transform", "texts.npy", "out.npy", "--alignment", "al"): "strength column engine alignment",
}
VALUES = ["nan", "1e400", "1e9", "abc", "😀", "\x1b[31m", "a" * 5000, ""]


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_no_value_is_too_odd_for_an_option(here, hub, arguments):
    asked = [f"--{name}={value}" for name in OPTIONS[arguments].split() for value in VALUES]
    assert not [one for option in asked for one in problems(*arguments, option)]


def image(kind, mode="RGB", size=(8, 8)):
    held = io.BytesIO()
    Image.new(mode, size).save(held, kind)
    return held.getvalue()


@pytest.mark.filterwarnings("default")  # Pillow's, of damaged files
def test_no_image_is_too_odd(here):
    png = image("PNG")
    images = {
        "empty": (b"", "not a whole image"), "page": (b"<html>404</html>", "not a whole image"),
        "cut": (png[:40], "not a whole image"), "cut.jpg": (image("JPEG")[:300], "not a whole image"),
        "tiff": (b"II*\0\x08\0\0\0" + b"\xff" * 200, "not a whole image"),
        "zeroed": (png[:16] + bytes(8) + png[24:], "not a whole"), "svg": (b"<svg/>", "is SVG"),
        "bomb": (image("PNG", "1", (20_000, 10_000)), "exceeds"), "heic": (b"\0\0\0\x18ftypheic", "is HEIC"),
    }  # fmt: skip
    hostile("")
    for name, (content, _) in images.items():
        Path("bad", name).write_bytes(content)
    says = {name: said for name, (_, said) in images.items()} | {"fifo": "pipe or a device", "missing": ""}
    found = []
    for name, said in says.items():
        Path("one.csv").write_text(f"image,caption,negative\nbad/{name},a red cube,a blue cube\n")
        found += problems(*EMBED, "one.csv", "out", says=said)
        found += problems("evaluate", "csv", "--model", "scenes", "--data", "one.csv")
    assert not found


CAPTIONS = [
    "😀 red 😀 blue", "\u202eأحمر red blue", "re\u0301d blu\u0308e red blue", "\x1b[31mred\x07 blue", "red\0 blue",
    "red cube\nblue ball", "\"red\" 'blue'", "<|endoftext|> red <|startoftext|> blue", "=cmd|red blue",
    r"\input{x} red & blue % $", "red blue " + "r" * 300_000, " " * 200_000 + "red blue",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # some are cut
def test_any_text_is_a_caption(here):
    rows = [{"image": "ok/0.png", "caption": caption, "negative": f"not {at}"} for at, caption in enumerate(CAPTIONS)]
    Path("any.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(*EMBED, "any.jsonl", "out").exit_code == 0
    assert run("evaluate", "csv", "--model", "scenes", "--data", "any.jsonl").exit_code == 0


RECORDS = [None, 3, -1, 1.5, "x", "", [], {}, True, float("nan"), 10**400, "\x1b[31m"]


def test_no_record_of_an_alignment_is_too_odd(here):
    """Whatever stands in a config, the alignment is refused in one line, or is the same matrix."""
    good = json.loads(Path("al/config.json").read_bytes())
    shutil.copytree("al", "copy")
    spoilt = [good | {key: value} for key in good for value in RECORDS]
    spoilt += [good | {part: good[part] | {key: value}} for part in ("base", "metadata") for key in good[part]
               for value in RECORDS]  # fmt: skip
    contents = [json.dumps(config).encode() for config in spoilt]
    contents += [b"", b"{", b"[" * 100_000, b"[]", b" " * 70_000_000, json.dumps(good).encode("utf-16"), bytes(50)]
    found = []
    for content in contents:
        Path("copy/config.json").write_bytes(content)
        found += problems("info", "copy", works=True)
    assert not found


DAMAGES = {
    "gone": lambda path: None,
    "empty": Path.touch,
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("folder", ["al", "feat", slow("whole")])
def test_no_damage_to_a_folder_is_too_odd(here, folder):
    """test_mutations.py changes bytes."""
    command = {
        "al": ["transform", "texts.npy", "out.npy", "--alignment", "copy"],
        "feat": ["fit", "copy", "out", "--epochs", "1", "--anyway"],
        "whole": ["fold", "--model", "copy", "out", "--alignment", "scenes"],
    }[folder]
    found = []
    for name in sorted(set(os.listdir(folder)) - {"README.md"}):
        for damage in DAMAGES.values():
            shutil.copytree(folder, "copy")
            (path := Path("copy", name)).unlink()
            damage(path)
            # A model opens without the alignment beside it, which another takes the place of.
            found += problems(*command, works=folder == "whole")
            shutil.rmtree("copy")
    assert not found


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_no_more_leaves_nothing_half(here, name, monkeypatch, tmp_path):
    """A limit on the size of files stands for a full disk."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a result is kept that could not be written
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    found = []
    try:
        for size in (0, 10, 1000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            done = run(*WRITERS[name])
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            said = done.stderr
            is_sound = done.exit_code == 2 and said.count("\n") == 1 and "[Errno" not in said
            if (not is_sound or sound.left(".")) and (done.exit_code or size < 1000):
                found.append((size, done.exit_code, said, sound.left(".")))
            remove(Path().glob("*out*"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not found


def test_two_that_save_into_one_folder_leave_a_whole_one(here):
    """Whichever is last, the folder is one of the two: never the matrix of one with the record of the other."""
    matrices = [torch.eye(8) * number for number in (1.0, 2.0)]
    failed = []

    def save(matrix):
        for _ in range(10):
            try:
                Alignment(matrix).save_pretrained("out")
            except OSError as error:  # the other moved it away in between
                failed.append(error)

    threads = [threading.Thread(target=save, args=(matrix,)) for matrix in matrices]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(failed) < 20
    assert any(torch.equal(Alignment.from_pretrained("out").matrix, matrix) for matrix in matrices)


BAD_ARRAYS = {
    "integers": torch.ones(3, 256, dtype=torch.int64), "complex": torch.ones(3, 256, dtype=torch.complex64),
    "dim": torch.ones(3, 255), "number": torch.tensor(1.0), "none": None, "words": "a red cube",
    "ragged": [[1.0], [1.0, 2.0]], "objects": np.array([[None]]), "mapping": {"a": 1},
}  # fmt: skip
CALLS = {
    "alignment": lambda model, value: model.alignment(value),
    "matrix": lambda model, value: Alignment(value),
    "strength": lambda model, value: model.alignment.at(value),
    "similarity": lambda model, value: model.similarity(value, torch.ones(1, 256)),
    "encode_image": lambda model, value: model.encode_image(value),
    "encode_text": lambda model, value: model.encode_text(value),
    "from_pretrained": lambda model, value: LABCLIP.from_pretrained(value),
    "embed": lambda model, value: labclip.embed(value, "plain.csv", "out"),
    "fit": lambda model, value: labclip.fit(value, progress=False),
    "epochs": lambda model, value: labclip.fit(labclip.Features.load("feat"), epochs=value, progress=False),
    "evaluate": lambda model, value: labclip.evaluate(value, "scenes", options={"n": 4}, progress=False),
    "benchmark": lambda model, value: labclip.evaluate(model, value, progress=False),
    "diagnose": lambda model, value: labclip.diagnose(model, scenes=value, progress=False),
    "fold": lambda model, value: labclip.fold(value),
    "transform": lambda model, value: labclip.transform("texts.npy", "out.npy", value, progress=False),
    "scenes": lambda model, value: scenes.sample(value),
}
FINE = {
    ("encode_text", "words"), ("encode_text", "integers"), ("epochs", "none"), ("strength", "number"),
    ("from_pretrained", "words"), ("encode_image", "mapping"),  # which a tower of its own may take
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_no_argument_is_too_odd_in_python(here, name):
    model, found = LABCLIP.from_pretrained("scenes"), []
    for call in [call for call in CALLS if (call, name) not in FINE]:
        try:
            found.append((call, "works", CALLS[call](model, BAD_ARRAYS[name])))
        except (ValueError, FileNotFoundError, DeprecationWarning) as error:
            found += [(call, "names options", error)] if "--" in str(error) else []
        except Exception as error:
            found.append((call, repr(error)))
    assert not found
