"""Files, options and arrays that nobody means to pass: one line that says what is wrong, nothing lost or half-written.

Each test runs a table of cases through one command and says which of them failed, and how.
"""

import csv
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
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from close import UNIT
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, cli, scenes
from labclip.evaluation.benchmarks import BENCHMARKS
from labclip.evaluation.sources import Sources
from labclip.messages import printable
from labclip.towers.text import tokenize

CSV = b"caption,image\na red cube and a blue ball,ok/0.png\na green cube and a red ball,ok/1.png\n"
_TO_TYPE = re.compile(r"(: |[Tt]ype: )(labclip|hf|mkdir|mv|pip) ")
QUICK = ["evaluate", "scenes", "--model", "scenes", "--option", "n=4"]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


class Late(BaseException):
    """Raised by the alarm; nothing catches it."""


@contextmanager
def alarm(seconds, error):
    def ring(*_):
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def remove(paths):
    for path in paths:
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One of everything that is sound."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("hostile")
    os.chdir(folder)
    scenes.sample(6, seed=1).save("ok")
    Path("plain.csv").write_bytes(CSV)
    opening = LABCLIP.from_pretrained
    model = opening("scenes")
    model.alignment.save_pretrained("al")
    model.save_pretrained("whole")
    torch.save({"linear.weight": torch.eye(16) * 2, "t": torch.tensor(3.0)}, "matrix.pt")
    np.save("texts.npy", np.random.default_rng(0).normal(size=(5, 256)).astype("f4"))
    done = CliRunner().invoke(cli.main, ["embed", "--model", "scenes", "--captions", "ok/captions.csv", "feat", "-q"])
    assert done.exit_code == 0, done.output
    with pytest.MonkeyPatch.context() as patch:  # opening it is most of the time of what fails early
        opens = {"device": "cpu", "precision": "fp32"}
        quick = lambda name, **kw: model if name == "scenes" and kw in ({}, opens) else opening(name, **kw)  # noqa: E731
        patch.setattr(LABCLIP, "from_pretrained", quick)
        yield folder
    os.chdir(before)


@pytest.fixture
def here(made, monkeypatch):
    """The folder of `made`; what a test adds is removed."""
    monkeypatch.chdir(made)
    before = set(os.listdir())
    yield made
    remove(set(os.listdir()) - before)


def tree():
    """Every file with what would change if it was written."""
    found = {}
    for folder, folders, files in os.walk("."):
        for path in (os.path.join(folder, name) for name in folders + files):
            about = os.lstat(path)
            found[path] = 0 if os.path.isdir(path) else (about.st_ino, about.st_size, about.st_mtime_ns)
    return found


def run(*arguments):
    return CliRunner().invoke(cli.main, [*map(str, arguments), "-q"])


def problems(*arguments, says="", works=False):
    """What is wrong with how a command fails; with how it ends, where it may as well work."""
    before = tree()
    with alarm(20, Late):
        try:
            done = run(*arguments)
        except Late:
            return [(arguments, "hangs")]
    said = done.stderr
    if done.exit_code == 0 and works and isinstance(done.exception, SystemExit | None):
        return []
    after = tree()
    checks = {
        f"exit code {done.exit_code}": done.exit_code != 2,
        "not one line": said.count("\n") != 1 or not said.startswith("Error: ") or bool(done.stdout),
        "not in our words": any(word in said for word in ("Traceback", "[Errno", "--debug")),
        "not short": len(said) > 2100,
        "no advice": not said.rstrip().endswith((".", "--help")) and not _TO_TYPE.search(said),
        f"says no {says!r}": not any(one in said for one in ((says,) if isinstance(says, str) else says)),
        # An unfinished run is kept, under no final name, by the two commands that go on from there.
        "files changed": any(
            before.get(path) != after.get(path) for path in before.keys() | after.keys() if "unfinished" not in path
        ) and not (arguments[0] == "embed" and set(after) - set(before) == {"./out", "./out/unfinished.sqlite"}),
    }  # fmt: skip
    shutil.rmtree("out", ignore_errors=True)
    found = [what for what, wrong in checks.items() if wrong]
    return [(arguments, *found, said)] if found else []


