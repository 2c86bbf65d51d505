"""transformers opens the export with our logits and ids; an export that differs from our model is an error."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.export import huggingface
from tiny_lm.export.merges import recover_merges
from tiny_lm.export.params import ExportParams
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.export.write import TEXTS, random_texts, write_export
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer, TransformerParams
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS

LLAMA3 = Llama3Params(
    architecture="llama3", context_length=32, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
)  # fmt: skip
GPT2_PARAMS = GPT2Params(
    architecture="gpt2", context_length=32, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=48, qkv_bias=False,
    embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
)  # fmt: skip
QWEN3 = Qwen3Params(
    context_length=32, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, d_ff=48, rope_theta=500.0,
    norm_eps=1e-5, attention_dropout=0.1,
)  # fmt: skip
ALL = [
    LLAMA3, replace(LLAMA3, n_kv_heads=1), GPT2_PARAMS, replace(GPT2_PARAMS, qkv_bias=True), QWEN3,
    replace(QWEN3, n_kv_heads=4, head_dim=None), replace(QWEN3, n_kv_heads=1),
    replace(LLAMA3, tie_embeddings=True), replace(LLAMA3, attention_bias=False), replace(QWEN3, tie_embeddings=False),
]  # fmt: skip


@pytest.fixture(scope="module", params=list(PATTERNS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    documents = [text * 3 for text in TEXTS if text] + [
        "The fox and the hen went to the river, and the fox said: hello."
    ]
    return train_tokenizer(iter(documents * 20), TokenizerParams(vocab_size=500, pattern=request.param), False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    documents = ["The fox and the hen went to the river, and the fox said: hello."] * 20
    return train_tokenizer(iter(documents), TokenizerParams(vocab_size=280, pattern="gpt4-digits2"), False)


def build(params: TransformerParams, vocab_size: int) -> Transformer:
    torch.manual_seed(0)
    model = build_model(params, vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def export(folder: Path, model: Transformer, tokenizer: Tokenizer, dtype: str = "float32") -> Path:
    write_export(folder, model, tokenizer, dtype=dtype, card="# Card\n")
    return folder


@pytest.mark.parametrize(
    "params",
    ALL,
    ids=[
        "llama3 GQA",
        "llama3 MQA",
        "gpt2",
        "gpt2 qkv_bias",
        "qwen3 GQA",
        "qwen3 MHA",
        "qwen3 MQA",
        "llama3 tied",
        "llama3 without biases",
        "qwen3 untied",
    ],
)
def test_transformers_computes_the_same_logits(tmp_path: Path, tokenizer: Tokenizer, params: TransformerParams) -> None:
    model = build(params, tokenizer.vocab_size)
    exported = transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path / "export", model, tokenizer))
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(exported(tokens).logits, model(tokens), atol=1e-5, rtol=1e-5)
    assert exported.dtype == torch.float32
    tied = exported.get_input_embeddings().weight is exported.get_output_embeddings().weight
    assert tied == params.ties_embeddings
    assert exported.generation_config.eos_token_id == tokenizer.eos_id
    assert (exported.config.bos_token_id, exported.config.pad_token_id) == (tokenizer.bos_id, tokenizer.pad_id)


def test_transformers_gives_the_same_ids_for_every_text(tmp_path: Path, any_tokenizer: Tokenizer) -> None:
    ours = any_tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(
        export(tmp_path / "export", build(LLAMA3, ours.vocab_size), ours)
    )
    for text in [*TEXTS, *random_texts(2000)]:
        assert theirs(text)["input_ids"] == ours.encode(text).tolist(), text
        assert theirs.decode(ours.encode(text).tolist()) == text
    assert theirs.model_max_length == 32
    parsed = theirs("<bos>fox<eos>", split_special_tokens=False)["input_ids"]
    assert parsed == [ours.bos_id, *ours.encode("fox").tolist(), ours.eos_id]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights_halve_the_file(tmp_path: Path, tokenizer: Tokenizer, dtype: str) -> None:
    model = build(LLAMA3, tokenizer.vocab_size)
    whole = export(tmp_path / "whole", model, tokenizer) / "model.safetensors"
    half = export(tmp_path / "half", model, tokenizer, dtype)
    assert (half / "model.safetensors").stat().st_size < 0.6 * whole.stat().st_size
    assert transformers.AutoModelForCausalLM.from_pretrained(half, dtype="auto").dtype == getattr(torch, dtype)
    assert model.token_emb.weight.dtype == torch.float32


def test_a_second_export_writes_the_same_bytes_over_the_first(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build(LLAMA3, tokenizer.vocab_size)
    first = {path.name: path.read_bytes() for path in export(tmp_path / "export", model, tokenizer).iterdir()}
    (tmp_path / "export" / "stale").touch()
    assert {path.name: path.read_bytes() for path in export(tmp_path / "export", model, tokenizer).iterdir()} == first
    assert sorted(first) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert first["README.md"] == b"# Card\n"
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_gpt2_matrices_are_transposed_and_concatenated(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build(GPT2_PARAMS, tokenizer.vocab_size)
    tensors = load_file(export(tmp_path / "export", model, tokenizer) / "model.safetensors")
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (32, 96)
    assert (tensors["transformer.h.0.attn.c_attn.bias"] == 0).all()
    assert torch.equal(tensors["transformer.h.1.mlp.c_fc.weight"].T, model.blocks[1].feedforward.fc1.weight)
    assert "lm_head.weight" not in tensors


def test_grouped_query_gpt2_is_refused() -> None:
    message = "^model.n_kv_heads = 2: must be n_heads = 4 to be exported: both are `n_head` in transformers' GPT2LMHead"
    with pytest.raises(ValueError, match=message):
        ARCHITECTURES["gpt2"].check_exportable(replace(GPT2_PARAMS, n_kv_heads=2))
    ARCHITECTURES["gpt2"].check_exportable(GPT2_PARAMS)
    ARCHITECTURES["llama3"].check_exportable(LLAMA3)


def other_theta(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"rope_theta": 600.0}


def other_eos(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"eos_token": "<pad>"}


def specials_in_text(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"split_special_tokens": False}


def fewer_merges(content: dict[str, Any]) -> dict[str, Any]:
    content["model"]["merges"].pop()
    content["model"]["ignore_merges"] = False
    return content


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("huggingface_config", other_theta, "the exported model's logits differ from ours by up to"),
        ("tokenizer_config", other_eos, "the exported tokenizer has other special ids"),
        ("tokenizer_config", specials_in_text, "the exported tokenizer encodes '<bos>special"),
        ("tokenizer_json", fewer_merges, "the exported tokenizer encodes"),
    ],
)
def test_any_difference_is_an_error_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    tokenizer = train_tokenizer(iter([*TEXTS] * 20), TokenizerParams(vocab_size=300, pattern="gpt4-digits2"), False)
    original = getattr(huggingface, function)
    monkeypatch.setattr(huggingface, function, lambda *arguments: change(original(*arguments)))
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "export", build(LLAMA3, tokenizer.vocab_size), tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_16_bits_are_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = build(LLAMA3, tokenizer.vocab_size)
    with torch.no_grad():
        model.norm.weight[0] = 1e6
    with pytest.raises(ValueError, match="dtype = float16: cannot hold model.norm.weight"):
        export(tmp_path / "export", model, tokenizer, "float16")
    assert list(tmp_path.iterdir()) == []


def test_merges_are_recovered_from_ranks() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"cd": 257, b"abcd": 258, b"bcd": 259}
    assert list(recover_merges(ranks)) == [(b"a", b"b"), (b"c", b"d"), (b"ab", b"cd"), (b"b", b"cd")]
    with pytest.raises(ValueError, match="token 256, b'abc', is not a merge of two tokens"):
        list(recover_merges({bytes([byte]): byte for byte in range(256)} | {b"abc": 256}))
    runs = {b"=" * 2**power: 255 + power for power in range(1, 18)}  # as learned from a text with one long line
    merges = list(recover_merges({bytes([byte]): byte for byte in range(256)} | runs))
    assert merges == [(token[: len(token) // 2],) * 2 for token in runs]


def test_all_of_unicode_is_split_the_same(any_tokenizer: Tokenizer) -> None:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    content = huggingface.tokenizer_json(any_tokenizer)
    theirs = HuggingFaceTokenizer.from_str(json.dumps(content))
    points = [point for point in range(0, 0x110000, 37) if not 0xD800 <= point < 0xE000]
    texts = [f"a{chr(point)}1b {chr(point)}c" for point in points]
    for text, found in zip(texts, theirs.encode_batch(texts), strict=True):
        assert found.ids == any_tokenizer.encode(text).tolist(), text


def test_the_card_shows_code_that_runs(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_lm.export.card import USE

    folder = export(tmp_path / "export", build(LLAMA3, tokenizer.vocab_size), tokenizer)
    code = USE.split("```")[1].removeprefix("python")
    exec(code.replace("FOLDER_OR_REPOSITORY", str(folder)).replace("100", "5"), {})
    assert capsys.readouterr().out.startswith("<bos>Once upon a time")


def test_an_exported_model_needs_no_network(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("used the network"))
    export(tmp_path / "export", build(LLAMA3, tokenizer.vocab_size), tokenizer)


def test_params_are_read_from_the_section() -> None:
    from tiny_lm.io.params import load_params, read_yaml

    preset = read_yaml(Path(__file__).parents[2] / "configs" / "export" / "default.yaml")
    assert load_params("export", preset["export"], ExportParams).dtype == "float32"
    with pytest.raises(ValueError, match=r"export.dtype = 'int8': must be one of float32, bfloat16, float16"):
        load_params("export", {"dtype": "int8"}, ExportParams)
