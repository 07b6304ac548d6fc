"""The front door: public names load, lazily, and a type checker knows them."""

import subprocess
import sys
from pathlib import Path

import pytest

import labclip

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "LABCLIP", "Alignment", "Base", "Features", "embed", "fit", "evaluate", "diagnose", "fold", "transform",
    "compose", "create_model_and_transforms", "get_tokenizer", "list_pretrained",
    "metrics", "training", "negatives", "scenes", "analysis", "evaluation", "features",
}  # fmt: skip
MISTAKES = """
import torch

import labclip
from labclip import LABCLIP, Alignment, Features, fit

model = LABCLIP.from_pretrained("scenes", strenght=1)
fit(3)
texts: torch.Tensor = model.encode_text("a red cube")
alignment: Alignment = model.alignment
features: Features = labclip.features.Features.load("features")
"""


def test_all_is_what_imports():
    assert set(labclip.__all__) == PUBLIC
    assert len(labclip.__all__) == len(PUBLIC)
    for name in labclip.__all__:
        assert getattr(labclip, name).__name__.rpartition(".")[2] == name
    assert set(dir(labclip)) == PUBLIC | {"__version__"}


def test_import_is_light():
    code = "import sys, labclip; print([name for name in ('torch', 'numpy', 'open_clip') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_type_checker_finds_the_mistakes_of_a_user(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(MISTAKES)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", ROOT / ".mypy_cache"]
    done = subprocess.run([sys.executable, "-m", "mypy", *options, script], capture_output=True, text=True, cwd=ROOT)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert "script.py:7" in errors[0]
    assert "strenght" in errors[0]
    assert "script.py:8" in errors[1]
    assert '"fit"' in errors[1]
