"""benchmarks/learning.py: its plain loop is the train stage, and it finds the best learning rate of a peer."""

import itertools
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tiny_lm.model.checkpoint import stored
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.stories.generator import story
from tiny_lm.tools.plan import LAW, Law
from tiny_lm.training.dataset import BinTokenDataset
from tiny_lm.training.params import TrainParams


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


def test_our_contender_learns_the_weights_of_the_train_stage(train, shards, monkeypatch):
    import contenders

    stage = train("a", model=asdict(Llama3Params()), **asdict(TrainParams(threads=1, steps=3)))
    torch.manual_seed(contenders.SEED)
    ours = contenders.Ours(contenders.Run(contender="ours", shards=str(shards), seconds=3), 260)
    assert ours.prepared > 0  # counting bigrams is part of its time
    ours.prepared = 0.0
    ticks = itertools.count()
    monkeypatch.setattr(contenders.time, "process_time", lambda: float(next(ticks)))  # a second for each step
    windows = BinTokenDataset(contenders.TokenStream(shards, "train"), ours.context_length, None)
    assert contenders.train(ours, windows, 3) == (3, 3.0)
    expected = load(stage.weights)
    assert expected.keys() == stored(ours.model).keys()
    for name, tensor in stored(ours.model).items():
        assert torch.equal(tensor, expected[name]), name


def test_the_fit_of_a_law_needs_no_more_than_a_scale_and_a_lowest_value_for_each_text():
    from shapes import Result, errors

    law = Law(size=0.3, data=0.5, data_weight=20.0, read_again=2.0)
    results = [
        Result(text, length, 0, 0, size, tokens, 0.0, lowest + scale * law.loss(size, tokens, length))
        for text, length, lowest, scale in (("a", 10**6, 0.8, 9.0), ("b", 10**5, 1.9, 3.0))
        for size in (10**5, 10**6)
        for tokens in (10**5, 10**6)
    ]
    assert errors(law, results) == pytest.approx(0.0, abs=1e-9)
    assert abs(errors(LAW, results)).max() > 1e-4


@pytest.mark.parametrize(
    ("bits", "lowest", "rates", "tried"),
    [
        ({2: 3.0, 3: 2.0, 4: 2.5, 5: 4.0}, 2, 4, [2, 3, 4, 5]),
        ({0: 4.0, 1: 3.0, 2: 2.0, 3: 1.5, 4: 1.7}, 0, 3, [0, 1, 2, 3, 4]),
        ({-1: 2.0, 0: 1.5, 1: float("inf")}, 0, 2, [0, 1, -1]),
        ({0: 2.0}, 2, 1, [0]),
    ],
    ids=["inside", "the highest is the best", "the lowest is the best", "only the default"],
)
def test_learning_rates_are_tried_until_the_best_has_worse_neighbors(bits, lowest, rates, tried):
    from learning import next_exponent

    results = {}
    while (exponent := next_exponent(results, lowest, rates)) is not None:
        results[exponent] = bits[exponent]
    assert list(results) == tried


BIGRAMS = """
import torch
from torch import nn

class GPTConfig(dict):
    pass

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.next = nn.Embedding(config["vocab_size"], config["vocab_size"])

    def forward(self, x, y):
        return self.next(x), nn.functional.cross_entropy(self.next(x).flatten(0, 1), y.flatten())

    def configure_optimizers(self, weight_decay, rate, betas, device):
        return torch.optim.AdamW(self.parameters(), rate, betas, weight_decay=weight_decay)
"""


def test_a_race_reports_bits_per_byte_of_each_contender(tmp_path, monkeypatch, capsys):
    import learning

    (tmp_path / "model.py").write_text(BIGRAMS)  # a checkout of nanoGPT
    (tmp_path / "text.txt").write_text("\n==\n".join(story(0, i) for i in range(60)))
    arguments = "--separator \n==\n --vocab-size 400 --seconds 0.3 --rates 1 --contenders ours,nanogpt,nanochat"
    files = {"--text": "text.txt", "--nanogpt": ".", "--json": "race.json"}
    words = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    monkeypatch.setattr(sys, "argv", ["learning.py", *arguments.split(" "), *words])
    learning.main()
    (race,) = json.loads((tmp_path / "race.json").read_text())
    assert [result["contender"] for result in race["best"]] == ["ours", "nanogpt"]
    for result, tokens in zip(race["best"], (8 * 256, 12 * 64), strict=True):
        assert 0.5 < result["bits_per_byte"] < 8
        assert result["tokens"] == result["steps"] * tokens
    printed = capsys.readouterr().out
    assert "nanochat is skipped" in printed
    assert "× ours" in printed
