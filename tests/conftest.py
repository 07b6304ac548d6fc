"""What every test stands on: no network but loopback, a cache of its own, one thread, the same examples, no traces."""

import copy
import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings
from standin import hub, hub_client, loopback_only  # noqa: F401

from labclip import LABCLIP

torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))  # the models are tiny

# A busy machine must not fail a test, nor a new random example somebody else's change.
# Search for new examples with: pytest --hypothesis-profile=explore
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("suite")


def _state():
    """What a process has one of, and later tests take as it is."""
    return {
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "the working directory": os.getcwd(),
        "the handlers of signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
    }


@pytest.fixture(autouse=True)
def no_traces():
    """Fails a test that leaves the process changed, and puts back what can be."""
    before = _state()
    yield
    after = _state()
    torch.set_grad_enabled(before["grad mode"])
    torch.set_default_dtype(before["the default dtype"])
    torch.set_num_threads(before["the number of threads"])
    os.chdir(before["the working directory"])
    for number, handler in before["the handlers of signals"].items():
        if handler != after["the handlers of signals"][number]:
            signal.signal(number, handler)
    changed = [f"{name} ({before[name]} -> {after[name]})" for name in before if before[name] != after[name]]
    assert not changed, f"This test leaves changed: {', '.join(changed)}"


@pytest.fixture(autouse=True)
def own_cache(no_traces, monkeypatch, tmp_path_factory):
    """Embeddings are taken from a cache of this process, never from the user's, which other code has filled."""
    monkeypatch.setenv("LABCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def embedded():
    """The embedded model, which no test changes."""
    return LABCLIP.from_pretrained("scenes")


@pytest.fixture
def model(embedded):
    """A copy of it, for this test alone."""
    return copy.deepcopy(embedded)
