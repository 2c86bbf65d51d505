"""Combinations of values in the `evaluate` section."""

import pytest

from tiny_lm.evaluation.params import EvaluateParams
from tiny_lm.io.params import load_params

PORTABLE = {"portable": True, "precision": "32", "accelerator": "cpu"}


@pytest.mark.parametrize("change", [{"precision": "bf16-mixed"}, {"accelerator": "auto"}, {"accelerator": "cuda"}])
def test_portable_needs_plain_arithmetic(change: dict[str, object]) -> None:
    assert load_params("evaluate", PORTABLE, EvaluateParams).portable
    allowed = "^evaluate.portable = True: must be false, or true with precision 32 and accelerator cpu$"
    with pytest.raises(ValueError, match=allowed):
        load_params("evaluate", PORTABLE | change, EvaluateParams)
