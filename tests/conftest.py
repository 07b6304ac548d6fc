"""What every test stands on: no network beyond loopback, a cache of its own, one thread, and the same examples."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, settings
from standin import hub, hub_client, loopback_only  # noqa: F401

from labclip import LABCLIP

torch.set_num_threads(1)  # the models are tiny

# A busy machine must not fail a test, nor a new random example somebody else's change.
# Search for new examples with: pytest --hypothesis-profile=explore
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("suite")

_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Embeddings are never taken from the user's cache, which other code has filled, or another process is filling."""
    monkeypatch.setenv("LABCLIP_CACHE", str(tmp_path_factory.getbasetemp() / f"cache-{next(_NUMBERS)}"))


@pytest.fixture
def model():
    """The embedded model, for this test alone."""
    return LABCLIP.from_pretrained("scenes")
