"""How far two results of the same sums may lie apart in float32: from arithmetic, not from the machine of the day.

Rounding errors of a sum are independent to good approximation, so that they grow with the root of its length (Higham
and Mary 2019, doi:10.1137/18M1226312). Four standard deviations of that, each of float32's resolution, are allowed; the
order of a sum, fused products and the width of a register move a result by less, a fault in the code by far more.
"""

import math

import numpy as np
import torch


def rounding(terms, size=1.0, dtype="float32"):
    """The allowance of a sum of `terms` products, or of sums one after another with as many together.

    `size` is what the absolute products add up to: for vectors, by Cauchy and Schwarz, the product of their lengths.
    """
    return 4 * float(np.finfo(dtype).eps) * math.sqrt(terms) * float(size)


MOST = 9_000
"""Terms of all sums on the way through a model of the tests; test_towers.py counts them."""

UNIT = rounding(MOST)
"""The allowance of its unit-length embeddings."""


def assert_close(actual, expected, allowance=UNIT):
    """Equal up to an allowance for unit length, times the length of the longest row expected."""
    actual, expected = (torch.as_tensor(value).detach().float() for value in (actual, expected))
    size = float(expected.norm(dim=-1).max() if expected.ndim else expected.abs())
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowance * size)
