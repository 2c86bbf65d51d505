"""llama.cpp gives the same ids, text and probabilities as ours, with the exceptions in docs/models.md."""

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import xllamacpp

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.export.write import TEXTS, random_texts
from tiny_lm.generation.generate import generate
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer, TransformerParams
from tiny_lm.publish.gguf import NEAREST, SPLITS, llama_cpp_pattern, write_gguf
from tiny_lm.stories.generator import story
from tiny_lm.tokenizer.encode import Tokenizer
from tiny_lm.tokenizer.patterns import PATTERNS

STORIES = [story(7, index) for index in range(200)]
LLAMA3 = Llama3Params(
    architecture="llama3", context_length=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
)  # fmt: skip
GPT2_PARAMS = GPT2Params(
    architecture="gpt2", context_length=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=48, qkv_bias=False,
    embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
)  # fmt: skip
QWEN3 = Qwen3Params(
    context_length=48, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, d_ff=48, rope_theta=500.0,
    norm_eps=1e-5, attention_dropout=0.1,
)  # fmt: skip
MODELS = {
    "llama3 GQA": LLAMA3,
    "llama3 MQA": replace(LLAMA3, n_kv_heads=1),
    "gpt2": GPT2_PARAMS,
    "gpt2 qkv_bias": replace(GPT2_PARAMS, qkv_bias=True),
    "gpt2 GQA": replace(GPT2_PARAMS, n_kv_heads=2),
    "llama3 tied": replace(LLAMA3, tie_embeddings=True),
    "llama3 without biases": replace(LLAMA3, attention_bias=False),
    "qwen3 untied": replace(QWEN3, tie_embeddings=False),
    "qwen3 MHA": replace(QWEN3, n_kv_heads=4),
    "qwen3 GQA": QWEN3,
    "qwen3 MQA": replace(QWEN3, n_kv_heads=1, head_dim=None),
}


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    documents = [*STORIES, *TEXTS, "In 1984 and 2001, 365 days; 10000, 365000. " * 300]
    return {
        pattern: train_tokenizer(iter(documents), TokenizerParams(vocab_size=600, pattern=pattern), False)
        for pattern in PATTERNS
    }


