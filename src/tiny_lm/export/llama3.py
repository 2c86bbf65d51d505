"""Llama 3 as LlamaForCausalLM in transformers and `llama` in llama.cpp.

For transformers the weights are only renamed. llama.cpp's RoPE rotates neighboring dimensions of a head, ours the two
halves, so the rows of the query and key matrices are reordered.
"""

from tiny_lm.export.table import Architecture, Constant, Layer, Param

LLAMA3 = Architecture(
    hf_class="LlamaForCausalLM",
    hf_type="llama",
    gguf="llama",
    values=(
        Param("context_length", "max_position_embeddings", "context_length"),
        Param("d_model", "hidden_size", "embedding_length"),
        Param("n_layers", "num_hidden_layers", "block_count"),
        Param("n_heads", "num_attention_heads", "attention.head_count"),
        Param("n_kv_heads", "num_key_value_heads", "attention.head_count_kv"),
        Param("dim_per_head", "head_dim", "rope.dimension_count", read=False),
        Param("d_ff", "intermediate_size", "feed_forward_length", written="feedforward_width"),
        Constant("silu", "hidden_act"),
        Param("norm_eps", "rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        Param("rope_theta", "rope_theta", "rope.freq_base"),
        Param("attention_bias", "attention_bias"),
        Constant(False, "mlp_bias"),
        Param("attention_dropout", "attention_dropout"),
        Param("tie_embeddings", "tie_word_embeddings"),
    ),
    not_in_config={"embedding_dropout": 0.0, "residual_dropout": 0.0},
    layers=(
        Layer("token_emb", "model.embed_tokens", "token_embd"),
        Layer("norm", "model.norm", "output_norm"),
        Layer("lm_head", "lm_head", "output"),
    ),
    hf_blocks="model.layers",
    block_layers=(
        Layer("attention_norm", "input_layernorm", "attn_norm"),
        Layer("attention.W_q", "self_attn.q_proj", "attn_q", rope_heads="n_heads"),
        Layer("attention.W_k", "self_attn.k_proj", "attn_k", rope_heads="n_kv_heads"),
        Layer("attention.W_v", "self_attn.v_proj", "attn_v"),
        Layer("attention.out_proj", "self_attn.o_proj", "attn_output"),
        Layer("feedforward_norm", "post_attention_layernorm", "ffn_norm"),
        Layer("feedforward.w1", "mlp.gate_proj", "ffn_gate"),
        Layer("feedforward.w2", "mlp.down_proj", "ffn_down"),
        Layer("feedforward.w3", "mlp.up_proj", "ffn_up"),
    ),
)
