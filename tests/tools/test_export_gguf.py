"""`tiny-lm export-gguf` on files of the stages, and its error messages."""

from pathlib import Path

import gguf
import pytest
import torch

from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tools.export_gguf import main

PARAMS = Llama3Params(
    architecture="llama3", context_length=16, d_model=16, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=16,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip


MERGES = {b"th": 256}


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def build(pattern: str, merges: dict[bytes, int] = MERGES, vocab_size: int = 261) -> None:
    tokenizer = Tokenizer({**{bytes([byte]): byte for byte in range(256)}, **merges}, pattern)
    tokenizer.save(Path("models/tokenizer"))
    torch.manual_seed(0)
    model = build_model(PARAMS, vocab_size)
    save_checkpoint(
        Path("models/checkpoint"), model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=1, provenance={}
    )


def test_the_file_is_written_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    build("llama3")
    main([])
    assert capsys.readouterr().out == "models/model.gguf: 0.0 MB in float32\n"
    main(["--output", "other/fox.gguf", "--dtype", "float16"])
    whole, half = gguf.GGUFReader("models/model.gguf"), gguf.GGUFReader("other/fox.gguf")
    assert whole.get_field("general.architecture").contents() == "llama"
    assert half.tensors[0].tensor_type == gguf.GGMLQuantizationType.F16


def test_a_pattern_that_llama_cpp_lacks_needs_approximate(capsys: pytest.CaptureFixture[str]) -> None:
    build("gpt4-digits2")
    with pytest.raises(ValueError, match="^tokenizer.pattern = gpt4-digits2: llama.cpp has no such pattern"):
        main([])
    assert not Path("models/model.gguf").exists()
    main(["--approximate"])
    said = capsys.readouterr().out
    assert "tokenizer gpt4-digits2 approximated by llama-bpe: runs of three or more digits" in said
    assert "new in Unicode 16" in said


def test_a_model_that_llama_cpp_could_not_open_is_not_written() -> None:
    build("llama3", merges={}, vocab_size=260)
    with pytest.raises(ValueError, match="^tokenizer.vocab_size = 260: llama.cpp needs at least one token more"):
        main([])
    build("llama3", vocab_size=300)
    with pytest.raises(ValueError, match="^models/checkpoint: vocab_size = 300: must be 261, the tokenizer's"):
        main([])
    assert not Path("models/model.gguf").exists()


def test_a_mistake_is_one_line() -> None:
    with pytest.raises(
        ValueError, match="models/tokenizer/metadata.json: there is no such file; `tiny-lm restore tokenizer`"
    ):
        main([])
    build("llama3")
    Path("folder").mkdir()
    with pytest.raises(ValueError, match="^--output folder: is a folder; give the name of a file"):
        main(["--output", "folder"])
    Tokenizer({bytes([byte]): byte for byte in range(256)}, "gpt2").save(Path("models/tokenizer"))
    with pytest.raises(ValueError, match="models/checkpoint: was trained with tokenizer"):
        main([])
    assert not Path("models/model.gguf").exists()
