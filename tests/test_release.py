"""What the release stands on agrees with itself: workflows, metadata, citation; the version stands in one place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import labclip

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
# The version also stands in these: in the list of changes, and as the version that measured something.
RECORDS = ("CHANGELOG.md", "docs/", "benchmarks/", "weights/scenes/")


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_versions_of_python_that_are_claimed_are_those_that_are_tested(project):
    matrix = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    claimed = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    assert matrix["python"] == claimed
    assert {os.partition("-")[0] for os in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert project["requires-python"] == f">={claimed[0]}"
    (floors,) = [
        step["with"]["python-version"] for step in WORKFLOWS["tests"]["jobs"]["floors"]["steps"] if "with" in step
    ]
    assert floors == claimed[0]


def test_workflows_may_only_read_unless_they_publish():
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {"contents": "read"}
    allowed = {
        (name, job): steps["permissions"]
        for name, workflow in WORKFLOWS.items()
        for job, steps in workflow["jobs"].items()
        if "permissions" in steps
    }
    assert allowed == {
        ("publish", "publish"): {"id-token": "write"},
        ("docs", "deploy"): {"pages": "write", "id-token": "write"},
    }
    for name, job in allowed:
        assert WORKFLOWS[name]["jobs"][job]["environment"]["name"]


def test_actions_are_pinned_and_the_one_that_publishes_gets_no_secret():
    for workflow in WORKFLOWS.values():
        for step in steps_of(workflow):
            assert "run" in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+\.\d+)?", step["uses"])
    texts = {path.stem: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}
    assert [name for name in texts if "secrets." in texts[name]] == ["hub"]
    # What a person types must not become a part of a command.
    assert not re.findall(r"run:.*\$\{\{", "".join(texts.values()))


def test_a_tag_that_is_not_the_version_publishes_nothing(monkeypatch):
    (command,) = [step["run"] for step in steps_of(WORKFLOWS["publish"]) if [*step.get("env", {})] == ["TAG"]]
    for tag, code in ((f"v{labclip.__version__}", 0), (labclip.__version__, 1), ("v99", 1)):
        monkeypatch.setenv("TAG", tag)
        done = subprocess.run(command.replace("python", sys.executable, 1), shell=True, cwd=ROOT, capture_output=True)
        assert done.returncode == code


def test_the_version_stands_in_one_place():
    if not (ROOT / ".git").exists():
        pytest.skip("no repository")
    command = ["git", "grep", "-lF", labclip.__version__]
    files = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    own = [name for name in files if not name.startswith((*RECORDS, "tests/"))]
    assert own == ["labclip/_version.py"]


def test_the_paper_is_cited_as_the_readme_cites_it():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    readme = (ROOT / "README.md").read_text()
    (title,) = re.findall(r"^  title = \{(.*)\},$", readme, re.MULTILINE)
    (authors,) = re.findall(r"author = \{(.*?)\}", readme)
    assert paper["title"] == re.sub("[{}]", "", title)
    assert [f"{who['family-names']}, {who['given-names']}" for who in paper["authors"]] == authors.split(" and ")
    assert paper["identifiers"][0]["value"] in readme
    assert citation["title"] == "labclip"
    assert "paper" in citation["message"]


def test_extras_that_messages_and_pages_name_exist(project):
    files = [*(ROOT / "labclip").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    named = {name for path in files for name in re.findall(r"labclip\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert {"eval", "negatives", "data"} <= named <= set(project["optional-dependencies"])


def test_a_release_has_absolute_links_and_the_addresses_of_the_project(tmp_path):
    tomllib = pytest.importorskip("tomllib")
    for name in ("README.md", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    address = "https://github.com/org/labclip"
    subprocess.run([sys.executable, ROOT / ".github/addresses.py", address, "v1.2.3"], cwd=tmp_path, check=True)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    links = re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', text)
    assert f"{address}/raw/v1.2.3/docs/labclip-demo.png" in {picture for _, picture in links}
    assert all("".join(link).startswith("https://") for link in links)
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Source"] == address
