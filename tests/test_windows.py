"""What is different on Windows, simulated on any system: paths, open files, consoles with few characters, line ends."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from click.testing import CliRunner

from labclip import LABCLIP, Alignment, Features, cli
from labclip.evaluation.sources import Sources, leads_out


def held():
    """The files that this process has open or mapped."""
    open_files = [os.readlink(file.path) for file in os.scandir("/proc/self/fd") if os.path.exists(file.path)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return {*open_files, *(line.split(maxsplit=5)[5] for line in maps if "/" in line)}


OWN_FUNCTIONS = pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib has functions of its own before")


@pytest.fixture
def open_files_stay(monkeypatch):
    """A file that is open or mapped can't be removed, replaced or renamed."""
    if not os.path.exists("/proc/self/maps"):
        pytest.skip("needs Linux's list of open files")

    def refuse_held(name):
        real = getattr(os, name)

        def call(*paths, **folders):
            inside = os.readlink(f"/proc/self/fd/{folders['dir_fd']}") if folders.get("dir_fd") else ""
            for path in paths:
                if os.path.realpath(os.path.join(inside, path)) in held():
                    raise PermissionError(13, "used by another process", os.fspath(path))
            return real(*paths, **folders)

        return call

    for name in ("replace", "rename", "unlink", "remove"):
        monkeypatch.setattr(os, name, refuse_held(name))


def test_what_was_loaded_from_a_folder_is_saved_into_it_again(open_files_stay, tmp_path):
    LABCLIP.from_pretrained("scenes").save_pretrained(tmp_path / "model")
    model = LABCLIP.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    alignment = Alignment.from_pretrained(tmp_path / "model")
    alignment.save_pretrained(tmp_path / "model")
    assert LABCLIP.from_pretrained(tmp_path / "model").encode_text("a red cube").shape == (1, 256)


OUT = ["/etc/passwd", "\\secret.png", "D:secret.png", "\\\\server\\share\\a.png", "..\\a.png", "a/../../b.png", ".", ""]
INSIDE = ["a.png", "train\\a.png", "train/a.png", "C:a.png", "C:\\images\\a.png", "c:/IMAGES/a.png"]


@pytest.mark.parametrize("name", OUT + INSIDE)
def test_a_name_in_a_table_does_not_lead_out_of_the_folder(name):
    assert leads_out(PureWindowsPath("C:/images"), name) == (name in OUT)


def test_a_relative_folder_takes_absolute_names_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/a.png").touch()
    sources = Sources(None, Path("images"))
    assert sources.image(str(tmp_path / "images" / "a.png"), "row 1") == 0
    with pytest.raises(ValueError, match="leads out of images"):
        sources.image(str(tmp_path / "a.png"), "row 1")


@pytest.mark.parametrize("encoding", ["cp1252", "cp437"])
def test_a_console_that_knows_few_characters_shows_the_others_escaped(encoding, tmp_path):
    text = "R² of 物 is 3 → 4"
    Alignment(np.eye(2), metadata={"data": text}).save_pretrained(tmp_path)
    done = CliRunner(charset=encoding).invoke(cli.main, ["info", str(tmp_path)])
    assert done.exit_code == 0
    assert f"- Data: {text.encode(encoding, 'backslashreplace').decode(encoding)}\n" in done.stdout


def test_a_command_runs_where_files_are_written_in_a_code_page(tmp_path):
    (tmp_path / "c.csv").write_text("caption\n物 red cube and a blue sphere → so\n", encoding="utf-8")
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "PYTHONPATH": path}
    arguments = ["negatives", "c.csv", "out.csv", "--method", "swap", "--attributes", "a.txt"]
    command = [sys.executable, "-m", "labclip", *arguments]
    (tmp_path / "a.txt").write_text("red\nblue\n", encoding="utf-8")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["negative"] == "物 blue cube and a red sphere → so"


@OWN_FUNCTIONS
def test_folders_have_the_same_bytes_on_every_system(tmp_path, monkeypatch):
    real = io.open

    def on_windows(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        newline = "\r\n" if newline is None and mode in ("w", "x", "a") else newline
        return real(file, mode, buffering, encoding, errors, newline, **more)

    monkeypatch.setattr(io, "open", on_windows)
    (tmp_path / "file.txt").write_text("1\n")
    assert (tmp_path / "file.txt").read_bytes() == b"1\r\n"
    LABCLIP.from_pretrained("scenes").save_pretrained(tmp_path / "model")
    Features.from_arrays(images=np.eye(2), texts=np.eye(2)).save(tmp_path / "features")
    texts = [path for path in (tmp_path / "model").iterdir() if path.suffix in (".json", ".md")]
    for path in (*texts, tmp_path / "features" / "manifest.json"):
        assert b"\r" not in path.read_bytes(), path.name
