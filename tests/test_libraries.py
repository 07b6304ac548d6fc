"""Each library of docs/libraries.md finds what labclip finds on one index, with the base and with the matrix folded in."""

import copy
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment

ROOT = Path(__file__).parent.parent
HARNESS = runpy.run_path(str(ROOT / "benchmarks" / "in_libraries.py"))
LIBRARIES = [library for library in HARNESS["LIBRARIES"] if library.installed]
pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]  # other people's warnings


@pytest.fixture(scope="module")
def index():
    return HARNESS["make_index"]()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("folders")
    HARNESS["write_folders"](folder)
    return folder


@pytest.fixture(scope="module")
def expected(index):
    """Unit-length embeddings of the captions by labclip itself."""
    models = {side: LABCLIP.from_pretrained("scenes", strength=at) for side, at in HARNESS["SIDES"].items()}
    return {side: model.encode_text(index.captions, normalize=True) for side, model in models.items()}


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.title)
def test_a_library_finds_what_labclip_finds(library, index, folders, expected, capsys):
    if not HARNESS["installed"](library.package):
        pytest.skip(f"{library.package} is not installed")
    figures = {}
    for side, texts in expected.items():
        found, _seconds = HARNESS["call"](library, index, folders, side)
        figures[side] = HARNESS["recall"](found, index)
        assert figures[side] == pytest.approx(HARNESS["recall"](texts, index), abs=1e-7)
        if (theirs := HARNESS["unit"](found)) is not None:
            assert float((theirs - texts).abs().max()) < 2e-6
    assert figures["aligned"] > figures["base"] + 0.2
    with capsys.disabled():
        print(f"\n{library.title}: base {figures['base']:.3f}, aligned {figures['aligned']:.3f}")


def openclip_of(module, name, attribute, *arguments, **options):
    """How a class of another library holds an OpenCLIP model."""

    def load(folder):
        made = getattr(pytest.importorskip(module), name)(*(one.format(folder) for one in arguments), **options)
        return getattr(made, attribute)

    return load
