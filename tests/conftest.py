"""What every test stands on: no network beyond loopback, and one thread, since the models are tiny."""

import torch
from standin import hub, hub_client, loopback_only  # noqa: F401

torch.set_num_threads(1)
