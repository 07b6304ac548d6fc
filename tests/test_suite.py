"""The suite's own promises: a test that changes the process, or hangs, is named, and the next one is not its victim."""

import os
import re
import subprocess
import sys
from pathlib import Path

import close
import models
import pytest

from labclip import LABCLIP

TESTS = Path(__file__).parent
SUITE = """
import os, signal, threading, torch
def test_grad(): torch.set_grad_enabled(False)
def test_dtype(): torch.set_default_dtype(torch.float64)
def test_threads(): torch.set_num_threads(torch.get_num_threads() + 1)
def test_folder(tmp_path): os.chdir(tmp_path)
def test_handler(): signal.signal(signal.SIGINT, signal.SIG_IGN)
def test_sound(): assert torch.ones(1, requires_grad=True).double().requires_grad
def test_hang(): threading.Event().wait()
"""


@pytest.mark.slow
def test_a_test_that_leaves_something_changed_or_hangs_is_named(tmp_path):
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(SUITE)
    configuration = ["-c", str(TESTS.parent / "pyproject.toml"), "-o", "faulthandler_timeout=5", "--rootdir", "."]
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *configuration, "-vv", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert sorted(re.findall(r"::test_(\w+) ERROR", done.stdout)) == ["dtype", "folder", "grad", "handler", "threads"]
    assert re.findall(r"::test_(\w+) PASSED", done.stdout)[-1] == "sound"
    assert done.returncode
    assert re.search(r'File ".*test_it\.py", line \d+ in test_hang', done.stderr)


@pytest.mark.parametrize("kind", ["scenes", *models.KINDS])
def test_no_model_of_the_tests_has_longer_sums_than_tolerances_allow_for(kind):
    model = LABCLIP.from_pretrained("scenes") if kind == "scenes" else models.make(kind)
    sums = {name: weight[0].numel() for name, weight in model.named_parameters() if weight.ndim > 1}
    assert sum(terms for name, terms in sums.items() if "text_decoder" not in name) <= close.MOST