def hostile(ending, good=CSV):
    """Paths with an ending, none of which is a sound file, and what a message must name of each."""
    os.makedirs("bad", exist_ok=True)
    contents = {
        "nul": bytes(100), "random": np.random.default_rng(3).bytes(5000), "bom": b"\xef\xbb\xbf", "empty": b"",
        "utf16": CSV.decode().encode("utf-16"), "latin1": b"caption,image\ncaf\xe9,ok/0.png\n", "deep": b"[" * 200_000,
        "digits": b'{"a":1' + b"0" * 5000 + b"}", "escape": b"\x1b[31mred\x07\n", "quote": b'"', "comma": b",,\n,,\n",
        "gzip": gzip.compress(good), "null": b"null", "object": b"{}", "list": b"[]", "space": b" \n\n", "cr": b"a\rb",
        "flipped": bytes(byte ^ 0xFF if at % 50 == 7 else byte for at, byte in enumerate(good)),
    }  # fmt: skip
    for name, content in contents.items():
        Path(f"bad/{name}{ending}").write_bytes(content)
    for name, target in {
        "loop": f"loop{ending}",
        "dangling": "nowhere",
        "zero": "/dev/zero",
        "dev": "/dev/null",
    }.items():
        os.path.lexists(f"bad/{name}{ending}") or os.symlink(target, f"bad/{name}{ending}")
    os.makedirs(f"bad/folder{ending}", exist_ok=True)
    os.path.exists(f"bad/fifo{ending}") or os.mkfifo(f"bad/fifo{ending}")
    if not os.path.exists(f"bad/socket{ending}"):
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"bad/socket{ending}")
    with open(f"bad/sparse{ending}", "wb") as file:
        file.truncate(1 << 40)
    paths = [
        f"bad/{name}" for name in sorted(os.listdir("bad")) if name.endswith(ending) and (ending or "." not in name)
    ]
    return [
        *((path, (path.removeprefix("bad/"), "bad")) for path in paths),
        (f"bad/missing{ending}", "missing"),
        (f"bad/{'x' * 300}{ending}", "xxx"),
        (f"bad/\x1b[31m{ending}", r"\x1b[31m"),
        (f"ok/0.png/x{ending}", "ok/0.png"),
        (f"~nobody/x{ending}", f"/x{ending}"),
        (f"file:///nowhere{ending}", "nowhere"),
        ("", "has no value"),
        (" ", ""),
    ]


def all_of(arguments, ending, good=CSV, without=(), **options):
    """The problems of a command, for each hostile file in the place of FILE."""
    found = []
    for path, says in hostile(ending, good):
        if not any(name in path for name in without):
            found += problems(
                *(one.replace("FILE", path).replace("ENDING", ending) for one in arguments), says=says, **options
            )
    return found


SHUFFLE = ["negatives", "FILE", "out.csv", "--method", "swap", "--attributes", "red,blue"]
FILES = {
    "negatives": (SHUFFLE, [".csv", ".tsv", ".jsonl", ".json", ".parquet", ""], []),
    # A file is hashed whole before it is read: the sparse one would take an hour.
    "embed": (["embed", "--model", "scenes", "--captions", "FILE", "out"], [".csv", ".json"], ["sparse"]),
    "transform": (["transform", "FILE", "outENDING", "--alignment", "al"], [".npy", ".safetensors"], []),
    "convert": (["convert", "FILE", "out"], [".pt"], []),
    "diagnose": (["diagnose", "--model", "scenes", "--data", "FILE"], [".csv"], []),
    "csv": (["evaluate", "csv", "--model", "scenes", "--data", "FILE"], [".csv"], []),
    "features": (["evaluate", "features", "--model", "scenes", "--data", "FILE"], [""], []),
    "fit": (["fit", "FILE", "out"], [""], []),
    "validation": (["fit", "feat", "out", "--validation", "FILE", "--epochs", "1"], [""], []),
    "retain": (["fit", "feat", "out", "--retain", "FILE", "--epochs", "1"], [""], []),
    "fold": (["fold", "--model", "FILE", "out"], [""], []),
    "info": (["info", "FILE"], [""], []),
    "push": (["push", "FILE", "org/name"], [""], []),
    "alignment": (["transform", "texts.npy", "out.npy", "--alignment", "FILE"], [""], []),
    "images": (["embed", "--model", "scenes", "--captions", "plain.csv", "--images", "FILE", "out"], [""], ["folder"]),
}


