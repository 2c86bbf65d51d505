"""A small set of real artifacts, strategies that damage them, and the number of trials.

`make test` runs a few trials, always the same; `make proof` runs many new ones.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import write_corpus
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tries import ALL, SHARE

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model

settings.register_profile(
    "trust",
    max_examples=max(20, round(1000 * SHARE)),
    derandomize=not ALL,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TEXTS = ["Once upon a time, there was a fox.\n", "naïve 🙂 \x00 \u2028 end", "<bos>spelt out<eos>", "x" * 300] * 20


def build(folder: Path) -> Path:
    """Writes corpus, tokenizer, shards, checkpoint and metrics with the functions that the stages call."""
    write_corpus(folder / "data/corpus", TEXTS, TEXTS[:3], {"source": "local"})
    tokenizer = train_tokenizer(TEXTS, TokenizerParams(vocab_size=270, pattern="gpt4-digits2"))
    tokenizer.save(folder / "models/tokenizer")
    ids = {"pad": tokenizer.pad_id, "eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "unk": tokenizer.unk_id}
    write_shards(
        folder / "data/shards", {"train": TEXTS, "val": TEXTS[:3]}, tokenizer.encode_documents,
        ShardsParams(shard_tokens=1000), vocab_size=270, special_ids=ids, tokenizer=tokenizer.digest, workers=1,
    )  # fmt: skip
    params = Llama3Params(
        architecture="llama3", context_length=8, d_model=8, n_layers=1, n_heads=2, n_kv_heads=1, d_ff=8,
        rope_theta=1e3, norm_eps=1e-6, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    save_checkpoint(
        folder / "models/checkpoint", build_model(params, 270), tokenizer_digest=tokenizer.digest, step=1,
        tokens_seen=8, provenance={"tokenizer": tokenizer.digest},
    )  # fmt: skip
    (folder / "results/evaluate").mkdir(parents=True)
    (folder / "results/evaluate/metrics.json").write_text('{"loss": 1.0, "perplexity": 2.718281828459045}\n')
    return folder


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all tests: copy it, or restore what you change."""
    return build(tmp_path_factory.mktemp("artifacts"))


@st.composite
def _damaged(draw: Any, content: bytes) -> bytes:
    """The content after one to three changes: bytes flipped, cut off, inserted or deleted; never the same content."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "insert", "delete"]))
        if how == "flip" and data:
            data[position] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[position:]
        elif how == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[position : position + draw(st.integers(1, 8))]
    return bytes(data) if data != content else content[:-1]


@st.composite
def _edited(draw: Any, document: Any) -> Any:
    """A copy of a JSON value with one inner value changed, or a key added or removed."""
    value = json.loads(json.dumps(document))
    inner, key = draw(st.sampled_from(list(_keys(value))))
    how = draw(st.sampled_from(["replace", "replace", "nudge", "drop", "add"]))
    if how == "drop":
        del inner[key]
    elif how == "add" and isinstance(inner, dict):
        inner[draw(st.text(max_size=5))] = draw(anything)
    elif how == "nudge" and type(inner[key]) is int:
        inner[key] += draw(st.sampled_from([-1, 1, 2**16, 2**31, 2**62, -(2**63), 10**30]))
    else:
        inner[key] = draw(anything)
    return value


def _keys(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _keys(inner)


odd = [10**400, -(2**63), 2**63, 2**64, 0, -1, 1e308, float("nan"), float("inf"), "", "../../x", "\ud800", "a\0b"]
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(odd))
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@pytest.fixture(scope="session")
def strategies() -> Any:
    return type(
        "Strategies", (), {"damaged": staticmethod(_damaged), "edited": staticmethod(_edited), "anything": anything}
    )


@pytest.fixture
def confined() -> Callable[[Callable[[], object]], str]:
    """confined(action): the message of the ValueError that `action` raises in a process that is limited to 20 seconds
    of CPU time and 256 MB of additional memory.
    """

    def run(action: Callable[[], object]) -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20), size + (256 << 20)))
                resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
                signal.alarm(120)
                try:
                    result = f"accepted: {action()!r}"
                except ValueError as error:
                    result = f"refused: {error}"
                except BaseException as error:
                    result = f"{type(error).__name__}: {error}"
                os.write(writing, result.encode("utf-8", "backslashreplace")[:60_000])
            finally:
                os._exit(0)
        os.close(writing)
        start = time.monotonic()
        with os.fdopen(reading, "rb") as pipe:
            result = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"ended by signal {status} after {time.monotonic() - start:.0f} s"
        assert result.startswith("refused: "), result[:2000]
        result = result.removeprefix("refused: ")
        assert "\n" not in result
        assert len(result) < 2000
        return result

    return run
