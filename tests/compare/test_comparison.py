"""What is compared with what; the statistics are tested in test_statistics.py, the whole in tests/tools/."""

from typing import Any

import numpy as np
import pytest

from tiny_lm.compare.comparison import CORPUS, LOSSES, Run, compare_runs


def run(rev: str, corpus: str, **params: Any) -> Run:
    bits = np.random.default_rng(len(corpus)).uniform(1, 2, 12)
    lengths = np.full((12, 2), 100.0)
    values = {key.replace("_", ".", 1): value for key, value in params.items()}
    return Run(
        rev,
        {"train.seed": 1, **values},
        {"code.py": "0"},
        {CORPUS: corpus, LOSSES: rev, "models/tokenizer": "0"},
        lengths,
        bits,
        None,
    )


@pytest.mark.parametrize(
    ("params", "name", "files"),
    [
        ({}, "other data/corpus", ["data/corpus"]),  # read again from the Hub, where it has changed
        ({"dataset_documents": 9}, "dataset.documents=9", []),
        ({"model_d_ff": 9}, "model.d_ff=9, other data/corpus", ["data/corpus"]),
    ],
)
def test_another_corpus_is_a_difference_unless_its_params_say_so(
    params: dict[str, Any], name: str, files: list[str]
) -> None:
    (variant,) = compare_runs([run("a", "0"), run("b", "11", **params)], 0.95).variants
    assert (variant.name, variant.files) == (name, files)