@pytest.mark.parametrize("name", [slow(name) if name in ("embed", "images") else name for name in FILES])
def test_no_file_is_too_odd(here, hub, name):
    arguments, endings, without = FILES[name]
    good = {".npy": "texts.npy", ".pt": "matrix.pt", ".safetensors": "al/model.safetensors"}
    found = []
    for ending in endings:
        content = Path(good[ending]).read_bytes() if ending in good else CSV
        found += all_of(arguments, ending, content, without)
    assert not found


@pytest.mark.parametrize(
    "ending", [".json", ".csv", "", *(slow(one) for one in (".tsv", ".jsonl", ".txt", ".parquet", ".tar"))]
)
def test_no_file_is_too_odd_for_a_benchmark(here, ending):
    found = []
    for path, says in hostile(ending)[:-2]:
        for name in BENCHMARKS.keys() - {"scenes", "features"}:
            with alarm(20, Late):
                try:
                    BENCHMARKS[name].read(Sources(Path(path), None, "raise", "Get it there."))
                    found.append((name, path, "works"))
                except (ValueError, OSError) as error:
                    if isinstance(error, OSError) and error.filename is not None:
                        continue  # the system's own, which names the path
                    said = printable(str(error))
                    if not any(one in said for one in ((says,) if isinstance(says, str) else says)) or said[-1] != ".":
                        found.append((name, path, said))
                except (Exception, Late) as error:
                    found.append((name, path, repr(error)))
    assert not found


OUTS = {
    "folder": (["convert", "matrix.pt", "FILE"], ""),
    "embed": (["embed", "--model", "scenes", "--captions", "plain.csv", "FILE"], ""),
    "negatives": (["negatives", "plain.csv", "FILE", "--method", "swap", "--attributes", "red,blue"], ".csv"),
    "transform": (["transform", "texts.npy", "FILE", "--alignment", "al"], ".npy"),
    "markdown": ([*QUICK, "--markdown", "FILE"], ".md"),
    "html": (["fit", "feat", "out", "--epochs", "1", "--html", "FILE"], ".html"),
}


@pytest.mark.parametrize("name", OUTS)
def test_no_place_to_write_is_too_odd(here, name):
    """What is there is kept: without --force nothing of `bad` may be another afterwards."""
    arguments, ending = OUTS[name]
    # Where something may be made, and pipes, which wait for who reads.
    new = ["missing", "dangling", "dev", "zero", "nowhere", "~nobody", "\x1b", "fifo", " "]
    if name == "markdown":  # the result is shown before a socket proves to be none to write to
        new.append("socket")
    if not ending:
        new.append("folder")
    if name == "html":  # a fit's page is replaced
        new += [path for path, _ in hostile(ending) if path.startswith("bad/") and os.path.lexists(path)]
    assert not all_of(arguments, ending, without=new)


