"""A round trip through a checkpoint keeps the model and the bytes, and anything else is refused in one line."""

import errno
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import GPT2, LLAMA3

from tiny_lm.model.checkpoint import load_checkpoint, save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer, TransformerParams


def save(folder: Path, params: TransformerParams = LLAMA3) -> Transformer:
    torch.manual_seed(0)
    model = build_model(params, 300)
    save_checkpoint(
        folder, model, tokenizer_digest="a" * 64, step=7, tokens_seen=700, provenance={"corpus": "c", "shards": "s"}
    )
    return model


@pytest.mark.parametrize("params", [LLAMA3, GPT2], ids=["llama3", "gpt2"])
def test_a_round_trip_keeps_the_model(tmp_path: Path, params: TransformerParams) -> None:
    model = save(tmp_path, params).eval()
    loaded, info = load_checkpoint(tmp_path, "a" * 64)
    tokens = torch.randint(0, 300, (2, 16))
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.params == params
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.token_emb.weight) == params.ties_embeddings
    assert (info.step, info.tokens_seen, info.tokenizer_digest) == (7, 700, "a" * 64)
    assert info.provenance == {"corpus": "c", "shards": "s"}


def test_saving_again_gives_the_same_bytes_with_a_tied_head_stored_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(tmp_path / name, replace(LLAMA3, tie_embeddings=True))
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["config.json", "model.safetensors"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    tensors = load_file(tmp_path / "one" / "model.safetensors")
    assert "token_emb.weight" in tensors
    assert "lm_head.weight" not in tensors
    assert not any("rope" in name for name in tensors)


def test_low_precision_weights_are_stored_in_float32(tmp_path: Path) -> None:
    model = build_model(LLAMA3, 300).bfloat16()
    save_checkpoint(tmp_path, model, tokenizer_digest="a", step=1, tokens_seen=1, provenance={})
    loaded, _ = load_checkpoint(tmp_path)
    assert torch.equal(loaded.token_emb.weight, model.token_emb.weight.float())


def edit(key: str, value: object, inner: str | None = None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        (config[inner] if inner else config)[key] = value
        path.write_text(json.dumps(config))

    return change


def tensor(name: str, value: torch.Tensor | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        path.unlink()
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
        save_file(tensors, path)

    return change


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def torch_pickle(folder: Path) -> None:
    torch.save({"model": Bomb()}, folder / "model.safetensors")


def plain_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config.json: there is no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model.safetensors: there is no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "not readable as JSON"),
        (lambda folder: (folder / "config.json").write_text(" " * 2**21), "2097152 bytes, must be at most 1048576"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "not readable as JSON .not an object"),
        (edit("extra", 1), "must have exactly the keys"),
        (edit("step", "7"), "step = '7': must be of type int"),
        (edit("vocab_size", -5), "vocab_size = '-5': must be of type int"),
        (edit("provenance", {"corpus": 1}), "provenance: its values must be strings"),
        (edit("architecture", "mamba", "model"), "model.architecture = 'mamba': must be one of gpt2, llama3"),
        (edit("n_kv_heads", 3, "model"), "model.n_kv_heads = 3: must be a divisor of n_heads = 4"),
        (edit("d_model", 10**400, "model"), "config.json: "),
        (edit("d_model", 2**40, "model"), r"\d+ bytes is too small for the model that config.json describes"),
        (edit("vocab_size", 10**15), r"\d+ bytes is too small for the model that config.json describes"),
        (edit("d_ff", 10**15, "model"), r"\d+ bytes is too small for the model that config.json describes"),
        (edit("n_layers", 10**9, "model"), r"\d+ bytes is too small for the model that config.json describes"),
        (
            edit("n_layers", 3, "model"),
            r"blocks.2.attention.W_k.bias is missing, but config.json requires F32 \[8\]",
        ),
        (
            edit("n_layers", 1, "model"),
            r"blocks.1.attention.W_k.bias is F32 \[8\], but config.json requires missing",
        ),
        (edit("vocab_size", 299), r"lm_head.weight is F32 \[300, 16\], but config.json requires F32 \[299, 16\]"),
        (tensor("norm.weight", torch.ones(16).half()), r"norm.weight is F16 \[16\]"),
        (tensor("norm.weight", None), "norm.weight is missing"),
        (flip_a_bit, "checksum mismatch: not the weights that config.json describes"),
        (torch_pickle, "not a safetensors file of ours"),
        (plain_pickle, "not a safetensors file of ours"),
        (huge_header, "not a safetensors file of ours"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "not a safetensors file"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(
        ValueError, match="was trained with tokenizer aaaaaaaaaaaa, but the tokenizer here is bbbbbbbbbbbb"
    ):
        load_checkpoint(tmp_path, "b" * 64)


def test_an_io_error_is_reported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path)

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tiny_lm.model.checkpoint.safe_open", failing)
    with pytest.raises(OSError, match="Input/output error"):
        load_checkpoint(tmp_path)


def test_an_untied_head_is_stored(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(replace(LLAMA3, tie_embeddings=True), 300)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(300, 16))
    save_checkpoint(tmp_path, model, tokenizer_digest="a", step=1, tokens_seen=1, provenance={})
    tensors = load_file(tmp_path / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], model.lm_head.weight)
    with pytest.raises(ValueError, match=r"lm_head.weight is F32 \[300, 16\], but config.json requires missing"):
        load_checkpoint(tmp_path)  # by its params the embeddings are tied


def test_a_model_with_gigabytes_of_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, replace(LLAMA3, context_length=2**20))
    monkeypatch.setattr("tiny_lm.model.checkpoint.MAX_BUFFERS", 2**20)
    with pytest.raises(ValueError, match="context_length = 1048576"):
        load_checkpoint(tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = build_model(GPT2, 300)
    model.blocks[0].feedforward.fc1.bias.data[3] = torch.nan
    save_checkpoint(tmp_path, model, tokenizer_digest="a" * 64, step=1, tokens_seen=1, provenance={})
    with pytest.raises(
        ValueError,
        match="blocks.0.feedforward.fc1.bias contains numbers that are not finite; `tiny-lm restore train`",
    ):
        load_checkpoint(tmp_path)
