"""The form of an architecture's table: its weights and sizes, by the names of our model, transformers and llama.cpp.

gpt2.py and llama3.py are such tables, registry.py lists them. All other code is the same for every architecture:
huggingface.py and publish/gguf.py write what the table describes, from_hf.py reads it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tiny_lm.model.checkpoint import stored
from tiny_lm.model.transformer import Transformer, TransformerParams


@dataclass(frozen=True)
class Layer:
    """The name of a layer, without `.weight` and `.bias`, in our model, in transformers and in llama.cpp.

    A layer that a model does not have is skipped, such as an own head if the embeddings are tied.
    """

    ours: str  # "a + b": layers whose matrices the others store as one, below each other
    hf: str
    gguf: str
    conv1d: bool = False  # transformers stores the matrix transposed
    always_bias: bool = False  # the others have a bias, which is zero if ours has none
    # Of queries and keys if llama.cpp's RoPE rotates neighboring dimensions: the param with the number of heads
    rope_heads: str = ""

    def names(self, kind: str) -> list[str]:
        """Our parameters of this kind, `weight` or `bias`."""
        return [f"{name}.{kind}" for name in self.ours.split(" + ")]


@dataclass(frozen=True)
class Param:
    """A field of the model's params, its key in config.json and its key in GGUF's metadata (none if empty)."""

    field: str
    hf: str
    gguf: str = ""
    written: str = ""  # the attribute to write instead: `d_ff` may be None, `feedforward_width` is its value

    def value(self, params: TransformerParams) -> Any:
        return getattr(params, self.written or self.field)


@dataclass(frozen=True)
class Derived:
    """An attribute of the params that follows from the fields: written, and not read back."""

    attribute: str
    hf: str
    gguf: str = ""

    def value(self, params: TransformerParams) -> Any:
        return getattr(params, self.attribute)


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
    hf_class: str  # of transformers
    hf_type: str  # config.json's model_type
    gguf: str  # general.architecture, and the prefix of its sizes
    sizes: tuple[Param | Derived | Constant, ...]  # in the order of config.json
    not_in_config: Mapping[str, object]  # params that config.json does not contain, and their value when it is read
    layers: tuple[Layer, ...]
    hf_blocks: str
    block_layers: tuple[Layer, ...]  # names within `blocks.N`, `{hf_blocks}.N` and `blk.N`
    # Raises ValueError if transformers cannot represent a model with these params.
    check_exportable: Callable[[TransformerParams], None] = lambda params: None

    def all_layers(self, n_layers: int) -> Iterator[Layer]:
        """Every layer of a model, by its full names."""
        yield from self.layers
        for n in range(n_layers):
            for layer in self.block_layers:
                ours = " + ".join(f"blocks.{n}.{name}" for name in layer.ours.split(" + "))
                yield replace(layer, ours=ours, hf=f"{self.hf_blocks}.{n}.{layer.hf}", gguf=f"blk.{n}.{layer.gguf}")

    def config(self, params: TransformerParams) -> dict[str, Any]:
        """What config.json contains of a model's params."""
        return {size.hf: size.value(params) for size in self.sizes}

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `config`: a model's params, not validated yet."""
        return {**self.not_in_config, **{size.field: config.get(size.hf) for size in self.sizes if type(size) is Param}}

    def metadata(self, params: TransformerParams) -> dict[str, Any]:
        """What GGUF's metadata contain of a model's params."""
        return {f"{self.gguf}.{size.gguf}": size.value(params) for size in self.sizes if size.gguf}

    def tensors(self, model: Transformer) -> Iterator[tuple[Layer, str, Tensor]]:
        """The model's tensors as the others group them: layer, `weight` or `bias`, and the tensor."""
        weights = stored(model)
        for layer in self.all_layers(model.params.n_layers):
            parts = [weights.pop(name) for name in layer.names("weight") if name in weights]
            biases = [weights.pop(name) for name in layer.names("bias") if name in weights]
            if parts:
                matrix = torch.cat(parts) if len(parts) > 1 else parts[0]
                yield layer, "weight", matrix
                if layer.always_bias and not biases:
                    biases = [matrix.new_zeros(len(matrix))]
            if biases:
                yield layer, "bias", torch.cat(biases) if len(biases) > 1 else biases[0]
        assert not weights, f"the table of {model.params.architecture} has no row for {', '.join(weights)}"
