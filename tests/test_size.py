"""Sizes compared with transformers, published figures, and real runs of torch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tiny_lm.export.huggingface import huggingface_config
from tiny_lm.io.params import load_params, read_yaml
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import MODELS, build_model, meta_model
from tiny_lm.size import PARTS, parameters_by_part, step_memory
from tiny_lm.training.optimizer import build_optimizer
from tiny_lm.training.params import TrainParams
from tiny_lm.training.tree import GradientTree

PRESETS = sorted((Path(__file__).parents[1] / "configs/model").glob("*.yaml"))
NO_DROPOUT = {f"{part}_dropout": 0.0 for part in ("embedding", "attention", "residual")}
GPT2 = GPT2Params(
    architecture="gpt2", context_length=64, d_model=96, n_layers=3, n_heads=6, n_kv_heads=6, d_ff=200, qkv_bias=True,
    **NO_DROPOUT,
)  # fmt: skip
LLAMA3 = Llama3Params(
    architecture="llama3", context_length=64, d_model=96, n_layers=3, n_heads=6, n_kv_heads=2, d_ff=200,
    rope_theta=500.0, norm_eps=1e-6, **NO_DROPOUT,
)  # fmt: skip
BOTH = pytest.mark.parametrize("params", [GPT2, LLAMA3], ids=["gpt2", "llama3"])
VOCAB, BATCH = 301, 3


def total(params, vocab_size):
    return sum(parameters_by_part(meta_model(params, vocab_size)).values())


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_has_the_parameter_count_of_transformers(path):
    params = load_params("model", read_yaml(path)["model"], MODELS)
    model = meta_model(params, 1000)
    config = huggingface_config(model)
    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).num_parameters()
    biases = 0 if getattr(params, "qkv_bias", True) else params.n_layers * 3 * params.d_model  # theirs always has them
    assert total(params, 1000) == theirs - biases


@pytest.mark.parametrize(
    ("params", "vocab_size", "published"),
    [
        (replace(GPT2, context_length=1024, d_model=768, n_layers=12, n_heads=12, n_kv_heads=12, d_ff=3072),
         50257, 124_439_808),  # GPT-2 small
        (replace(LLAMA3, context_length=8192, d_model=2048, n_layers=16, n_heads=32, n_kv_heads=8, d_ff=8192,
                 attention_bias=False, tie_embeddings=True), 128256, 1_235_814_400),  # Llama 3.2 1B
    ],
    ids=["gpt2-small", "llama-3.2-1b"],
)  # fmt: skip
def test_published_models_have_their_published_parameter_count(params, vocab_size, published):
    assert total(params, vocab_size) == published


def test_each_part_has_its_own_parameters():
    d, kv, ff = 96, 96 // 3, 200
    parts = parameters_by_part(meta_model(LLAMA3, VOCAB))
    attention = 3 * (2 * d * d + 2 * d * kv + 2 * d + 2 * kv)
    expected = [VOCAB * d, 0, attention, 3 * 3 * d * ff, 7 * d, VOCAB * d]
    assert parts == dict(zip(PARTS, expected, strict=True))
    parts = parameters_by_part(meta_model(GPT2, VOCAB))
    expected = [VOCAB * d, 64 * d, 3 * (4 * d * d + 4 * d), 3 * (2 * d * ff + ff + d), 7 * 2 * d, 0]
    assert parts == dict(zip(PARTS, expected, strict=True))


@BOTH
def test_flops_match_those_that_torch_counts(params):
    model = build_model(replace(params, n_kv_heads=params.n_heads), VOCAB)
    tokens = torch.zeros(BATCH, 64, dtype=torch.long)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        forward = counter.get_total_flops() / tokens.numel()
        logits.sum().backward()
    both = counter.get_total_flops() / tokens.numel()
    # ours also counts norms and biases, as PaLM's rule does: under 2 % here
    assert model.flops_per_token() / 3 == pytest.approx(forward, rel=0.02)
    assert model.flops_per_token() == pytest.approx(both, rel=0.02)


def kept(model, x, y, dtype):
    """Bytes that autograd keeps for a batch in a real run, without weights and tables, each storage once."""
    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor  # which keeps it alive
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), \
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32):  # fmt: skip
        model.summed_loss(x, y)
    return sum(t.untyped_storage().nbytes() for address, t in found.items() if address not in own)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", ["none", "embedding_dropout", "attention_dropout", "residual_dropout"])
def test_activations_match_a_real_run_to_the_byte(params, dtype, dropout):
    if dropout != "none":
        params = replace(params, **{dropout: 0.1})
    x = torch.randint(0, VOCAB, (BATCH, 64))
    estimate = step_memory(params, VOCAB, BATCH, dtype, "adamw")["activations"]
    assert estimate == kept(build_model(params, VOCAB), x, x, dtype)


@BOTH
@pytest.mark.parametrize("optimizer_name", ["muon", "adamw"])
def test_weights_gradients_and_optimizer_match_a_real_step(params, optimizer_name):
    model = build_model(params, VOCAB)
    optimizer = build_optimizer(model, TrainParams(optimizer=optimizer_name), weight_decay=0.0)
    x = torch.randint(0, VOCAB, (BATCH, 64))
    (model.summed_loss(x, x) / x.numel()).backward()
    optimizer.step()
    memory = step_memory(params, VOCAB, BATCH, torch.float32, optimizer_name)
    assert memory["weights"] == sum(p.nbytes for p in model.parameters())
    assert memory["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    tree = GradientTree()
    for micro_batches in range(1, 20):
        estimate = step_memory(params, VOCAB, BATCH, torch.float32, optimizer_name, micro_batches=micro_batches)
        most = 0  # sets of gradients at the end of a forward and backward pass, including those of its micro-batch
        for _ in range(micro_batches):
            (model.summed_loss(x, x) / x.numel()).backward()
            most = max(most, len(tree.subtrees) + 1)
            tree.take(model)
        tree.clear()
        assert estimate["gradients"] == most * memory["gradients"]
    states = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.dim()]
    assert memory["optimizer"] == sum(tensor.nbytes for tensor in states)
