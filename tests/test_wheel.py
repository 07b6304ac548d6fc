"""What `make wheel` built: whole, small, nothing else in it; the wheel works on its own, with the network refused."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import labclip

ROOT = Path(__file__).parents[1]
DIST, ENVIRONMENT = ROOT / "dist", ROOT / ".venv-wheel"
REFUSE = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"the network was asked for: {event} {arguments}")

sys.addaudithook(refuse)
"""

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def wheel():
    (path,) = DIST.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist():
    (path,) = DIST.glob("*.tar.gz")
    return tarfile.open(path)


@pytest.fixture
def alone(tmp_path):
    """Runs a program of the wheel's own environment in an empty folder; any use of the network ends it."""
    (tmp_path / "refuse").mkdir()
    (tmp_path / "refuse" / "sitecustomize.py").write_text(REFUSE)
    folder = tmp_path / "empty"
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "OMP_NUM_THREADS") if name in os.environ}
    environment = {**kept, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path / "refuse")}

    def run(program, *arguments, code=0):
        command = [ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin") / program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=folder, env=environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    run.folder = folder
    return run


def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(listed.stdout.splitlines())


def test_the_wheel_has_the_package_and_the_embedded_model_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {name for name in tracked() if name.startswith("labclip/")}
    embedded = {f"labclip/{name}" for name in tracked() if name.startswith("weights/scenes/")}
    assert names == package | embedded
    assert os.path.getsize(wheel.filename) < 6e6


def test_the_sdist_has_only_what_the_repository_has(sdist):
    names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names - tracked() == {"PKG-INFO"}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "SECURITY.md", "tests/conftest.py", "Makefile"}
    assert needed | {"weights/scenes/model.safetensors", "benchmarks/results.py", "docs/index.md"} <= names


def test_the_wheel_is_the_one_that_the_checkout_gives(wheel, tmp_path):
    # dist holds the one that was built from the sdist.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (other,) = tmp_path.glob("*.whl")

    def content(archive):
        own = (name for name in archive.namelist() if ".dist-info/" not in name)
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in own}

    assert content(zipfile.ZipFile(other)) == content(wheel)


def test_the_metadata_is_whole(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    head, _, page = wheel.read(name).decode().partition("\n\n")
    assert f"\nVersion: {labclip.__version__}\n" in head
    assert "\nLicense-Expression: MIT\n" in head
    assert page == (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_the_wheel_that_runs(alone):
    where = alone("python", "-c", "import labclip; print(labclip.__file__)").stdout.strip()
    assert Path(where).is_relative_to(ENVIRONMENT)
    assert alone("labclip", "--version").stdout.split()[-1] == labclip.__version__
    asked = "import urllib.request; urllib.request.urlopen('https://pypi.org')"
    assert "the network was asked for" in alone("python", "-c", asked, code=1).stderr


def test_the_demo_runs_and_draws(alone):
    done = alone("labclip", "demo")
    assert "Figure: labclip-demo.png" in done.stdout
    assert (alone.folder / "labclip-demo.png").stat().st_size > 10_000


def test_the_quickstart_prints_what_the_readme_says(alone):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    code, expected = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    (alone.folder / "quickstart.py").write_text(code)
    assert alone("python", "quickstart.py").stdout == expected


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["negatives", "captions.csv", "out.csv", "--method", "shuffle"], 'Type: pip install "labclip[negatives]"'),
        (["embed", "-q", "--model", "scenes", "--captions", "captions.parquet", "out"], 'pip install "labclip[data]"'),
        (["diagnose", "--model", "scenes", "--out", "report.html"], 'Type: pip install "labclip[eval]"'),
    ],
)
def test_a_package_of_an_extra_is_asked_for_by_name(alone, command, message):
    (alone.folder / "captions.csv").write_text("image,caption\n1.png,a red cube and a blue sphere\n")
    (alone.folder / "captions.parquet").write_bytes(b"PAR1")
    done = alone("labclip", *command, code=2)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
