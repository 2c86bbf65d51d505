"""GPT-2 as GPT2LMHeadModel in transformers and `gpt2` in llama.cpp.

Both store queries, keys and values as one matrix, with biases. transformers stores the matrices of a block transposed,
and has no grouped-query attention, so `n_head` is both `n_heads` and `n_kv_heads`.
"""

from tiny_lm.export.table import Architecture, Constant, Layer, Param
from tiny_lm.model.gpt2 import NORM_EPS

GPT2 = Architecture(
    hf_class="GPT2LMHeadModel",
    hf_type="gpt2",
    gguf="gpt2",
    values=(
        Param("context_length", "n_positions", "context_length"),
        Param("d_model", "n_embd", "embedding_length"),
        Param("n_layers", "n_layer", "block_count"),
        Param("n_heads", "n_head", "attention.head_count"),
        Param("n_kv_heads", "n_head", "attention.head_count_kv"),
        Param("d_ff", "n_inner", "feed_forward_length"),
        Constant("gelu_new", "activation_function"),
        Constant(NORM_EPS, "layer_norm_epsilon", "attention.layer_norm_epsilon"),
        Param("embedding_dropout", "embd_pdrop"),
        Param("attention_dropout", "attn_pdrop"),
        Param("residual_dropout", "resid_pdrop"),
    ),
    not_in_config={"qkv_bias": True},
    layers=(
        Layer("token_emb", "transformer.wte", "token_embd"),
        Layer("position_emb", "transformer.wpe", "position_embd"),
        Layer("norm", "transformer.ln_f", "output_norm"),
    ),
    hf_blocks="transformer.h",
    block_layers=(
        Layer("attention_norm", "ln_1", "attn_norm"),
        Layer(
            "attention.W_q + attention.W_k + attention.W_v", "attn.c_attn", "attn_qkv", conv1d=True, always_bias=True
        ),
        Layer("attention.out_proj", "attn.c_proj", "attn_output", conv1d=True),
        Layer("feedforward_norm", "ln_2", "ffn_norm"),
        Layer("feedforward.fc1", "mlp.c_fc", "ffn_up", conv1d=True),
        Layer("feedforward.fc2", "mlp.c_proj", "ffn_down", conv1d=True),
    ),
)
