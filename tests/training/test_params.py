"""Combinations of values in the `train` section. Single values are in test_module.py."""

import pytest

from tiny_lm.io.params import load_params
from tiny_lm.training.params import TrainParams

PORTABLE = {"portable": True, "precision": "32", "accelerator": "cpu"}


@pytest.mark.parametrize(
    "change", [{"precision": "bf16-mixed"}, {"accelerator": "auto"}, {"accelerator": "cuda"}, {"compile": True}]
)
def test_portable_needs_plain_arithmetic(change: dict[str, object]) -> None:
    assert load_params("train", PORTABLE, TrainParams).portable
    allowed = "^train.portable = True: must be false, or true with precision 32, accelerator cpu, compile false$"
    with pytest.raises(ValueError, match=allowed):
        load_params("train", PORTABLE | change, TrainParams)