def build(params: TransformerParams, vocab_size: int) -> Transformer:
    torch.manual_seed(0)
    model = build_model(params, vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():  # llama.cpp returns no probabilities if the top token is part of a character
        model.token_emb.weight[:256] *= 0.1
    return model.eval()


def write(path: Path, model: Transformer, tokenizer: Tokenizer, dtype: str = "float32") -> Path:
    pattern, note = llama_cpp_pattern(tokenizer.pattern, approximate=True)
    write_gguf(path, model, tokenizer, pattern=pattern, dtype=dtype, note=note)
    return path


@dataclass
class LlamaCpp:
    """llama.cpp with a model, through the HTTP server of its Python package."""

    server: Any

    def __call__(self, path: str, **body: Any) -> Any:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(
            self.server.listening_address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    def tokenize(self, text: str, **options: bool) -> list[int]:
        ids: list[int] = self("/tokenize", content=text, **({"add_special": False, "parse_special": False} | options))[
            "tokens"
        ]
        return ids


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[Callable[[Path], LlamaCpp]]:
    running: list[LlamaCpp] = []

    def start(path: Path) -> LlamaCpp:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel, params.warmup, params.verbosity, params.cpuparams.n_threads = 1, False, -1, 1
        running.append(LlamaCpp(xllamacpp.Server(params)))
        return running[-1]

    yield start
    running.clear()


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_has_the_same_probabilities_and_greedy_text(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], llama_cpp: Callable[[Path], LlamaCpp], name: str
) -> None:
    tokenizer = tokenizers["gpt2" if name == "gpt2" else "llama3"]
    model = build(MODELS[name], tokenizer.vocab_size)
    theirs = llama_cpp(write(tmp_path / "model.gguf", model, tokenizer))
    prompt = [tokenizer.bos_id, *tokenizer.encode("One day, Lily lost the red").tolist()]

    answer = theirs("/completion", prompt=prompt, n_predict=30, temperature=0, return_tokens=True)
    greedy = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": 0}
    ours = list(generate(model, prompt, max_new_tokens=30, eos_id=tokenizer.eos_id, **greedy))  # type: ignore[arg-type]
    length = _unambiguous(model, prompt, ours)
    assert length >= 10
    assert answer["tokens"][:length] == ours[:length]

    for length in range(1, len(prompt) + 1):
        answer = theirs(
            "/completion", prompt=prompt[:length], n_predict=1, temperature=0, n_probs=50, cache_prompt=False
        )
        with torch.inference_mode():
            expected = model(torch.tensor([prompt[:length]]))[0, -1].log_softmax(-1)
        for token in answer["completion_probabilities"][0]["top_logprobs"]:
            assert token["logprob"] == pytest.approx(
                float(expected[token["id"]]), abs=0.02
            )  # its KV cache is in 16 bits


def _unambiguous(model: Transformer, prompt: list[int], tokens: list[int]) -> int:
    """The number of tokens before the first at which rounding could swap the top two."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]  # (new tokens, V)
    first, second = logits.topk(2).values.T
    close = (first - second < 1e-3).nonzero()
    return int(close[0]) if len(close) else len(tokens)


@pytest.mark.parametrize("name", ["llama3 GQA", "gpt2"])
def test_special_tokens_and_context_length_are_in_the_file(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], llama_cpp: Callable[[Path], LlamaCpp], name: str
) -> None:
    tokenizer = tokenizers["gpt2"]
    theirs = llama_cpp(write(tmp_path / "model.gguf", build(MODELS[name], tokenizer.vocab_size), tokenizer))
    meta = theirs("/v1/models")["data"][0]["meta"]
    assert (meta["n_vocab"], meta["n_ctx_train"]) == (600, 48)
    properties = theirs("/props")
    assert (properties["bos_token"], properties["eos_token"]) == ("<bos>", "<eos>")
    fox = tokenizer.encode("fox").tolist()
    assert theirs.tokenize("fox", add_special=True) == [tokenizer.bos_id, *fox]
    parsed = theirs.tokenize("<pad><eos>fox<unk>", parse_special=True)
    assert parsed == [tokenizer.pad_id, tokenizer.eos_id, *fox, tokenizer.unk_id]
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    ids = [fields[f"tokenizer.ggml.{key}_token_id"].contents() for key in ("padding", "eos", "bos", "unknown")]
    assert ids == [tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_llama_cpp_has_the_same_ids_except_for_long_numbers_in_an_approximated_pattern(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], llama_cpp: Callable[[Path], LlamaCpp], pattern: str
) -> None:
    tokenizer = tokenizers[pattern]
    theirs = llama_cpp(write(tmp_path / "model.gguf", build(LLAMA3, tokenizer.vocab_size), tokenizer))
    others = []
    for text in [*STORIES, *TEXTS, *random_texts(300), "In 1984, 7 of 365000 were 10000"]:
        if theirs.tokenize(text) != tokenizer.encode(text).tolist():
            others.append(text)
    if pattern in SPLITS:
        assert others == []
    else:
        assert "In 1984, 7 of 365000 were 10000" in others
        assert all(re.search(r"\d{3}", text) for text in others)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_letters_new_in_unicode_16_get_other_ids_in_llama_cpp(
    tmp_path: Path, llama_cpp: Callable[[Path], LlamaCpp], pattern: str
) -> None:
    """If this fails, llama.cpp has newer Unicode tables: shorten docs/models.md and the GGUF description."""
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)} | {b"a\xea": 256}, pattern)
    theirs = llama_cpp(write(tmp_path / "model.gguf", build(LLAMA3, tokenizer.vocab_size), tokenizer))
    for letter, same in (("\ua7ca", True), ("\ua7cb", False)):  # new in Unicode 14 and in Unicode 16
        assert (theirs.tokenize(f"a{letter}") == tokenizer.encode(f"a{letter}").tolist()) == same
        assert tokenizer.encode(f"a{letter}").tolist()[0] == 256  # merged, so not split


def test_llama_cpp_parses_special_tokens_in_a_prompt(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], llama_cpp: Callable[[Path], LlamaCpp]
) -> None:
    tokenizer = tokenizers["llama3"]
    theirs = llama_cpp(write(tmp_path / "model.gguf", build(LLAMA3, tokenizer.vocab_size), tokenizer))

    def tokens(prompt: object) -> int:
        answer: int = theirs("/completion", prompt=prompt, n_predict=1, temperature=0)["tokens_evaluated"]
        return answer

    fox, text = tokenizer.encode("fox").tolist(), tokenizer.encode("<bos>fox").tolist()
    assert tokens("fox") == 1 + len(fox)  # llama.cpp adds <bos>
    assert tokens("<bos>fox") == 2 + len(fox)  # and parses a second one
    assert tokens([tokenizer.bos_id, *text]) == 1 + len(text) > 2 + len(fox)  # ids are used unchanged


def test_a_pattern_that_llama_cpp_lacks_is_an_error_unless_approximated() -> None:
    assert SPLITS.keys() | NEAREST.keys() == PATTERNS.keys()
    message = r"^tokenizer.pattern = gpt4-digits2: llama.cpp has no such pattern, only llama3 and gpt2"
    with pytest.raises(ValueError, match=message):
        llama_cpp_pattern("gpt4-digits2", approximate=False)
    name, note = llama_cpp_pattern("gpt4-digits2", approximate=True)
    assert (name, note[:49]) == ("llama-bpe", "tokenizer gpt4-digits2 approximated by llama-bpe:")
    assert llama_cpp_pattern("gpt2", approximate=True) == ("gpt-2", "")


def test_the_description_notes_an_approximated_pattern(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    for pattern, described in (("gpt4-digits2", True), ("llama3", False)):
        path = write(tmp_path / f"{pattern}.gguf", build(LLAMA3, 600), tokenizers[pattern])
        fields = gguf.GGUFReader(path).fields
        assert ("general.description" in fields) == described
        if described:
            assert "letters and numbers new in Unicode 16" in fields["general.description"].contents()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_halve_the_file_and_round_only_matrices(
    tmp_path: Path, tokenizers: dict[str, Tokenizer], llama_cpp: Callable[[Path], LlamaCpp], dtype: str
) -> None:
    tokenizer = tokenizers["gpt2"]
    model = build(replace(GPT2_PARAMS, d_model=64), tokenizer.vocab_size)
    half = write(tmp_path / "half.gguf", model, tokenizer, dtype)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(half).tensors}
    whole = {tensor.name: tensor for tensor in gguf.GGUFReader(write(tmp_path / "whole", model, tokenizer)).tensors}
    assert sum(t.n_bytes for t in tensors.values()) < 0.55 * sum(t.n_bytes for t in whole.values())
    found = torch.from_numpy(tensors["token_embd.weight"].data.copy()).view(getattr(torch, dtype)).view(600, 64)
    assert torch.equal(found, model.token_emb.weight.detach().to(getattr(torch, dtype)))
    assert (tensors["output_norm.weight"].data == whole["output_norm.weight"].data).all()
    assert len(llama_cpp(half)("/completion", prompt=[1, 2], n_predict=2, return_tokens=True)["tokens"]) > 0


def test_the_same_bytes_again_and_no_partial_file(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    model, tokenizer = build(LLAMA3, 600), tokenizers["llama3"]
    path = write(tmp_path / "new" / "model.gguf", model, tokenizer)
    first = path.read_bytes()
    assert write(path, model, tokenizer).read_bytes() == first
    assert str(tmp_path).encode() not in first
    with torch.no_grad():
        model.token_emb.weight[0] = 1e6
    with pytest.raises(ValueError, match="--dtype = float16: cannot hold token_embd.weight, which has larger values"):
        write(path, model, tokenizer, "float16")
    assert path.read_bytes() == first
    assert list(path.parent.iterdir()) == [path]