def test_what_is_an_input_is_never_an_output(here):
    os.symlink("plain.csv", "link.csv")
    os.symlink("texts.npy", "link.npy")
    os.makedirs("stored")
    shutil.copy("texts.npy", "stored/a.npy")
    shutil.copytree("feat", "copy")
    os.makedirs("foreign")
    Path("foreign/config.json").write_text('{"model_type": "clip"}')
    swap = ["--method", "swap", "--attributes", "red,blue"]
    cases = [
        (["negatives", "plain.csv", "plain.csv", *swap], "is the input itself"),
        (["negatives", "plain.csv", "link.csv", *swap], "is the input itself"),
        (["transform", "texts.npy", "./texts.npy", "--alignment", "al", "--force"], "is the input itself"),
        (["transform", "texts.npy", "link.npy", "--alignment", "al", "--force"], "is the input itself"),
        (["transform", "stored", "stored/", "--alignment", "al", "--force"], "is the input itself"),
        (["transform", "stored", ".", "--alignment", "al"], "is not empty"),
        (["transform", "texts.npy", "stored", "--alignment", "al"], "does not end in .npy"),
        (["transform", "stored", "texts.npy", "--alignment", "al", "--force"], "is a file"),
        (["fit", "feat", "feat", "--force"], "is an input"),
        (["fit", "feat", "ok/../feat", "--force"], "is an input"),
        (["fit", "feat", "al", "--validation", "al", "--force"], "is an input"),
        (["fit", "feat", "al", "--retain", "other=al", "--force"], "is an input"),
        (["fit", "feat", "copy", "--force"], "holds manifest.json, so this command did not write it"),
        (["fit", "feat", "foreign", "--force"], "this command did not write it"),
        (["fit", "feat", "ok", "--force"], "this command did not write it"),
        (["fit", "feat", "out", "--validation", "feat"], "Pass --validation of other images"),
        (["fit", "feat", "out", "--retain", "feat", "--retain", "feat"], "is named as another is"),
        (["fold", "--model", "whole", "whole", "--force"], "is an input"),
        (["fold", "--model", "scenes", "al", "--force"], "this command did not write it"),
        (["fold", "--model", "scenes", "feat", "--force"], "this command did not write it"),
        (["fold", "--model", "scenes", "ok", "--force"], "this command did not write it"),
        (["convert", "matrix.pt", "matrix.pt", "--force"], "is an input"),
        (["convert", "matrix.pt", "ok", "--force"], "this command did not write it"),
        (["convert", "matrix.pt", "al"], "is not empty"),
        (["embed", "--model", "scenes", "--captions", "plain.csv", "plain.csv"], "is a file"),
        (["embed", "--model", "scenes", "--captions", "plain.csv", "ok"], "is no feature folder"),
        (["embed", "--model", "scenes", "--captions", "plain.csv", "feat"], "has features already"),
        (["evaluate", "csv", "--model", "scenes", "--data", "plain.csv", "--items", "plain.csv", "--force"], "another"),
        ([*QUICK, "--markdown", "al/config.json"], "exists already"),
        ([*QUICK, "--out", "x.csv"], "is not named .html"),
        ([*QUICK, "--latex", "nowhere/x"], "mkdir -p"),
    ]
    assert not [one for arguments, says in cases for one in problems(*arguments, says=says)]


OPTIONS = {
    ("embed", "--model", "scenes", "--captions", "plain.csv", "out"): "batch-size workers device precision column "
    "image-column negative-column negative-images split on-error",
    ("fit", "feat", "out", "--epochs", "1"): "split recipe keep objective device learning-rate rank batch-size epochs "
    "hard-negatives logit-scale distill identity-penalty negative-weight seed",
    tuple(QUICK): "strength alignment data images on-missing batch-size workers device precision seed ties rows option",
    ("diagnose", "--model", "scenes"): "data images alignment strength folds scenes seed device",
    ("fold", "--model", "scenes", "out"): "alignment strength to",
    ("negatives", "plain.csv", "out.csv", "--method", "swap", "--attributes", "red,blue"): "k seed column image-column "
    "method tagger",
    ("transform", "texts.npy", "out.npy", "--alignment", "al"): "strength column engine alignment",
    ("convert", "matrix.pt", "out"): "base",
    ("demo",): "seed",
}
VALUES = ["nan", "inf", "1e400", "1e9", "abc", "😀", "\x1b[31m", "a" * 5000, ""]


@pytest.mark.parametrize("arguments", [slow(one) if one[0] == "embed" else one for one in OPTIONS], ids=" ".join)
def test_no_value_is_too_odd_for_an_option(here, hub, arguments):
    found = []
    for option in OPTIONS[arguments].split():
        for value in [*VALUES, *(["0", "-1", "1.5"] if option in ("batch-size", "workers", "k", "folds") else [])]:
            found += problems(*arguments, f"--{option}={value}")
    assert not found


