"""What every test stands on: no network beyond loopback, a cache of its own, one thread, and the same examples."""

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


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Embeddings are taken from a cache of this process, never from the user's, which other code has filled."""
    monkeypatch.setenv("LABCLIP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def model():
    """The embedded model, for this test alone."""
    return LABCLIP.from_pretrained("scenes")
