"""The loop against the model called by hand, with and without the cache."""

from itertools import islice
from typing import Any

import pytest
import torch

from tiny_lm.generation.cache import KVCache
from tiny_lm.generation.generate import generate
from tiny_lm.model.build import build_model
from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params

PARAMS = {
    "gpt2": GPT2Params(
        architecture="gpt2", context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20,
        qkv_bias=False, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
    ),
    "llama3": Llama3Params(
        architecture="llama3", context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20,
        rope_theta=500.0, norm_eps=1e-6, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
    ),
}  # fmt: skip
VOCAB = 60
DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 8, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 0, "eos_id": None,
}  # fmt: skip


@pytest.fixture(params=["gpt2", "llama3"])
def model(request: pytest.FixtureRequest) -> GPT2 | Llama3:
    torch.manual_seed(0)
    model = build_model(PARAMS[request.param], VOCAB)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def run(model: GPT2 | Llama3, prompt: list[int], **changes: Any) -> list[int]:
    return list(generate(model, prompt, **(DEFAULTS | changes)))


def test_logits_with_the_cache_equal_those_without(model: GPT2 | Llama3) -> None:
    tokens = torch.randint(0, VOCAB, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        for cuts in ([5, 6, 7, 8, 9, 10, 11, 12], [1, 4, 12], [12]):  # one by one, several at a time, all at once
            cache, start = KVCache(2, 12), 0
            for end in cuts:
                torch.testing.assert_close(
                    model(tokens[:, start:end], cache), whole[:, start:end], atol=1e-5, rtol=1e-5
                )
                start = end
            assert cache.length == 12


def test_a_cache_has_no_room_beyond_the_context(model: GPT2 | Llama3) -> None:
    cache = KVCache(2, 12)
    model.features(torch.zeros(1, 12, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="an input of 13 tokens is longer than the model's context_length = 12"):
        model.features(torch.zeros(1, 1, dtype=torch.long), cache)


def test_greedy_is_the_likeliest_token_each_time(model: GPT2 | Llama3) -> None:
    tokens = [3, 1, 4]
    for _ in range(8):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert run(model, [3, 1, 4], temperature=0.0) == tokens[3:]


@pytest.mark.parametrize("prompt", [[3], list(range(12)), list(range(40))], ids=["short", "full", "longer"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_ids_with_and_without_cache_beyond_the_context(
    model: GPT2 | Llama3, prompt: list[int], temperature: float
) -> None:
    cached = run(model, prompt, temperature=temperature, max_new_tokens=40)
    assert cached == run(model, prompt, temperature=temperature, max_new_tokens=40, cache=False)
    assert len(cached) == 40


def test_a_full_context_keeps_its_last_half(model: GPT2 | Llama3) -> None:
    prompt = list(range(12))
    first, second = run(model, prompt, temperature=0.0, max_new_tokens=2)
    assert run(model, [*prompt, first][-6:], temperature=0.0, max_new_tokens=1) == [second]
    assert run(model, list(range(30)), temperature=0.0) == run(model, list(range(24, 30)), temperature=0.0)


def test_seed_temperature_top_k_and_top_p_change_the_text(model: GPT2 | Llama3) -> None:
    base = run(model, [3], max_new_tokens=30)
    assert run(model, [3], max_new_tokens=30) == base
    for change in ({"seed": 1}, {"temperature": 0.1}, {"top_k": 1}, {"top_p": 0.05}):
        assert run(model, [3], max_new_tokens=30, **change) != base
    assert run(model, [3], top_k=1) == run(model, [3], temperature=0.0)


def test_stops_before_eos_and_streams(model: GPT2 | Llama3) -> None:
    ids = run(model, [3], max_new_tokens=30)
    assert run(model, [3], max_new_tokens=30, eos_id=ids[5]) == ids[: ids.index(ids[5])]
    assert list(islice(generate(model, [3], **(DEFAULTS | {"max_new_tokens": 10**9})), 8)) == ids[:8]


def test_a_consumer_may_train_between_two_ids(model: GPT2 | Llama3) -> None:
    for _ in islice(generate(model, [3], **DEFAULTS), 2):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompt", "change", "message"),
    [
        ([], {}, "the prompt is empty: it needs at least one token, such as <bos>"),
        ([60], {}, "prompt = 60: must be token ids between 0 and 59"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens = 0: must be at least 1"),
        ([1], {"seed": -1}, r"seed = -1: must be between 0 and 2\^32 - 1"),
        ([1], {"top_k": 0}, "top_k = 0: must be at least 1, or null"),
    ],
)
def test_mistakes_are_named_before_the_first_id(
    model: GPT2 | Llama3, prompt: list[int], change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        generate(model, prompt, **(DEFAULTS | change))
