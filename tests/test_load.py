"""The same model and tokenizer from a checkpoint, from its export and from a resume checkpoint."""

import errno
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_lm.bpe import TokenizerParams, train_tokenizer
from tiny_lm.encoding.encode import ShardsParams, write_shards
from tiny_lm.export.write import write_export
from tiny_lm.load import load_model
from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.gpt2 import GPT2Params
from tiny_lm.model.llama3 import Llama3Params
from tiny_lm.model.registry import build_model
from tiny_lm.model.transformer import Transformer, TransformerParams
from tiny_lm.tokenizer.encode import Tokenizer

DROPOUTS = {"embedding_dropout": 0.0, "attention_dropout": 0.1, "residual_dropout": 0.0}
PARAMS = {
    "llama3": Llama3Params(
        architecture="llama3", context_length=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24,
        rope_theta=500.0, norm_eps=1e-5, **DROPOUTS,
    ),
    "gpt2": GPT2Params(
        architecture="gpt2", context_length=16, d_model=16, n_layers=2, n_heads=4, n_kv_heads=4, d_ff=24,
        qkv_bias=True, **DROPOUTS,
    ),
}  # fmt: skip
TEXTS = ["The fox and the hen went to the river, and the fox said: hello.", "Größe 1234, 你好 👩‍👩‍👧\n"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(iter(TEXTS), TokenizerParams(vocab_size=300, pattern="gpt4-digits2"))


def build(params: TransformerParams, vocab_size: int) -> Transformer:
    torch.manual_seed(0)
    model = build_model(params, vocab_size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def workspace(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tokenizer.save(Path("models/tokenizer"))
    return tmp_path


def export(model: Transformer, tokenizer: Tokenizer, dtype: str = "float32") -> Path:
    folder = Path("models/export")
    write_export(folder, model, tokenizer, dtype=dtype, card="")
    return folder


def shards(tokenizer: Tokenizer) -> Path:
    special = {"pad": tokenizer.pad_id, "eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "unk": tokenizer.unk_id}
    write_shards(
        Path("data/shards"), {"train": TEXTS, "val": TEXTS}, tokenizer.encode_documents,
        ShardsParams(shard_tokens=10_000), vocab_size=tokenizer.vocab_size, special_ids=special,
        tokenizer=tokenizer.digest, workers=1,
    )  # fmt: skip
    return Path("data/shards")


def resume_checkpoint(model: Transformer, tokenizer: Tokenizer, **params: Any) -> Path:
    """The parts of an interrupted run that are read."""
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    about = {"model": asdict(model.params) | params, "tokenizer": tokenizer.digest}
    torch.save({"state_dict": state, "global_step": 3, **about}, "last.ckpt")
    return Path("last.ckpt")


def assert_same(path: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    opened, opened_tokenizer = load_model(path)
    assert not opened.training
    assert opened_tokenizer.digest == tokenizer.digest
    tokens = torch.randint(0, tokenizer.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(opened(tokens), model(tokens))


CHOICES = [PARAMS["llama3"], replace(PARAMS["llama3"], n_kv_heads=1), PARAMS["gpt2"]]


@pytest.mark.parametrize("params", CHOICES, ids=["llama3", "llama3 MQA", "gpt2"])
def test_checkpoint_export_and_resume_checkpoint_are_the_same_model(
    workspace: Path, tokenizer: Tokenizer, params: Any
) -> None:
    model = build(params, tokenizer.vocab_size)
    checkpoint = Path("models/checkpoint")
    save_checkpoint(checkpoint, model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=2, provenance={})
    assert_same(checkpoint, model, tokenizer)
    assert_same(export(model, tokenizer), model, tokenizer)
    assert_same(resume_checkpoint(model, tokenizer), model, tokenizer)


def test_a_gpt2_without_qkv_biases_is_read_with_zero_biases(workspace: Path, tokenizer: Tokenizer) -> None:
    model = build(replace(PARAMS["gpt2"], qkv_bias=False), tokenizer.vocab_size)
    assert_same(export(model, tokenizer), model, tokenizer)


def test_a_16_bit_export_is_read_as_float32(workspace: Path, tokenizer: Tokenizer) -> None:
    model = build(PARAMS["llama3"], tokenizer.vocab_size)
    folder = export(model, tokenizer, "bfloat16")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert_same(folder, model, tokenizer)


def test_a_missing_model_is_one_line(workspace: Path) -> None:
    with pytest.raises(ValueError, match="^models/nix: there is no such file or folder; `tiny-lm restore train`"):
        load_model(Path("models/nix"))


def test_a_checkpoint_of_another_tokenizer_is_refused(workspace: Path, tokenizer: Tokenizer) -> None:
    model = build(PARAMS["llama3"], tokenizer.vocab_size)
    save_checkpoint(Path("models/checkpoint"), model, tokenizer_digest="1" * 64, step=1, tokens_seen=2, provenance={})
    with pytest.raises(
        ValueError, match="^models/checkpoint: was trained with tokenizer 111111111111, but the tokenizer here is"
    ):
        load_model(Path("models/checkpoint"))


def test_a_checkpoint_with_another_number_of_tokens_is_refused(workspace: Path, tokenizer: Tokenizer) -> None:
    model = build(PARAMS["llama3"], tokenizer.vocab_size + 1)
    save_checkpoint(
        Path("models/checkpoint"), model, tokenizer_digest=tokenizer.digest, step=1, tokens_seen=2, provenance={}
    )
    with pytest.raises(ValueError, match=f"must be {tokenizer.vocab_size}, the tokenizer's"):
        load_model(Path("models/checkpoint"))


def test_an_export_whose_tables_would_take_gigabytes_is_refused(
    workspace: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)
    monkeypatch.setattr("tiny_lm.model.checkpoint.MAX_BUFFERS", 2**20)
    load_model(folder)
    _edit(folder / "config.json", max_position_embeddings=1 << 20)
    with pytest.raises(ValueError, match="config.json: context_length = 1048576: takes [0-9]+ bytes; `tiny-lm restore"):
        load_model(folder)


def _edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_an_export_that_is_not_ours_is_refused_in_one_line(workspace: Path, tokenizer: Tokenizer) -> None:
    whole = export(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)

    def refused(message: str, edit: Any) -> None:
        folder = Path("copy")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        edit(folder)
        with pytest.raises(ValueError, match=message) as error:
            load_model(folder)
        assert "\n" not in str(error.value)

    refused("hidden_act = 'gelu': not exported by tiny-lm", lambda f: _edit(f / "config.json", hidden_act="gelu"))
    refused("vocab_size = 5: not exported by tiny-lm", lambda f: _edit(f / "config.json", vocab_size=5))
    refused("model.n_heads = 3: must be a divisor", lambda f: _edit(f / "config.json", num_attention_heads=3))
    refused("bytes is too small", lambda f: _edit(f / "config.json", hidden_size=1 << 40))
    refused("bytes is too small", lambda f: _edit(f / "config.json", intermediate_size=1 << 62))
    refused("torch_dtype = 'int8': must be one of float32", lambda f: _edit(f / "config.json", torch_dtype="int8"))
    refused("does not contain the weights that config.json", lambda f: _edit(f / "config.json", torch_dtype="float16"))
    refused(
        "auto_map = .*: not exported by tiny-lm", lambda f: _edit(f / "config.json", auto_map={"AutoModel": "a--b.C"})
    )
    refused(
        "rope_scaling = .*: not exported by tiny-lm", lambda f: _edit(f / "config.json", rope_scaling={"factor": 2})
    )
    refused("bytes is too small", lambda f: _edit(f / "config.json", num_hidden_layers=10_000_000))
    refused("does not contain the weights that config.json", lambda f: _edit(f / "config.json", intermediate_size=25))
    refused("not readable as JSON", lambda f: (f / "config.json").write_text("{"))
    refused("not readable as JSON .not an object", lambda f: (f / "config.json").write_text("[]"))
    refused("there is no such file", lambda f: (f / "config.json").unlink())
    refused("^copy/model.safetensors: there is no such file", lambda f: (f / "model.safetensors").unlink())
    refused("^copy/model.safetensors: .*eader", lambda f: (f / "model.safetensors").write_bytes(b"junk"))
    refused("not a tokenizer that tiny-lm exported", lambda f: _edit(f / "tokenizer.json", model={}))
    refused("it does not follow from its own vocabulary", lambda f: _edit(f / "tokenizer.json", added_tokens=[]))

    for ids in ({"!": 1}, {"!": -1}, {"!": 2**40}, {"!": 5000}, {"!": tokenizer.eos_id}):  # it has 0
        edited = json.loads((whole / "tokenizer.json").read_text())["model"]
        edited["vocab"] |= ids
        refused(
            "tokenizer.json: .*ids of its vocabulary are not 0, 1, 2",
            lambda f, edited=edited: _edit(f / "tokenizer.json", model=edited),
        )

    def without_norm(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, folder / "model.safetensors")

    refused("does not contain the weights that config.json", without_norm)


def test_an_io_error_is_reported_as_one(workspace: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)

    def failing(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("tiny_lm.export.from_hf.load_file", failing)
    with pytest.raises(OSError, match="Input/output error"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_file_of_our_export_is_named_with_a_remedy(workspace: Path, tokenizer: Tokenizer, name: str) -> None:
    path = export(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"^{path}: .*`tiny-lm restore export` restores our export"):
        load_model(path.parent)


def test_a_resume_checkpoint_needs_the_tokenizer_of_its_run(workspace: Path, tokenizer: Tokenizer) -> None:
    path = resume_checkpoint(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)
    train_tokenizer(iter(TEXTS), TokenizerParams(vocab_size=300, pattern="gpt2")).save(Path("models/tokenizer"))
    with pytest.raises(ValueError, match="^models/tokenizer: is not the one that last.ckpt was trained with; restore"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("d_ff", 32), ("n_layers", 1), ("n_heads", 3), ("architecture", "bert"), ("n_layers", 10**9), ("d_model", 2**40)],
)
def test_a_resume_checkpoint_whose_params_do_not_fit_its_weights_is_refused(
    workspace: Path, tokenizer: Tokenizer, key: str, value: Any
) -> None:
    path = resume_checkpoint(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer, **{key: value})
    with pytest.raises(ValueError, match="^last.ckpt: not a resume checkpoint of `dvc repro train` \\(") as error:
        load_model(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"junk\n" * 100, b"PK\x03\x04 cut off", b"some text\n", b"text,label\n"])
def test_a_file_that_is_not_a_resume_checkpoint_is_one_line(
    workspace: Path, tokenizer: Tokenizer, content: bytes
) -> None:
    path = resume_checkpoint(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^last.ckpt: not a resume checkpoint of `dvc repro train` \\(") as error:
        load_model(path)
    assert "\n" not in str(error.value)


class Malicious:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_a_resume_checkpoint_runs_no_code(workspace: Path, tokenizer: Tokenizer) -> None:
    path = resume_checkpoint(build(PARAMS["llama3"], tokenizer.vocab_size), tokenizer)
    torch.save({"state_dict": Malicious()}, path)
    with pytest.raises(ValueError, match="^last.ckpt: not a resume checkpoint of"):
        load_model(path)
    assert not Path("touched").exists()


def test_a_checkpoint_that_a_run_has_saved_can_be_opened(workspace: Path, tokenizer: Tokenizer) -> None:
    """Saved by Lightning itself, so the names in its file are right."""
    import pytorch_lightning as pl

    from tiny_lm.training.datamodule import BinTokenDataModule
    from tiny_lm.training.loggers import LiveLogger
    from tiny_lm.training.module import CausalLMModule
    from tiny_lm.training.params import TrainParams
    from tiny_lm.training.resume import AtomicCheckpointIO, ResumeCheckpoint

    model, train = build(PARAMS["llama3"], tokenizer.vocab_size), TrainParams(steps=1)
    resume = ResumeCheckpoint(Path(), LiveLogger(Path("results")), on_save=lambda: None)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, plugins=[AtomicCheckpointIO()], callbacks=[resume], max_steps=1,
    )  # fmt: skip
    trainer.strategy.connect(CausalLMModule(model, train, 0.0))
    trainer.datamodule = BinTokenDataModule(shards(tokenizer), 16, train)  # type: ignore[attr-defined]
    trainer.save_checkpoint(resume.path)
    assert_same(resume.path, model, tokenizer)
