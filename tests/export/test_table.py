"""The tables of the architectures are complete, and params survive a round trip."""

from dataclasses import fields, replace

import pytest
import torch

from tiny_lm.export.huggingface import huggingface_config, huggingface_tensors
from tiny_lm.export.merges import bytes_to_unicode, unicode_to_bytes
from tiny_lm.export.registry import ARCHITECTURES
from tiny_lm.export.table import Param
from tiny_lm.io.params import load_params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import MODELS, build_model
from tiny_lm.publish.gguf import gguf_tensors

LLAMA3 = Llama3Params(
    architecture="llama3", context_length=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24,
    rope_theta=500.0, norm_eps=1e-5, embedding_dropout=0.0, attention_dropout=0.1, residual_dropout=0.0,
)  # fmt: skip


def test_every_architecture_can_be_exported() -> None:
    assert ARCHITECTURES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_param_is_in_the_table(name: str) -> None:
    """A missing one would be lost in the export."""
    architecture = ARCHITECTURES[name]
    listed = [row.field for row in architecture.values if isinstance(row, Param) and row.read]
    assert sorted([*listed, *architecture.not_in_config, "architecture"]) == sorted(
        f.name for f in fields(MODELS[name])
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_params_are_recovered_from_config_json(name: str) -> None:
    common = {"architecture": name, "context_length": 16, "d_model": 16, "n_layers": 3, "n_heads": 4, "n_kv_heads": 4}
    own = {"gpt2": {"d_ff": 24, "qkv_bias": True}, "llama3": {"d_ff": 24, "rope_theta": 5e2, "norm_eps": 1e-6},
           "qwen3": {"d_ff": 24, "rope_theta": 5e2, "norm_eps": 1e-6, "head_dim": 6}}[name]  # fmt: skip
    dropout = {"attention_dropout": 0.25, "embedding_dropout": 0.0, "residual_dropout": 0.0}
    params = load_params("model", {**common, **own, **dropout}, MODELS)
    architecture = ARCHITECTURES[name]
    values = {"architecture": name, **architecture.params(architecture.config(params))}
    assert load_params("model", values, MODELS) == params


def test_an_untied_head_is_exported_and_a_tied_one_is_not() -> None:
    torch.manual_seed(0)
    model = build_model(replace(LLAMA3, tie_embeddings=True), 30)
    assert huggingface_config(model)["tie_word_embeddings"] is True
    assert "lm_head.weight" not in huggingface_tensors(model)
    assert "output.weight" not in gguf_tensors(model)
    model = build_model(replace(LLAMA3, tie_embeddings=False), 30)
    assert huggingface_config(model)["tie_word_embeddings"] is False
    assert torch.equal(huggingface_tensors(model)["lm_head.weight"], model.lm_head.weight)
    assert torch.equal(gguf_tensors(model)["output.weight"], model.lm_head.weight)


def test_a_weight_that_is_not_in_the_table_is_an_error() -> None:
    model = build_model(LLAMA3, 30)
    model.blocks[1].attention.q_norm = torch.nn.RMSNorm(4)
    with pytest.raises(AssertionError, match="llama3 has no row for blocks.1.attention.q_norm.weight"):
        huggingface_tensors(model)


def test_bytes_to_unicode_is_gpt2s_and_has_an_inverse() -> None:
    assert bytes_to_unicode(b" the\n\x00") == "ĠtheĊĀ"
    everything = bytes(range(256))
    assert len(set(bytes_to_unicode(everything))) == 256
    assert unicode_to_bytes(bytes_to_unicode(everything)) == everything
