"""The one door between training and everything that uses a trained model: `model.safetensors` and `config.json`.

The weights are float32, the tied head stored once, as the token embedding. `reader.py` opens and checks the two files.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from tiny_lm.files import write_json, write_whole
from tiny_lm.model.transformer import Transformer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TIED = "lm_head.weight"


def save_checkpoint(
    folder: Path, model: Transformer, *, tokenizer_digest: str, step: int, tokens_seen: int, provenance: dict[str, str]
) -> None:
    """Writes the model; the same one gives the same bytes, on any device. For the rest see `reader.CheckpointInfo`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in stored(model).items()}
    weights = save(tensors, metadata={"format": "pt"})
    write_whole(folder / WEIGHTS, lambda file: file.write(weights))
    config = {
        "model": asdict(model.params), "vocab_size": model.vocab_size, "tokenizer_digest": tokenizer_digest,
        "step": step, "tokens_seen": tokens_seen, "provenance": provenance,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    write_json(folder / CONFIG, config)


def stored(model: Transformer) -> dict[str, Tensor]:
    """The tensors of the model that are in the file."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != TIED}
