"""Opens what `writer.py` wrote: a model and what is known of it.

Reading runs no code: the weights are safetensors, the rest is JSON, and both are checked, sizes first, before a model
is built, since artifacts come from shared storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tiny_lm.checkpoint.writer import CONFIG, TIED, WEIGHTS, stored
from tiny_lm.config import load_params, read_json
from tiny_lm.files import sha256
from tiny_lm.model.build import MODELS, construct_model
from tiny_lm.model.gpt2 import GPT2, GPT2Params
from tiny_lm.model.llama3 import Llama3, Llama3Params
from tiny_lm.model.outline import outline
from tiny_lm.model.transformer import Transformer

MAX_JSON = 2**20  # bytes, of config.json and of the header of model.safetensors
MAX_TABLES = 2**30  # bytes of what a model computes for itself, such as RoPE's tables
REMEDY = "`tiny-lm restore train` or `dvc pull` brings the recorded one back, `dvc repro train` makes a new one"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What config.json says beside the model's params."""

    tokenizer_digest: str  # of the tokenizer that the model's ids are from
    step: int  # optimizer steps
    tokens_seen: int
    provenance: dict[str, str]  # name -> content hash of what the weights were made from
    weights_sha256: str


def load_checkpoint(
    folder: Path, tokenizer_digest: str | None = None, tokenizer_size: int | None = None
) -> tuple[GPT2 | Llama3, CheckpointInfo]:
    """The model, in eval mode, float32, on the CPU, and what is known of it.

    Raises ValueError, in one line, for anything that `save_checkpoint` did not write, and for a model whose ids are
    from another tokenizer than the one of `tokenizer_digest`, which has `tokenizer_size` tokens.
    """
    params, vocab_size, info = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    _check_weights(path, params, vocab_size)
    if sha256(path) != info.weights_sha256:
        raise ValueError(f"{path}: its checksum is not the one in {CONFIG}; {REMEDY}")
    if tokenizer_digest not in (None, info.tokenizer_digest):
        raise ValueError(
            f"{folder}: was trained with tokenizer {info.tokenizer_digest[:12]}, and this one is "
            f"{str(tokenizer_digest)[:12]}; `dvc repro` makes them fit"
        )
    if tokenizer_size not in (None, vocab_size):
        raise ValueError(f"{folder}: vocab_size = {vocab_size}: must be {tokenizer_size}, the tokenizer's; {REMEDY}")
    model = construct_model(params, vocab_size)
    tensors = load_file(path)
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{path}: not all of its weights are finite numbers; {REMEDY}")
    model.load_state_dict(tensors | {TIED: tensors["token_emb.weight"]})
    return model.eval(), info


def _read_config(path: Path) -> tuple[GPT2Params | Llama3Params, int, CheckpointInfo]:
    config = read_json(path, MAX_JSON, REMEDY)
    types = {
        "model": dict,
        "vocab_size": int,
        "tokenizer_digest": str,
        "step": int,
        "tokens_seen": int,
        "provenance": dict,
        "weights_sha256": str,
    }
    if config.keys() != types.keys():
        raise ValueError(f"{path}: must have exactly the keys {', '.join(types)}; {REMEDY}")
    for key, kind in types.items():
        if type(config[key]) is not kind or (kind is int and config[key] < 0):
            raise ValueError(f"{path}: {key} = {str(config[key])[:80]!r}: must be of type {kind.__name__}; {REMEDY}")
    if not all(type(digest) is str for digest in config["provenance"].values()):
        raise ValueError(f"{path}: provenance: must be texts; {REMEDY}")
    try:
        params: Any = load_params("model", config.pop("model"), MODELS)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from error
    return params, config.pop("vocab_size"), CheckpointInfo(**config)


def _check_weights(path: Path, params: GPT2Params | Llama3Params, vocab_size: int) -> None:
    """ValueError unless the file's tensors are those of the model. Allocates nothing of the model's size."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {REMEDY}")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, MAX_JSON):
        raise ValueError(f"{path}: not a safetensors file of ours (a header of {header} bytes); {REMEDY}")
    try:
        with safe_open(path, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); {REMEDY}") from error

    # what the model must at least have, so that a model on the meta device can be built in no time
    if params.n_layers > len(found) or 4 * largest_matrix(params, vocab_size) > size:
        raise ValueError(f"{path}: is too small for the model that {CONFIG} describes; {REMEDY}")
    model = outline(params, vocab_size)
    expected = {name: (tuple(tensor.shape), "F32") for name, tensor in stored(model).items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path}: {name} is {_kind(found.get(name))}, where {CONFIG} has {_kind(expected.get(name))}; {REMEDY}"
            )
    check_tables(model, path.with_name(CONFIG))


def largest_matrix(params: GPT2Params | Llama3Params, vocab_size: int) -> int:
    """How many numbers a model of these sizes has at least: known without building one."""
    width = params.d_ff if isinstance(params, GPT2Params) else params.feedforward_width
    return params.d_model * max(vocab_size, width, params.d_model)


def check_tables(model: Transformer, config: Path) -> None:
    """ValueError where what a model on the meta device would compute for itself takes too much."""
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > MAX_TABLES:
        raise ValueError(f"{config}: context_length = {model.params.context_length}: takes {tables} bytes; {REMEDY}")


def _kind(found: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if found is None else f"{found[1]} {list(found[0])}"