def npy(shape, descr="<f4", body=b"", version=b"\x01\x00", more=""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body


def tensors(header, body=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def saved(array):
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def test_no_array_is_too_odd_to_be_aligned(here):
    rows = np.load("texts.npy")
    one = {"dtype": "F32", "shape": [5, 256], "data_offsets": [0, rows.nbytes]}
    spoilt = np.where(np.arange(5)[:, None] == 2, np.nan, rows).astype("f4")
    arrays = {
        "nan": (spoilt, "not finite"), "inf": (spoilt.astype("f2") * np.inf, "not finite"),
        "int": ((rows * 9).astype("i4"), "int32"), "complex": (rows.astype("c8"), "complex64"),
        "bool": (rows > 0, "bool"), "text": (rows.astype("S4"), "S4"), "object": (rows.astype(object), "object"),
        "half": (np.full((5, 256), 60000, "f2"), "too large for float16"),
        "single": (np.full((5, 256), 3e38, "f4"), "too large for float32"),
        "double": (np.full((5, 256), 1e300), "not finite"), "dim": (rows[:, :255], "dim 256"),
        "row": (rows[0], "[rows, dim]"), "deep": (rows[None], "[rows, dim]"), "number": (np.float32(3), "[rows, dim]"),
        "columns": (rows[:, :0], "dim 256"), "fortran": (np.asfortranarray(rows), "ascontiguousarray"),
        "long": (rows.astype("g"), "float128"), "record": (np.zeros(5, [("a", "f4", 256)]), "[rows, dim]"),
    }  # fmt: skip
    written = {f"{name}.npy": (saved(array), says) for name, (array, says) in arrays.items()}
    written |= {
        "huge.npy": (npy((10**12, 256)), "is cut off"), "negative.npy": (npy((-5, 256)), "[rows, dim]"),
        "wide.npy": (npy((5, 10**20)), ""), "true.npy": (npy((True, 256)), "[rows, dim]"),
        "float.npy": (npy((5.0, 256)), "not a whole NumPy file"), "code.npy": (npy("__import__('os')"), "not a whole"),
        "pickled.npy": (npy((5, 256), "|O"), "object"), "more.npy": (npy((5, 256), more="'x': 1"), "not a whole"),
        "version.npy": (npy((5, 256), version=b"\x09\x00"), "not a whole"), 
        "nested.npy": (npy("(" * 5000), "not a whole"),
        "long.safetensors": (tensors({}, size=2**63), "not a whole"), 
        "deep.safetensors": (tensors(b"[" * 10**5), "not"),
        "digits.safetensors": (tensors(b'{"x":' + b"1" * 5000 + b"}"), "not a whole"),
        "empty.safetensors": (tensors({}), "no tensor"), "list.safetensors": (tensors([1]), "not a whole"),
        "two.safetensors": (tensors({"x": one, "y": one}, rows.tobytes()), "--column x"),
    }  # fmt: skip
    for name, change in {
        "negative": {"data_offsets": [-4, rows.nbytes - 4]}, "beyond": {"data_offsets": [0, 9 * rows.nbytes]},
        "texts": {"data_offsets": ["0", "5120"]}, "floats": {"data_offsets": [0.0, 5120.0]}, 
        "three": {"data_offsets": [0, 1, 2]},
        "shape": {"shape": "ab"}, "true": {"shape": [True, 256]}, "minus": {"shape": [-5, -256]}, "kind": {"dtype": []},
        "bfloat": {"dtype": "BF16", "shape": [5, 512]}, "null": {"shape": None},
    }.items():  # fmt: skip
        written[f"{name}.safetensors"] = tensors({"x": one | change}, rows.tobytes()), ""
    found = []
    os.makedirs("arrays")
    for name, (content, says) in written.items():
        path = Path("arrays", name)
        path.write_bytes(content)
        found += problems("transform", path, f"out{path.suffix}", "--alignment", "al", says=says)
        found += [] if str(path) in run("transform", path, f"out{path.suffix}", "--alignment", "al").stderr else [path]
    assert not found
    found = problems(
        "transform", "texts.npy", "out.npy", "--alignment", "al", "--column", "x", says="Leave out --column"
    )
    assert not found


def image(kind, mode="RGB", size=(8, 8), **options):
    held = io.BytesIO()
    Image.new(mode, size, 128 if mode in ("L", "F", "I;16") else None).save(held, kind, **options)
    return held.getvalue()


@pytest.mark.filterwarnings("default")  # Pillow's, of damaged files
def test_no_image_is_too_odd(here):
    png, jpeg = image("PNG"), image("JPEG")
    images = {
        "empty": (b"", "not a whole image"), "page": (b"<html>404</html>", "not a whole image"),
        "cut": (png[:40], "not a whole image"), "cut.jpg": (jpeg[:300], "not a whole image"),
        "tiff": (b"II*\0\x08\0\0\0" + b"\xff" * 200, "not a whole image"), 
        "gif": (b"GIF89a" + b"\xff" * 90, "not a whole"),
        "zero": (png[:16] + bytes(8) + png[24:], "not a whole"), 
        "bomb": (image("PNG", "1", (20_000, 10_000)), "exceeds"),
        "webp": (b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 90, "not a whole"), 
        "eps": (b"%!PS-Adobe-3.0 EPSF", "not a whole"),
        "svg": (b"<svg/>", "is SVG"), "heic": (b"\0\0\0\x18ftypheic", "is HEIC"), "pdf": (b"%PDF-1.4", "is PDF"),
    }  # fmt: skip
    os.makedirs("bad", exist_ok=True)
    for name, (content, _) in images.items():
        Path("bad", name).write_bytes(content)
    says = {name: said for name, (_, said) in images.items()}
    hostile("")
    says |= {"fifo": "pipe or a device", "zero_device": "pipe or a device", "sparse": "no image has more",
             "folder": "", "loop": "", "missing": "", "dangling": "", "x" * 300: ""}  # fmt: skip
    os.symlink("/dev/zero", "bad/zero_device")
    found = []
    for name, said in says.items():
        Path("one.csv").write_text(f"image,caption,negative\nbad/{name},a red cube,a blue cube\n")
        found += problems("embed", "--model", "scenes", "--captions", "one.csv", "out", says=said)
        shutil.rmtree("out", ignore_errors=True)
        found += problems("evaluate", "csv", "--model", "scenes", "--data", "one.csv")
    assert not found


def test_images_of_every_mode_are_read_right(here):
    """The same image in every mode that holds its pixels gives the same embedding."""
    grey = Image.open("ok/0.png").convert("L")
    held = np.asarray(grey)
    ways = {
        "l.png": grey, "rgb.png": grey.convert("RGB"), "rgba.png": grey.convert("RGBA"), "la.png": grey.convert("LA"),
        "palette.gif": grey.convert("P"), "cmyk.tif": grey.convert("CMYK"),
        "sixteen.png": Image.fromarray(held.astype("u2") * 257),
    }  # fmt: skip
    for name, way in ways.items():
        way.save(name)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    grey.save("moving.png", save_all=True, append_images=[turned])
    names = [*ways, "turned.png", "moving.png"]
    Path("names.csv").write_text("image,caption\n" + "".join(f"{name},{name}\n" for name in names))
    assert run("embed", "--model", "scenes", "--captions", "names.csv", "out").exit_code == 0
    features = np.load("out/image_features.npy")
    assert {name: float(row) for name, row in zip(names, features @ features[0], strict=True) if row < 0.999} == {}


CAPTIONS = {
    "emoji": "😀 red 😀 blue", "right to left": "\u202eأحمر red blue", "combining": "re\u0301d blu\u0308e red blue",
    "control": "\x1b[31mred\x07 blue", "nul": "red\0 blue", "lines": "red cube\nblue ball", "quotes": "\"red\" 'blue'",
    "tokens": "<|endoftext|> red <|startoftext|> blue", "formula": "=cmd|red blue", 
    "markup": "<script>red</script> blue",
    "latex": r"\input{x} red & blue % $", "word": "red blue " + "r" * 300_000, "1 MB": "red blue " * 120_000,
    "spaces": " " * 200_000 + "red blue",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # some are cut
def test_any_text_is_a_caption(here):
    model = LABCLIP.from_pretrained("scenes")
    with open("any.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "negative"])
        for name, caption in CAPTIONS.items():
            rows.writerow(["ok/0.png", caption, f"not {name}"])
    with alarm(20, Late):
        assert run("embed", "--model", "scenes", "--captions", "any.csv", "out").exit_code == 0
        texts = torch.from_numpy(np.load("out/text_features.npy"))
        short = [caption if len(caption) < 1000 else " ".join(caption.split())[:500] for caption in CAPTIONS.values()]
        with pytest.warns(UserWarning, match="were cut"):
            direct = model.encode_text(short, normalize=True, aligned=False)
        assert torch.allclose(texts, direct, atol=UNIT)
        found = problems("evaluate", "csv", "--model", "scenes", "--data", "any.csv", works=True)
        for out in ("n.csv", "n.jsonl"):
            found += problems("negatives", "any.csv", out, "--method", "swap", "--attributes", "red,blue", works=True,
                              says="has a column 'negative' already")  # fmt: skip
    assert not found
    assert torch.equal(tokenize(model.tokenizer, [" " * 200_000 + "a red cube"]), model.tokenizer(["a red cube"]))


CONFIGS = [None, 3, -1, 1.5, "x", "", [], {}, True, float("nan"), 10**400, "\x1b[31m"]


def test_no_record_of_an_alignment_is_too_odd(here):
    """Whatever stands in a config, the alignment is refused in one line, or is the same matrix."""
    good = json.loads(Path("al/config.json").read_bytes())
    shutil.copytree("al", "copy")
    spoilt = [good | {key: value} for key in good for value in CONFIGS]
    spoilt += [good | {"base": good["base"] | {key: value}} for key in good["base"] for value in CONFIGS]
    spoilt += [good | {"metadata": good["metadata"] | {key: value}} for key in good["metadata"] for value in CONFIGS]
    spoilt += [{key: value for key, value in good.items() if key != lacking} for lacking in good]
    found = []
    for config in spoilt:
        Path("copy/config.json").write_text(json.dumps(config))
        found += problems("info", "copy", works=True)
    contents = [b"", b"{", b"[" * 100_000, b"[]", b" " * 70_000_000, json.dumps(good).encode("utf-16"), bytes(50)]
    for content in contents:
        Path("copy/config.json").write_bytes(content)
        for arguments in (["info", "copy"], ["fold", "--model", "copy", "out"]):
            found += problems(*arguments, says="copy/config.json" if arguments[0] == "info" else "copy")
    assert not found


@pytest.mark.parametrize("folder", ["al", "feat", slow("whole")])
def test_no_damage_to_a_folder_is_too_odd(here, folder):
    commands = {
        "al": [["info", "copy"], ["transform", "texts.npy", "out.npy", "--alignment", "copy"]],
        "feat": [["fit", "copy", "out", "--epochs", "1", "--anyway"], ["embed", "--verify", "copy"]],
        "whole": [["fold", "--model", "copy", "out", "--alignment", "scenes"]],
    }[folder]
    found = []
    for name in sorted(set(os.listdir(folder)) - {"README.md"}):
        for damage in ("gone", "empty", "nul", "half", "object", "flipped", "folder", "fifo", "loop"):
            shutil.copytree(folder, "copy")
            path = Path("copy", name)
            content = path.read_bytes()
            path.unlink()
            if damage in ("empty", "nul", "half", "object", "flipped"):
                middle = len(content) // 2
                flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
                written = {
                    "empty": b"",
                    "nul": bytes(99),
                    "half": content[:middle],
                    "object": b"{}",
                    "flipped": flipped,
                }
                path.write_bytes(written[damage])
            elif damage != "gone":
                {"folder": os.mkdir, "fifo": os.mkfifo, "loop": lambda one: os.symlink(one.name, one)}[damage](path)
            # A model opens without the alignment beside it, which another takes the place of.
            works = folder == "whole" and (
                name in ("config.json", "model.safetensors") or damage in ("gone", "folder", "fifo", "loop", "flipped")
            )
            for arguments in commands:
                found += problems(*arguments, works=works)
                shutil.rmtree("out", ignore_errors=True)
            shutil.rmtree("copy")
    assert not found


WRITERS = {
    "negatives": ["negatives", "plain.csv", "out.csv", "--method", "swap", "--attributes", "red,blue"],
    "transform": ["transform", "texts.npy", "out.npy", "--alignment", "al"],
    "convert": ["convert", "matrix.pt", "out"],
    "fold": ["fold", "--model", "scenes", "out"],
    "embed": ["embed", "--model", "scenes", "--captions", "ok/captions.csv", "out"],
    "fit": ["fit", "feat", "out", "--epochs", "1", "--anyway"],
    "evaluate": [*QUICK, "--no-cache", "--items", "out.csv"],
}


def left():
    """What a command left under a final name; a folder of features is none while its journal is in it."""
    if list(Path().glob("out/*unfinished*")):
        return set()
    return {
        path
        for path in tree()
        if path.startswith("./out") and not re.search("unfinished|[.]labclip-|[.]part$|out$", path)
    }


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
            sound = done.exit_code == 2 and said.count("\n") == 1 and "Traceback" not in said and "[Errno" not in said
            if (not sound or left()) and (done.exit_code or size < 1000):
                found.append((size, done.exit_code, said, left()))
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
    "ragged": [[1.0], [1.0, 2.0]],
    "objects": np.array([[None]]), "bytes": b"x", "mapping": {"a": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_no_argument_is_too_odd_in_python(here, name):
    value, model = BAD_ARRAYS[name], LABCLIP.from_pretrained("scenes")
    features = labclip.Features.load("feat")
    calls = {
        "alignment": lambda: model.alignment(value),
        "matrix": lambda: Alignment(value),
        "strength": lambda: model.alignment.at(value),
        "similarity": lambda: model.similarity(value, torch.ones(1, 256)),
        "encode_image": lambda: model.encode_image(value),
        "encode_text": lambda: model.encode_text(value),
        "from_pretrained": lambda: LABCLIP.from_pretrained(value),
        "embed": lambda: labclip.embed(value, "plain.csv", "out"),
        "fit": lambda: labclip.fit(value, progress=False),
        "epochs": lambda: labclip.fit(features, epochs=value, progress=False),
        "evaluate": lambda: labclip.evaluate(value, "scenes", options={"n": 4}, progress=False),
        "benchmark": lambda: labclip.evaluate(model, value, progress=False),
        "strengths": lambda: labclip.evaluate(model, "scenes", strengths=[value], options={"n": 4}, progress=False),
        "diagnose": lambda: labclip.diagnose(model, scenes=value, progress=False),
        "fold": lambda: labclip.fold(value),
        "transform": lambda: labclip.transform("texts.npy", "out.npy", value, progress=False),
        "scenes": lambda: scenes.sample(value),
    }
    fine = {
        ("encode_text", "words"), ("epochs", "none"), ("strength", "number"), ("strengths", "number"),
        ("from_pretrained", "words"), ("encode_image", "mapping"),  # which a tower of its own may take
        ("encode_text", "integers"),  # token ids
    }  # fmt: skip
    found = []
    for call, make in calls.items():
        if (call, name) in fine:
            continue
        try:
            found.append((call, "works", make()))
        except (ValueError, FileNotFoundError, DeprecationWarning) as error:
            if "--" in str(error):
                found.append((call, "names options", error))
        except Exception as error:
            found.append((call, repr(error)))
    assert not found
    assert not os.path.exists("out.npy")
