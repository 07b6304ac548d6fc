"""The suite's own promise: tolerances are of sums at least as long as those of its models."""

import close
import models
import pytest

from labclip import LABCLIP


@pytest.mark.parametrize("kind", ["scenes", *models.KINDS])
def test_no_model_of_the_tests_has_longer_sums_than_tolerances_allow_for(kind):
    model = LABCLIP.from_pretrained("scenes") if kind == "scenes" else models.make(kind)
    sums = {name: weight[0].numel() for name, weight in model.named_parameters() if weight.ndim > 1}
    assert sum(terms for name, terms in sums.items() if "text_decoder" not in name) <= close.MOST
