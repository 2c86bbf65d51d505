"""The format of an architecture's table: names of its weights and values in our model, transformers and llama.cpp.

gpt2.py, llama3.py and qwen3.py contain such tables, and registry.py lists them. All other code is the same for every
architecture: huggingface.py and publish/gguf.py write a model, from_hf.py reads one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from tiny_lm.model.checkpoint import stored
from tiny_lm.model.transformer import Transformer, TransformerParams


@dataclass(frozen=True)
class Layer:
    """A layer's names, without `.weight` and `.bias`. A layer that the model does not have, such as the head if the
    embeddings are tied, is skipped.
    """

    ours: str  # "a + b": layers whose weights transformers and llama.cpp concatenate
    hf: str
    gguf: str
    conv1d: bool = False  # transformers stores the weight transposed
    always_bias: bool = False  # transformers and llama.cpp require a bias: zeros if our model has none
    rope_heads: str = ""  # the param with the number of heads, if llama.cpp's RoPE rotates neighboring dimensions

    def names(self, kind: str) -> list[str]:
        """Our parameters of this kind, `weight` or `bias`."""
        return [f"{name}.{kind}" for name in self.ours.split(" + ")]


@dataclass(frozen=True)
class Param:
    """A param, its key in config.json and its key in GGUF metadata (none if empty)."""

    field: str
    hf: str
    gguf: str = ""
    written: str = ""  # the property to write if the field may be None: `feedforward_width` for `d_ff`
    read: bool = True  # false: follows from other params, so it is written only

    def value(self, params: TransformerParams) -> Any:
        return getattr(params, self.written or self.field)


@dataclass(frozen=True)
class Constant:
    """A value that all our models of the architecture have."""

    constant: str | float | bool
    hf: str
    gguf: str = ""

    def value(self, params: TransformerParams) -> Any:
        return self.constant


@dataclass(frozen=True, kw_only=True)
class Architecture:
    hf_class: str  # in transformers
    hf_type: str  # model_type in config.json
    gguf: str  # general.architecture, and the prefix of the keys in GGUF metadata
    values: tuple[Param | Constant, ...]  # in the order of config.json
    not_in_config: Mapping[str, object]  # params that config.json does not contain, and their values when it is read
    layers: tuple[Layer, ...]
    hf_blocks: str
    block_layers: tuple[Layer, ...]  # names within `blocks.N`, `{hf_blocks}.N` and `blk.N`

    def check_exportable(self, params: TransformerParams) -> None:
        """ValueError if params that are one value in transformers differ."""
        for a, b in combinations((row for row in self.values if isinstance(row, Param)), 2):
            if a.hf == b.hf and a.value(params) != b.value(params):
                raise ValueError(
                    f"model.{b.field} = {b.value(params)}: must be {a.field} = {a.value(params)} to be exported: both "
                    f"are `{a.hf}` in transformers' {self.hf_class}"
                )

    def config(self, params: TransformerParams) -> dict[str, Any]:
        """The params as in config.json."""
        return {row.hf: row.value(params) for row in self.values}

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `config`: the params, not validated yet."""
        read = {row.field: config.get(row.hf) for row in self.values if isinstance(row, Param) and row.read}
        return {**self.not_in_config, **read}

    def metadata(self, params: TransformerParams) -> dict[str, Any]:
        """The params as in GGUF metadata."""
        return {f"{self.gguf}.{row.gguf}": row.value(params) for row in self.values if row.gguf}

    def groups(self, model: Transformer) -> Iterator[tuple[Layer, str, list[Tensor]]]:
        """The layer, `weight` or `bias`, and the model's tensors that transformers and llama.cpp store as one."""
        tensors = stored(model)
        for layer in self._all_layers(model.params.n_layers):
            weights, biases = (
                [tensors.pop(name) for name in layer.names(kind) if name in tensors] for kind in ("weight", "bias")
            )
            if layer.always_bias and not biases:
                biases = [weight.new_zeros(len(weight)) for weight in weights]
            if weights:
                yield layer, "weight", weights
            if biases:
                yield layer, "bias", biases
        assert not tensors, f"the table of {model.params.architecture} has no row for {', '.join(tensors)}"

    def tensors(self, model: Transformer) -> Iterator[tuple[Layer, str, Tensor]]:
        """The groups, each concatenated."""
        for layer, kind, group in self.groups(model):
            yield layer, kind, torch.cat(group) if len(group) > 1 else group[0]

    def _all_layers(self, n_layers: int) -> Iterator[Layer]:
        """All layers of a model, by their full names."""
        yield from self.layers
        for n in range(n_layers):
            for layer in self.block_layers:
                ours = " + ".join(f"blocks.{n}.{name}" for name in layer.ours.split(" + "))
                yield replace(layer, ours=ours, hf=f"{self.hf_blocks}.{n}.{layer.hf}", gguf=f"blk.{n}.{layer.gguf}")
