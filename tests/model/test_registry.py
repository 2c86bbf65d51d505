"""All architectures: equality with transformers, causality, gradients, tied weights, presets, params."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.qwen3 import Qwen3Params
from tiny_lm.model.registry import MODELS, build_model
from tiny_lm.model.transformer import rotate

PRESETS = Path(__file__).parents[2] / "configs" / "model"
GPT2 = GPT2Params(
    architecture="gpt2", context_length=32, d_model=48, n_layers=2, n_heads=6, n_kv_heads=6, d_ff=80, qkv_bias=False,
    embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip
LLAMA3 = Llama3Params(
    architecture="llama3", context_length=32, d_model=48, n_layers=2, n_heads=6, n_kv_heads=2, d_ff=80,
    rope_theta=500.0, norm_eps=1e-6, embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0,
)  # fmt: skip
QWEN3 = Qwen3Params(
    context_length=32, d_model=48, n_layers=2, n_heads=6, n_kv_heads=2, head_dim=12, d_ff=80, rope_theta=500.0
)
ALL = pytest.mark.parametrize(
    "params", [GPT2, replace(GPT2, n_kv_heads=2), LLAMA3, QWEN3], ids=["gpt2", "gpt2-gqa", "llama3", "qwen3"]
)
VOCAB = 101


def build(params: GPT2Params | Llama3Params) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(params, VOCAB)
    for parameter in model.parameters():  # unlike initial weights, with biases of 0 and scales of 1
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def tokens(length: int = 32) -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_kv_heads", [6, 3, 1], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize("theta", [500.0, 10000.0])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_llama3_logits_equal_transformers(n_kv_heads: int, theta: float, tied: bool, bias: bool, eps: float) -> None:
    changes = {"n_kv_heads": n_kv_heads, "rope_theta": theta, "tie_embeddings": tied, "attention_bias": bias}
    model = build(replace(LLAMA3, **changes, norm_eps=eps))
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=n_kv_heads, max_position_embeddings=32, rms_norm_eps=eps, tie_word_embeddings=tied,
        attention_bias=bias, rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(model.token_emb.weight)
        theirs.lm_head.weight.copy_(model.lm_head.weight)
        theirs.model.norm.weight.copy_(model.norm.weight)
        for block, layer in zip(model.blocks, theirs.model.layers, strict=True):
            layer.input_layernorm.weight.copy_(block.attention_norm.weight)
            layer.post_attention_layernorm.weight.copy_(block.feedforward_norm.weight)
            for ours, other in (("W_q", "q_proj"), ("W_k", "k_proj"), ("W_v", "v_proj"), ("out_proj", "o_proj")):
                getattr(layer.self_attn, other).weight.copy_(getattr(block.attention, ours).weight)
                if bias:
                    getattr(layer.self_attn, other).bias.copy_(getattr(block.attention, ours).bias)
            layer.mlp.gate_proj.weight.copy_(block.feedforward.w1.weight)
            layer.mlp.down_proj.weight.copy_(block.feedforward.w2.weight)
            layer.mlp.up_proj.weight.copy_(block.feedforward.w3.weight)
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [6, 3, 1], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize("head_dim", [None, 12])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_qwen3_logits_equal_transformers(n_kv_heads: int, head_dim: int | None, eps: float) -> None:
    model = build(replace(QWEN3, n_kv_heads=n_kv_heads, head_dim=head_dim, norm_eps=eps))
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=n_kv_heads, head_dim=head_dim or 8, max_position_embeddings=32, rms_norm_eps=eps,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )  # fmt: skip
    theirs = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(model.token_emb.weight)
        theirs.model.norm.weight.copy_(model.norm.weight)
        for block, layer in zip(model.blocks, theirs.model.layers, strict=True):
            layer.input_layernorm.weight.copy_(block.attention_norm.weight)
            layer.post_attention_layernorm.weight.copy_(block.feedforward_norm.weight)
            for ours, other in (("W_q", "q_proj"), ("W_k", "k_proj"), ("W_v", "v_proj"), ("out_proj", "o_proj"),
                                ("q_norm", "q_norm"), ("k_norm", "k_norm")):  # fmt: skip
                getattr(layer.self_attn, other).weight.copy_(getattr(block.attention, ours).weight)
            for ours, other in (("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")):
                getattr(layer.mlp, other).weight.copy_(getattr(block.feedforward, ours).weight)
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_gpt2_logits_equal_transformers(qkv_bias: bool) -> None:
    model = build(replace(GPT2, qkv_bias=qkv_bias))
    theirs = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=48, n_layer=2, n_head=6, n_inner=80))
    theirs.eval()
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(model.token_emb.weight)
        theirs.transformer.wpe.weight.copy_(model.position_emb.weight)
        pairs = [(theirs.transformer.ln_f, model.norm)]
        for block, layer in zip(model.blocks, theirs.transformer.h, strict=True):
            pairs += [(layer.ln_1, block.attention_norm), (layer.ln_2, block.feedforward_norm)]
            attention = [block.attention.W_q, block.attention.W_k, block.attention.W_v]
            layer.attn.c_attn.weight.copy_(torch.cat([part.weight for part in attention]).T)
            layer.attn.c_attn.bias.copy_(torch.cat([part.bias for part in attention]) if qkv_bias else torch.zeros(144))
            for conv, linear in (
                (layer.attn.c_proj, block.attention.out_proj),
                (layer.mlp.c_fc, block.feedforward.fc1),
                (layer.mlp.c_proj, block.feedforward.fc2),
            ):
                conv.weight.copy_(linear.weight.T)
                conv.bias.copy_(linear.bias)
        for norm, ours in pairs:
            norm.weight.copy_(ours.weight)
            norm.bias.copy_(ours.bias)
        torch.testing.assert_close(model(tokens()), theirs(tokens()).logits, atol=1e-5, rtol=1e-5)


@ALL
def test_a_position_attends_to_itself_and_earlier_ones_only(params: GPT2Params | Llama3Params) -> None:
    model = build(params)
    seen: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    model.token_emb.register_forward_hook(keep)
    model(tokens(9))[:, 5].sum().backward()
    gradient = seen[0].grad.abs().sum((0, 2))  # type: ignore[union-attr]
    assert (gradient[:6] > 0).all()
    assert (gradient[6:] == 0).all()


@ALL
def test_every_parameter_gets_a_gradient_and_the_head_is_tied_or_not(params: GPT2Params | Llama3Params) -> None:
    model = build(params)
    model(tokens()).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert (model.lm_head.weight is model.token_emb.weight) == params.ties_embeddings
    assert sum(parameter.shape == (VOCAB, 48) for parameter in model.parameters()) == 2 - params.ties_embeddings


@ALL
def test_forward_is_the_head_on_features(params: GPT2Params | Llama3Params) -> None:
    model = build(params)
    assert torch.equal(model(tokens()), model.lm_head(model.features(tokens())))


@ALL
def test_the_same_output_every_time_in_eval_mode(params: GPT2Params | Llama3Params) -> None:
    dropped = {f"{part}_dropout": 0.5 for part in ("embedding", "attention", "residual")}
    model = build(replace(params, **dropped))
    assert torch.equal(model(tokens()), model(tokens()))
    torch.testing.assert_close(model(tokens()), build(params)(tokens()))


@ALL
@pytest.mark.parametrize("part", ["embedding", "attention", "residual"])
def test_each_dropout_changes_training(params: GPT2Params | Llama3Params, part: str) -> None:
    plain, dropped = build(params).train(), build(replace(params, **{f"{part}_dropout": 0.3})).train()
    assert torch.equal(plain(tokens()), plain(tokens()))
    torch.manual_seed(0)
    assert not torch.allclose(dropped(tokens()), plain(tokens()))


@ALL
def test_an_input_longer_than_the_context_is_an_error(params: GPT2Params | Llama3Params) -> None:
    with pytest.raises(ValueError, match="input of 33 tokens is longer than the model's context_length = 32"):
        build(params)(tokens(33))


@ALL
def test_initial_weights_have_the_standard_deviations_of_gpt2(params: GPT2Params | Llama3Params) -> None:
    model = build_model(replace(params, d_model=192, n_layers=8), 1000)
    for name, parameter in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight", "w2.weight")):
            assert parameter.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.05), name
        elif parameter.dim() == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        elif name not in ("blocks.0.attention.W_q.bias", "blocks.0.attention.W_k.bias"):  # see below
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name


@ALL
def test_blocks_that_start_at_zero_are_the_identity(params: GPT2Params | Llama3Params) -> None:
    model = build_model(params, VOCAB, "zero").eval()
    embedded = model.token_emb(tokens())
    if isinstance(params, GPT2Params):
        embedded = embedded + model.position_emb.weight[: tokens().shape[1]]
    assert torch.equal(model.features(tokens()), model.norm(embedded))
    torch.manual_seed(0)
    zero = build_model(params, VOCAB, "zero").blocks[0].attention.W_q.weight
    torch.manual_seed(0)
    assert torch.equal(zero, build_model(params, VOCAB, "gpt2").blocks[0].attention.W_q.weight)


@ALL
def test_copying_initialization_makes_heads_write_what_they_read(params: GPT2Params | Llama3Params) -> None:
    params = replace(params, d_model=192)
    model = build_model(params, 1000, "copying")
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            inputs = parameter.shape[0] if "out_proj" in name else parameter.shape[1]  # out_proj: of values
            assert parameter.std().item() == pytest.approx(inputs**-0.5, rel=0.05), name
    attention = model.blocks[0].attention
    head_dim, group = params.dim_per_head, params.n_heads // params.n_kv_heads
    for head in range(params.n_heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        rows = slice(head // group * head_dim, (head // group + 1) * head_dim)
        assert torch.equal(attention.out_proj.weight[:, columns], attention.W_v.weight[rows].T)
    x = torch.randn(500, 192)
    written = attention.out_proj(
        attention.W_v(x).view(500, params.n_kv_heads, -1).repeat_interleave(group, 1).flatten(1)
    )
    similarity = torch.nn.functional.cosine_similarity(written, x)
    assert similarity.mean() > 0.3  # the heads together write in the direction of the token itself
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("n_kv_heads", [6, 3, 1], ids=["MHA", "GQA", "MQA"])
def test_the_first_heads_start_by_attending_to_the_tokens_before(n_kv_heads: int) -> None:
    params = replace(LLAMA3, n_kv_heads=n_kv_heads)
    model = build_model(params, VOCAB)
    attention, x = model.blocks[0].attention.requires_grad_(False), torch.zeros(1, 32, params.d_model)
    q, k = attention.W_q(x).view(1, 32, 6, 8), attention.W_k(x).view(1, 32, n_kv_heads, 8)
    q, k = (rotate(part, model.rope(32))[0].transpose(0, 1) for part in (q, k))  # (H, T, D), (K, T, D)
    for head in range(6):
        keys = k[head * n_kv_heads // 6]  # (T, D)
        scores = q[head] @ keys.T / math.sqrt(8)  # (T, T)
        group, first = divmod(head * n_kv_heads, 6)
        if first or group >= 2:  # attends to all alike
            assert not q[head].any()
            continue
        for row in range(group + 2, 32):
            before = row - group - 1  # one before, two before
            assert scores[row, : row + 1].argmax() == before
            assert scores[row, before] - scores[row, before - 1] == pytest.approx(4.0, abs=1e-4)
    without = build_model(replace(params, attention_bias=False), VOCAB)
    assert not any(name.endswith("bias") for name, _ in without.named_parameters())


@pytest.mark.parametrize("params", [LLAMA3, QWEN3], ids=["llama3", "qwen3"])
def test_an_untied_head_has_a_separate_weight(params: Llama3Params | Qwen3Params) -> None:
    tied, untied = (build_model(replace(params, tie_embeddings=tie), VOCAB) for tie in (True, False))
    assert tied.lm_head.weight is tied.token_emb.weight
    assert untied.lm_head.weight is not untied.token_emb.weight
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (tied, untied)]
    assert sizes[1] == sizes[0] + VOCAB * params.d_model
    assert tied.flops_per_token() == untied.flops_per_token()  # an embedding that is only looked up costs none
    assert tied.flops_per_token() - tied.flops_per_token(0.25) == 6 * 0.75 * VOCAB * params.d_model
    untied.summed_loss(tokens(), tokens()).backward()
    assert all(parameter.grad is not None for parameter in untied.parameters())


def test_qkv_bias_adds_three_vectors_per_layer() -> None:
    def count(params: GPT2Params) -> int:
        return sum(p.numel() for p in build_model(params, VOCAB).parameters())

    assert count(replace(GPT2, qkv_bias=True)) - count(GPT2) == 2 * 3 * 48


@pytest.mark.parametrize(
    ("preset", "vocab_size", "parameters"),
    [
        # 2·4096·128 + 3·(4·128² + 4·128 + 3·128·384 + 2·128) + 128
        ("llama3-tiny", 4096, 1_689_984),
        # 8192·768 + 1024·768 + 2·(4·768² + 2·768·3072 + 768 + 3072 + 768 + 4·768) + 2·768
        ("gpt2-2l", 8192, 21_250_560),
        # 16384·384 + 12·(2·384² + 2·384·128 + 3·384·1024 + 2·384) + 384
        ("llama3-12l", 16384, 25_175_424),
    ],
)
def test_presets_build_with_the_published_number_of_parameters(preset: str, vocab_size: int, parameters: int) -> None:
    params = load_params("model", read_yaml(PRESETS / f"{preset}.yaml")["model"], MODELS)
    with torch.device("meta"):
        model = build_model(params, vocab_size)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_runs_at_a_reduced_size(path: Path) -> None:
    params = load_params("model", read_yaml(path)["model"], MODELS)
    small = replace(params, n_layers=1, context_length=8)
    assert build_model(small, 50)(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 50)


def test_the_default_width_of_swiglu() -> None:
    assert replace(LLAMA3, d_model=384, d_ff=None).feedforward_width == 1024
    assert replace(LLAMA3, d_model=396, d_ff=None).feedforward_width == 1280
    assert replace(LLAMA3, d_ff=100).feedforward_width == 100


@pytest.mark.parametrize(
    ("params", "change", "message"),
    [
        (GPT2, {"context_length": 0}, "context_length = 0: must be from 1 to 1048576"),
        (GPT2, {"d_ff": 0}, "d_ff = 0: must be at least 1"),
        (GPT2, {"n_kv_heads": 4}, "n_kv_heads = 4: must be a divisor of n_heads = 6"),
        (GPT2, {"residual_dropout": 1.0}, "residual_dropout = 1.0: must be from 0 to less than 1"),
        (LLAMA3, {"n_layers": 0}, "n_layers = 0: must be at least 1"),
        (LLAMA3, {"n_heads": 5}, "n_heads = 5: must be a divisor of d_model = 48"),
        (QWEN3, {"n_heads": 0, "n_kv_heads": 1}, "n_heads = 0: must be at least 1"),
        (QWEN3, {"n_heads": -4, "n_kv_heads": 4}, "n_heads = -4: must be at least 1"),
        (LLAMA3, {"n_heads": 16}, r"n_heads = 16: must be such that d_model / n_heads is even \(RoPE\); d_model = 48"),
        (LLAMA3, {"d_ff": 0}, "d_ff = 0: must be at least 1, or null for 8/3 of d_model"),
        (LLAMA3, {"norm_eps": 0.0}, "norm_eps = 0.0: must be more than 0"),
        (LLAMA3, {"rope_theta": -1.0}, "rope_theta = -1.0: must be more than 0"),
        (LLAMA3, {"attention_dropout": -0.1}, "attention_dropout = -0.1: must be from 0 to less than 1"),
    ],
)
def test_an_error_for_values_out_of_range_names_the_key(
    params: GPT2Params | Llama3Params, change: dict[str, float], message: str
) -> None:
    if change == {"n_heads": 16}:
        change = {"n_heads": 16, "n_kv_heads": 16}
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(params, **change)


@pytest.mark.parametrize("initialization", ["gpt2", "zero", "copying", "bigrams"])
def test_a_context_of_one_token_is_enough(initialization: str) -> None:
    model = build_model(Llama3Params(context_length=1, d_model=16, d_ff=24), 50, initialization)
    assert model(torch.tensor([[3], [4]])).isfinite().all()
