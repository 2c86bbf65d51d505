"""A trained model on disk: `model.safetensors` and `config.json`, written by training, read by everything else.

The weights are float32; a tied head is stored once. Reading runs no code: the weights are safetensors, the rest is
JSON. A checkpoint may come from shared storage, so both are checked before a model is built, sizes first.
"""

import contextlib
import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from tiny_lm.io.files import read_json, sha256, write_json, write_whole
from tiny_lm.io.params import load_params
from tiny_lm.model.registry import MODELS, meta_model
from tiny_lm.model.transformer import Transformer, TransformerParams

WEIGHTS, CONFIG = "model.safetensors", "config.json"
HEAD = "lm_head.weight"
MAX_JSON = 2**20  # bytes, of config.json and of the header of model.safetensors
MAX_BUFFERS = 2**30  # bytes that a model computes when it is built, such as RoPE's tables
REMEDY = "`tiny-lm restore train` or `dvc pull` restores it, `dvc repro train` trains a new one"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What config.json contains in addition to the model's params."""

    tokenizer_digest: str  # of the tokenizer whose ids the model was trained on
    step: int  # optimizer steps
    tokens_seen: int
    provenance: dict[str, str]  # name -> content hash of what the weights were made from
    weights_sha256: str


def save_checkpoint(
    folder: Path, model: Transformer, *, tokenizer_digest: str, step: int, tokens_seen: int, provenance: dict[str, str]
) -> None:
    """Writes the model. The same weights give the same bytes, on any device."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in stored(model).items()}
    weights = save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, lambda file: file.write(weights))
    config = {
        "model": asdict(model.params), "vocab_size": model.vocab_size, "tokenizer_digest": tokenizer_digest,
        "step": step, "tokens_seen": tokens_seen, "provenance": provenance,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    write_json(folder / CONFIG, config)


def load_checkpoint(
    folder: Path, tokenizer_digest: str | None = None, tokenizer_size: int | None = None
) -> tuple[Transformer, CheckpointInfo]:
    """The model in eval mode, float32, on the CPU, and its metadata.

    Raises ValueError for anything that `save_checkpoint` did not write, and for a model that was trained with another
    tokenizer than the given one.
    """
    params, vocab_size, info = _read_config(folder / CONFIG)
    path = folder / WEIGHTS
    _check_weights(path, params, vocab_size)
    if sha256(path) != info.weights_sha256:
        raise ValueError(f"{path}: checksum mismatch: not the weights that {CONFIG} describes; {REMEDY}")
    if tokenizer_digest not in (None, info.tokenizer_digest):
        raise ValueError(
            f"{folder}: was trained with tokenizer {info.tokenizer_digest[:12]}, but the tokenizer here is "
            f"{str(tokenizer_digest)[:12]}; `dvc repro` rebuilds what is out of date"
        )
    if tokenizer_size not in (None, vocab_size):
        raise ValueError(f"{folder}: vocab_size = {vocab_size}: must be {tokenizer_size}, the tokenizer's; {REMEDY}")
    model = params.build(vocab_size)
    weights = load_file(path)
    for name, tensor in stored(model).items():
        if not weights[name].isfinite().all():
            raise ValueError(f"{path}: {name} contains numbers that are not finite; {REMEDY}")
        tensor.copy_(weights[name])
    return model.eval(), info


def stored(model: Transformer) -> dict[str, Tensor]:
    """The tensors of the model that a file contains, by name; they share the model's memory."""
    tied = model.lm_head.weight is model.token_emb.weight
    return {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == HEAD)}


def checked_meta_model(
    params: TransformerParams, vocab_size: int, weights: Path, *, tensors: int, itemsize: int
) -> Transformer:
    """The model on the meta device, to compare its shapes with those of the file `weights`, whatever the sizes are.

    ValueError if the file, which contains that many tensors, is too small for the model, or if the model would allocate
    gigabytes of tables.
    """
    size = weights.stat().st_size
    model = None
    if params.n_layers <= tensors:
        with contextlib.suppress(RuntimeError, TypeError, OverflowError):  # sizes beyond 64 bits
            model = meta_model(params, vocab_size)
    if model is None or size < itemsize * max(tensor.numel() for tensor in stored(model).values()):
        raise ValueError(f"{weights}: {size} bytes is too small for the model that {CONFIG} describes")
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    if buffers > MAX_BUFFERS:
        raise ValueError(
            f"{weights.with_name(CONFIG)}: context_length = {params.context_length}: takes {buffers} bytes"
        )
    return model


def _read_config(path: Path) -> tuple[TransformerParams, int, CheckpointInfo]:
    config = read_json(path, MAX_JSON, REMEDY)
    types = {
        "model": dict, "vocab_size": int, "tokenizer_digest": str, "step": int, "tokens_seen": int, "provenance": dict,
        "weights_sha256": str,
    }  # fmt: skip
    if config.keys() != types.keys():
        raise ValueError(f"{path}: must have exactly the keys {', '.join(types)}; {REMEDY}")
    for key, kind in types.items():
        if type(config[key]) is not kind or (kind is int and config[key] < 0):
            raise ValueError(f"{path}: {key} = {str(config[key])[:80]!r}: must be of type {kind.__name__}; {REMEDY}")
    if not all(type(digest) is str for digest in config["provenance"].values()):
        raise ValueError(f"{path}: provenance: its values must be strings; {REMEDY}")
    try:
        params = load_params("model", config.pop("model"), MODELS, complete=True)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}; {REMEDY}") from error
    return params, config.pop("vocab_size"), CheckpointInfo(**config)


def _check_weights(path: Path, params: TransformerParams, vocab_size: int) -> None:
    """ValueError unless the file contains exactly the model's tensors. Reads its header only."""
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
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); {REMEDY}") from error
    try:
        model = checked_meta_model(params, vocab_size, path, tensors=len(found), itemsize=4)
    except ValueError as error:
        raise ValueError(f"{error}; {REMEDY}") from error
    expected = {name: (tuple(tensor.shape), "F32") for name, tensor in stored(model).items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path}: {name} is {_kind(found.get(name))}, but {CONFIG} requires {_kind(expected.get(name))}; "
                f"{REMEDY}"
            )


def _kind(found: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if found is None else f"{found[1]} {list(found[0])}"
