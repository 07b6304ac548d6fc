"""README and docs are true: snippets print what stands below them, pages are fresh, links lead somewhere."""

import contextlib
import doctest
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from close import UNIT
from safetensors.torch import load_file

import labclip
from labclip.io import folder as alignment_folder
from labclip.io.published import PUBLISHED
from labclip.scenes.vocabulary import COLOURS, SHAPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs" / "examples").glob("*.md"))
# A Python block, what it is marked with, and the text block below it if there is one.
SNIPPET = re.compile(r"(?:<!-- (network|slow|library) -->\n)?```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize("kind", ["", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_print_what_they_say(page, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for mark, code, expected in SNIPPET.findall(page.read_text()):
        program = compile(code, str(page), "exec")
        if mark == kind and (expected or not mark):
            assert printed(program) == expected


def printed(program):
    """What a snippet prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(program, {"__name__": "snippet"})
    return out.getvalue()


@pytest.mark.slow
def test_ten_lines_lead_from_a_table_to_a_saved_alignment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = SNIPPET.findall((ROOT / "docs" / "fit.md").read_text())
    ((_, code, _),) = [snippet for snippet in snippets if snippet[0] == "slow"]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 10
    names = {}
    exec(compile(code, "fit.md", "exec"), names)
    binding = names["report"]["csv"].metric("binding")
    assert binding.differences[0].low > 0.1
    assert labclip.Alignment.from_pretrained("my-alignment").dim == 256
    assert "Own table" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text())
    for target, anchor in [link for link in links if "://" not in link[0]]:
        path = page.parent / target if target else page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [
            re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings
        ], anchor


def test_generated_parts_are_fresh():
    specification = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    reference = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(reference)
    for page, text in reference.pages().items():
        assert page.read_text() == text, f"{page.name} is stale. Type: python docs/reference.py"


def test_help_is_what_a_terminal_of_80_columns_shows():
    shown = subprocess.run(
        [sys.executable, "-m", "labclip", "demo", "--help"], capture_output=True, text=True, check=True,
        env=os.environ | {"COLUMNS": "80"},
    ).stdout  # fmt: skip
    assert shown.partition("\n")[2] in (ROOT / "docs" / "command-line.md").read_text()


def test_sizes_are_those_of_the_files():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/embedded-model.md"))
    for entry in PUBLISHED:
        assert f"{entry.size / 1e6:.2f} MB" in readme
    weights = load_file(ROOT / "weights" / "scenes" / "open_clip_model.safetensors")
    table = weights.pop("token_embedding.weight")
    towers, known = sum(tensor.numel() for tensor in weights.values()), int((table != 0).any(dim=1).sum())
    sizes = f"{towers / 1e6:.1f} million parameters and a token table of {table.numel() / 1e6:.1f} million, "
    sizes += f"{(towers + table.numel()) / 1e6:.1f} million in all. The table is zero except for {known} tokens"
    assert sizes in " ".join(page.split())
    others = known - len(COLOURS) - len(SHAPES) - 3  # padding, start and end
    assert f"{others} other words" in (ROOT / "weights" / "scenes" / "README.md").read_text()


def test_tables_of_the_embedded_model_are_those_of_its_card():
    page, card = ((ROOT / name).read_text() for name in ("docs/embedded-model.md", "weights/scenes/README.md"))
    rows = [line for line in page.split("tables -->")[1].splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    assert set(rows) <= set(card.splitlines())


def test_readme_is_short_and_shows_code_early_and_the_newest_change_is_this_version():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    code = lines.index("```python")
    output = lines.index("```text", code)
    assert output < 25
    assert {"make demo", "make test"} <= {line.split("  #")[0].strip() for line in lines}
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == labclip.__version__


def test_the_site_has_every_public_name_and_page():
    text = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("api*.md")))
    documented = re.findall(r"^\.\. auto\w+:: (?:labclip\.)?(\S+)$", text, re.MULTILINE)
    documented += re.findall(r"^## labclip\.(\w+)$", text, re.MULTILINE)
    assert set(labclip.__all__) <= set(documented)
    listed = set(re.findall(r"^- \[.*?\]\((.+?)\)", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents}
    assert listed == pages - {"index.md"}


DOCSTRINGS = [
    "alignment", "model", "io.opening", "data.cleaning", "data.items", "features.encoder", "features.embedding",
    "features.features", *(f"negatives.{name}" for name in
    ("taggers", "swapping", "shuffling", "choosing", "files", "phrases")), "analysis.probes", "analysis.scenes",
    "analysis.space", "evaluation.evaluate", "evaluation.sources", "report.reported", "report.values",
    pytest.param("analysis.diagnosis", marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("module", DOCSTRINGS)
def test_docstring_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"Alignment": labclip.Alignment, "LABCLIP": labclip.LABCLIP, "Path": Path}
    failed, tried = doctest.testmod(importlib.import_module(f"labclip.{module}"), extraglobs=names)
    assert tried > 0
    assert failed == 0


SCHEMA = json.loads((ROOT / "docs" / "alignment-folder.schema.json").read_text())


def test_the_schema_has_the_keys_that_labclip_reads():
    assert set(SCHEMA["properties"]) == alignment_folder._REQUIRED | alignment_folder._OPTIONAL
    assert set(SCHEMA["required"]) == alignment_folder._REQUIRED
    assert SCHEMA["properties"]["format_version"]["const"] == alignment_folder.FORMAT_VERSION


def test_what_labclip_saves_follows_the_schema(tmp_path):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(SCHEMA)
    validator.check_schema(SCHEMA)
    base = labclip.Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=2)
    metadata = {"results": {"csv": {"base": {"binding": 0.5}, "labclip": {"binding": 0.9}}}}
    labclip.Alignment.identity(2).save_pretrained(tmp_path / "least")
    labclip.Alignment(
        torch.eye(2), base=base, logit_scale=4.0, strength=0.5, metadata=metadata, fingerprint=torch.tensor([1.0, 0.0])
    ).save_pretrained(tmp_path / "all")
    for folder in (tmp_path / "least", tmp_path / "all", ROOT / "weights" / "scenes"):
        config = json.loads((folder / "config.json").read_text())
        validator.validate(config)
        for wrong in ({"format_version": 2}, {"dim": 0}, {"matrix_sha256": "00"}, {"base": {"model": "ViT-B-32"}}):
            assert not validator.is_valid(config | wrong), wrong
        assert not validator.is_valid({key: value for key, value in config.items() if key != "base"})


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_a_reader_in_another_language_agrees(tmp_path):
    alignment = labclip.Alignment.from_pretrained("scenes")
    alignment.save_pretrained(tmp_path)
    text = np.random.default_rng(0).standard_normal(alignment.dim)
    text /= np.linalg.norm(text)
    command = ["node", ROOT / "docs" / "examples" / "reader.mjs", tmp_path]
    done = subprocess.run(command, input=json.dumps(text.tolist()), capture_output=True, text=True, check=True)
    assert np.abs(json.loads(done.stdout) - alignment(text)).max() < UNIT
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    done = subprocess.run(command, input="[]", capture_output=True, text=True)
    assert done.returncode != 0
    assert "not the matrix of the config" in done.stderr
