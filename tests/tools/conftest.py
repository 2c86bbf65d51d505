"""A small project: params.yaml of a tiny model, presets, a tokenizer of 300 tokens, and shards in several files."""

import json
import re
from pathlib import Path

import pytest

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.presets import apply

ROOT = Path(__file__).parents[2]
TEXTS = [
    *(f"{name} has a {thing}.\nWhere is the {thing}? café “{n}”" for n, (name, thing) in enumerate(
        (name, thing) for name in ("Tom", "Ann", "Ida", "Bo") for thing in ("ball", "cat", "red kite", "book")
    )),
    "😀\tthe end",
]  # fmt: skip
TINY = ("context_length=16", "d_model=16", "n_layers=2", "n_heads=2", "n_kv_heads=1", "d_ff=32")


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS * 4, TokenizerParams(vocab_size=300, pattern="llama3"))


@pytest.fixture(scope="session")
def tiny_params():
    return apply((ROOT / "params.yaml").read_text(), [f"model.{setting}" for setting in TINY])


@pytest.fixture
def project(tmp_path, monkeypatch, tokenizer, tiny_params):
    """The project's folder, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    Path("params.yaml").write_text(tiny_params)
    tokenizer.save(Path("models/tokenizer"))
    write_shards(
        Path("data/shards"), {"train": TEXTS * 10, "val": TEXTS[::3]}, tokenizer.encode_documents,
        ShardsParams(shard_tokens=1000), vocab_size=300, tokenizer=tokenizer.digest, workers=1,
        special_ids={token.strip("<>"): number for token, number in tokenizer.special_tokens.items()},
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def call(capsys):
    """call(main, "--some", "argument") runs a tool and returns its output, with --json parsed."""

    def call(main, *arguments):
        main([str(argument) for argument in arguments])
        shown = capsys.readouterr().out
        return json.loads(shown) if "--json" in arguments else shown

    return call


@pytest.fixture
def plain():
    """Removes terminal colors from a text."""
    return lambda text: re.sub(r"\x1b\[[0-9;]*m", "", text)
