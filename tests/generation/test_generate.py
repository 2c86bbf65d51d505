"""The generate loop against the model without a cache, which reads the whole text at every step."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from tiny_lm.generation import generate as generate_module
from tiny_lm.generation.generate import Decoder, generate, generate_batch
from tiny_lm.generation.sampling import next_tokens
from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.registry import build_model

PARAMS = {
    "gpt2": GPT2Params(
        architecture="gpt2", context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20,
        qkv_bias=False, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
    ),
    "llama3": Llama3Params(
        architecture="llama3", context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=20,
        rope_theta=500.0, norm_eps=1e-6, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
    ),
    "qwen3": Qwen3Params(
        context_length=12, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, d_ff=20, rope_theta=500.0,
    ),
}  # fmt: skip
VOCAB = 60
DEFAULTS: dict[str, Any] = {
    "max_new_tokens": 8, "temperature": 1.0, "top_k": None, "top_p": None, "seed": 0, "eos_id": None,
}  # fmt: skip
# Different lengths, one of them longer than the context
MIXED = [[3], [1, 2, 3, 4, 5, 6, 7], list(range(40)), [9, 9], [3], list(range(12)), [5, 4]]
CHOICES = [
    ("qwen3", 2, False),
    ("gpt2", 4, False),
    ("gpt2", 2, True),
    ("llama3", 4, False),
    ("llama3", 2, False),
    ("llama3", 1, False),
]


@pytest.fixture(params=CHOICES, ids=lambda choice: f"{choice[0]}, {choice[1]} KV heads")
def model(request: pytest.FixtureRequest) -> GPT2 | Llama3:
    torch.manual_seed(0)
    architecture, n_kv_heads, qkv_bias = request.param
    change = {"qkv_bias": qkv_bias} if architecture == "gpt2" else {}
    model = build_model(replace(PARAMS[architecture], n_kv_heads=n_kv_heads, **change), VOCAB)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


@torch.no_grad()
def without_cache(
    model: GPT2 | Llama3, prompt: list[int], *, max_new_tokens: int, seed: int, **sampling: Any
) -> list[int]:
    """Without a cache or a batch: reads the whole window for each token."""
    window, new, generator = list(prompt), [], random.Random(seed)
    for _ in range(max_new_tokens):
        if len(window) > 12:
            window = window[-6:]
        uniform = torch.tensor([generator.getrandbits(32) / 2**32], dtype=torch.float64)
        new.append(int(next_tokens(model(torch.tensor([window]))[:, -1], uniform, **sampling)))
        window.append(new[-1])
    return new


def batch(model: GPT2 | Llama3, prompts: list[list[int]], batch_size: int = 3, **changes: Any) -> list[list[int]]:
    """The texts of the prompts, drawn with seeds 0, 1, 2 and so on."""
    options = DEFAULTS | {"seeds": range(len(prompts)), "batch_size": batch_size} | changes
    options.pop("seed")
    texts: list[list[int]] = [[] for _ in prompts]
    ended = set()
    for index, token in generate_batch(model, prompts, **options):
        assert index not in ended
        if token is None:
            ended.add(index)
        else:
            texts[index].append(token)
    assert ended == set(range(len(prompts)))
    return texts


def run(model: GPT2 | Llama3, prompt: list[int], **changes: Any) -> list[int]:
    return list(generate(model, prompt, **(DEFAULTS | changes)))


def test_logits_with_a_cache_equal_logits_without_for_texts_of_different_lengths(model: GPT2 | Llama3) -> None:
    texts = torch.randint(0, VOCAB, (3, 12), generator=torch.Generator().manual_seed(1))
    lengths = [1, 7, 4]
    decoder = Decoder(model, batch=3, max_len=12)
    with torch.no_grad():
        whole = model(texts)  # (3, 12, V)
    order = [2, 0, 1]
    after_prefill = decoder.prefill(order, [texts[row, : lengths[row]].tolist() for row in order])
    expected = torch.stack([whole[row, lengths[row] - 1] for row in order])
    torch.testing.assert_close(after_prefill, expected, atol=1e-5, rtol=1e-5)
    for _ in range(5):
        new = [int(texts[row, length]) for row, length in enumerate(lengths)]
        expected = torch.stack([whole[row, length] for row, length in enumerate(lengths)])
        torch.testing.assert_close(decoder.step(new, lengths), expected, atol=1e-5, rtol=1e-5)
        lengths = [length + 1 for length in lengths]


def test_prefill_replaces_an_earlier_text_and_rows_can_move(model: GPT2 | Llama3) -> None:
    decoder, fresh = Decoder(model, batch=2, max_len=12), Decoder(model, batch=1, max_len=12)
    decoder.prefill([0, 1], [list(range(12)), list(range(12, 24))])
    decoder.prefill([1], [[5, 6]])
    decoder.cache.move(1, 0)
    fresh.prefill([0], [[5, 6]])
    torch.testing.assert_close(decoder.step([7], [2]), fresh.step([7], [2]), atol=1e-6, rtol=1e-6)


def test_the_cache_is_allocated_once_and_smaller_with_grouped_queries(model: GPT2 | Llama3) -> None:
    decoder = Decoder(model, batch=2, max_len=12)
    address, size = decoder.cache.memory.data_ptr(), decoder.cache.memory.numel()
    layers, keys_and_values, batch, max_len = 2, 2, 2, 12
    head = max_len * model.params.dim_per_head
    assert size == layers * keys_and_values * batch * model.params.n_kv_heads * head
    decoder.prefill([0], [list(range(10))])
    decoder.step([1], [10])
    assert (decoder.cache.memory.data_ptr(), decoder.cache.memory.numel()) == (address, size)


def test_greedy_picks_the_most_likely_token_each_time(model: GPT2 | Llama3) -> None:
    tokens = [3, 1, 4]
    for _ in range(8):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert run(model, [3, 1, 4], temperature=0.0) == tokens[3:]


@pytest.mark.parametrize("prompt", [[3], list(range(12)), list(range(40))], ids=["short", "full", "longer"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_ids_as_without_a_cache_beyond_the_context(
    model: GPT2 | Llama3, prompt: list[int], temperature: float
) -> None:
    sampling = {"temperature": temperature, "top_k": None, "top_p": 0.9}
    new = run(model, prompt, max_new_tokens=40, **sampling)
    assert new == without_cache(model, prompt, max_new_tokens=40, seed=0, **sampling)
    assert len(new) == 40


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_each_prompt_gets_the_same_text_in_a_batch_as_alone(
    model: GPT2 | Llama3, batch_size: int, temperature: float
) -> None:
    eos_id = run(model, [3], temperature=temperature)[5]  # some texts end early, and others take over their rows
    options = {"temperature": temperature, "max_new_tokens": 30, "eos_id": eos_id}
    alone = [run(model, prompt, seed=seed, **options) for seed, prompt in enumerate(MIXED)]
    assert batch(model, MIXED, batch_size, **options) == alone
    assert {len(text) for text in alone} != {30}


def test_the_texts_of_a_batch_advance_together() -> None:
    model = build_model(PARAMS["llama3"], VOCAB).eval()
    options = DEFAULTS | {"seeds": [0] * 5, "batch_size": 2, "max_new_tokens": 3}
    options.pop("seed")
    order = [index for index, token in generate_batch(model, [[1]] * 5, **options) if token is not None]
    assert order == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 4, 4, 4]
    assert list(generate_batch(model, [], **(options | {"seeds": []}))) == []


def test_long_prompts_are_prefilled_a_few_at_a_time(model: GPT2 | Llama3, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, read = [[1, *range(length)] for length in (5, 6, 7, 5, 11)], []
    expected = batch(model, prompts, batch_size=5)
    prefill = Decoder.prefill
    monkeypatch.setattr(Decoder, "prefill", lambda self, rows, texts: read.append(rows) or prefill(self, rows, texts))
    monkeypatch.setattr(generate_module, "PREFILL_TOKENS", 16)
    assert batch(model, prompts, batch_size=5) == expected
    assert read[:3] == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("architecture", PARAMS)
def test_the_step_compiles_as_one_graph_and_gives_the_same_ids(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(PARAMS[architecture], VOCAB).eval()
    compile, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f, **o: calls.append(o) or compile(f, **(o | {"backend": "eager"})))
    expected = batch(model, MIXED, temperature=0.0)
    assert calls == []
    assert batch(model, MIXED, temperature=0.0, compiled=True) == expected
    assert calls == [{"fullgraph": True, "dynamic": False}]


def test_the_step_is_compiled_once_even_if_the_context_is_full_or_few_texts_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graphs, compile = build_model(PARAMS["llama3"], VOCAB).eval(), [], torch.compile

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: compile(f, **options, backend=backend))
    monkeypatch.setattr(generate_module, "ONE_THREAD", 2 * sum(each.numel() for each in model.parameters()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batch(model, [[1, 2, 3]] * 5, batch_size=4, max_new_tokens=30, compiled=True)  # the fifth is alone
    finally:
        torch.set_num_threads(before)
        torch.compiler.reset()
    assert len(graphs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_the_same_greedy_ids(model: GPT2 | Llama3, compiled: bool) -> None:
    expected = batch(model, MIXED, temperature=0.0)
    assert batch(model.to("cuda"), MIXED, temperature=0.0, compiled=compiled) == expected


def test_a_full_context_keeps_its_last_half(model: GPT2 | Llama3) -> None:
    prompt = list(range(12))
    first, second = run(model, prompt, temperature=0.0, max_new_tokens=2)
    assert run(model, [*prompt, first][-6:], temperature=0.0, max_new_tokens=1) == [second]
    assert run(model, list(range(30)), temperature=0.0) == run(model, list(range(24, 30)), temperature=0.0)


def test_a_small_forward_pass_runs_on_one_thread_and_the_number_of_threads_is_restored(
    model: GPT2 | Llama3, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, used = torch.get_num_threads(), []
    two_tokens = 2 * sum(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(generate_module, "ONE_THREAD", two_tokens)
    torch.set_num_threads(2)
    embed = model.token_emb.forward
    monkeypatch.setattr(model.token_emb, "forward", lambda ids: used.append(torch.get_num_threads()) or embed(ids))
    try:
        for _ in islice(generate(model, [3, 4], **DEFAULTS), 3):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [2, 1, 1]  # the prompt of two tokens, and two steps of one


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
        ([1], {"temperature": float("nan")}, r"temperature = nan: must be between 0 \(greedy\) and 100"),
    ],
)
def test_invalid_arguments_are_refused_before_the_first_id(
    model: GPT2 | Llama3, prompt: list[int], change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        generate(model, prompt, **(DEFAULTS | change))
