"""The export stage from checkpoint, tokenizer and metrics to a folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import write_corpus
from tiny import GPT2

from tiny_lm.io.params import load_params
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import TransformerParams
from tiny_lm.stages.export import main
from tiny_lm.tokenizer.encode import Tokenizer

PARAMS = replace(GPT2, n_kv_heads=4, qkv_bias=False)


class FakeStage:
    def __init__(self, **values: Any) -> None:
        self.values = values
        self.said: list[str] = []

    def section(self, name: str, choices: Any) -> Any:
        return load_params(name, self.values[name], choices)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    monkeypatch.chdir(tmp_path)
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, "gpt4-digits2")
    tokenizer.save(Path("models/tokenizer"))
    Path("results/evaluate").mkdir(parents=True)
    Path("results/evaluate/metrics.json").write_text(json.dumps({"loss": 1.5}))
    write_corpus(Path("data/corpus"), ["a" * 4000], ["d"], {"source": "stories"})
    return tokenizer


def checkpoint(params: TransformerParams, digest: str) -> None:
    torch.manual_seed(0)
    save_checkpoint(
        Path("models/checkpoint"),
        build_model(params, 260),
        tokenizer_digest=digest,
        step=3,
        tokens_seen=99,
        provenance={"shards": "c0ffee"},
    )
    Path("models/checkpoint/params.yaml").write_text("train:\n  steps: 3\n  learning_rate: 4e-3\n")


def test_the_folder_is_written_and_reported(tokenizer: Tokenizer) -> None:
    checkpoint(PARAMS, tokenizer.digest)
    stage = FakeStage(export={"dtype": "bfloat16"})
    main(stage)  # type: ignore[arg-type]
    assert stage.said == ["0.0 MB in bfloat16; transformers returns the same logits and token ids"]
    assert json.loads(Path("models/export/config.json").read_text())["torch_dtype"] == "bfloat16"
    card = Path("models/export/README.md").read_text()
    weights = json.loads(Path("models/checkpoint/config.json").read_text())["weights_sha256"]
    splits = json.loads(Path("data/corpus/metadata.json").read_text())["splits"]
    for row in (
        "source | stories",
        "train bytes | 4,000",
        "loss | 1.5",
        "d_model | 16",
        "learning_rate | 0.004",
        "dtype | bfloat16",
        f"corpus, train | `{splits['train']['sha256']}`",
        f"corpus, val | `{splits['val']['sha256']}`",
        "shards | `c0ffee`",
        f"checkpoint | `{weights}`",
    ):
        assert f"| {row} |" in card


def test_bad_inputs_are_refused_before_anything_is_written(tokenizer: Tokenizer) -> None:
    checkpoint(replace(PARAMS, n_kv_heads=2), tokenizer.digest)
    with pytest.raises(ValueError, match="model.n_kv_heads = 2: must be n_heads = 4 to be exported"):
        main(FakeStage(export={"dtype": "float32"}))  # type: ignore[arg-type]
    checkpoint(PARAMS, "another")
    with pytest.raises(ValueError, match="was trained with tokenizer another, but the tokenizer here is"):
        main(FakeStage(export={"dtype": "float32"}))  # type: ignore[arg-type]
    save_checkpoint(
        Path("models/checkpoint"), build_model(PARAMS, 300), tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1,
        provenance={},
    )  # fmt: skip
    with pytest.raises(ValueError, match="vocab_size = 300: must be 260, the tokenizer's"):
        main(FakeStage(export={"dtype": "float32"}))  # type: ignore[arg-type]
    checkpoint(PARAMS, tokenizer.digest)
    Path("results/evaluate/metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"^results/evaluate/metrics.json: not readable as JSON .*dvc repro evaluate"):
        main(FakeStage(export={"dtype": "float32"}))  # type: ignore[arg-type]
    Path("results/evaluate/metrics.json").write_text("{}")
    for text in ("a: 1\n", "train: 5\n"):
        Path("models/checkpoint/params.yaml").write_text(text)
        with pytest.raises(
            ValueError, match=r"^models/checkpoint/params.yaml: the section train is missing; `tiny-lm restore train`"
        ):
            main(FakeStage(export={"dtype": "float32"}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"export.dtype = 8: must be one of"):
        main(FakeStage(export={"dtype": 8}))  # type: ignore[arg-type]
    assert not Path("models/export").exists()
