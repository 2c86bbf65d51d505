"""`tiny-lm count-params` counts the requested model. The counts themselves are tested in tests/test_size.py."""

import pytest
import torch

from tiny_lm.model.checkpoint import save_checkpoint
from tiny_lm.model.registry import build_model
from tiny_lm.presets import params_with
from tiny_lm.tools.count_params import main


def test_the_table_shows_the_numbers_of_the_json(project, call):
    facts, table = call(main, "--json"), call(main)
    attention = 16 * 48 + 48  # of a layer: weights and biases, with keys and values of one of two heads
    count = 2 * 300 * 16 + 2 * (attention + 3 * 16 * 32) + 5 * 16
    assert facts["total"] == sum(facts["parameters"].values()) == count
    assert facts["memory_total"] == sum(facts["memory_bytes"].values())
    for number in (*facts["parameters"].values(), facts["total"]):
        assert f" {number:,}" in table


def test_the_vocabulary_is_that_of_the_shards_unless_settings_change_the_tokenizer(project, call):
    assert call(main, "--json")["vocab_size"] == 300
    assert call(main, "--json", "tokenizer=16k")["vocab_size"] == 16384
    (project / "data/shards/metadata.json").unlink()
    facts = call(main, "--json")
    assert (facts["vocab_size"], facts["vocab_size_from"]) == (4096, "tokenizer.vocab_size")


def test_settings_are_applied_but_not_written(project, call):
    before = (project / "params.yaml").read_text()
    base = call(main, "--json")
    assert call(main, "--json", "model=gpt2-2l")["model"]["architecture"] == "gpt2"
    assert call(main, "--json", "model.n_layers=3")["total"] > base["total"]
    memory = base["memory_bytes"]["activations"]
    assert call(main, "--json", "train.micro_batch_size=4")["memory_bytes"]["activations"] < memory
    assert call(main, "--json", "train.precision=bf16-mixed")["memory_bytes"]["activations"] < memory
    assert (project / "params.yaml").read_text() == before


def test_a_checkpoint_is_counted_with_its_own_params(project, call):
    (params,) = params_with(["model.n_layers=1"], "model")
    model = build_model(params, 270)
    save_checkpoint(
        project / "checkpoint", model, tokenizer_digest="0" * 64, step=1, tokens_seen=1, provenance={"shards": "0" * 64}
    )
    facts = call(main, "--json", "--checkpoint", "checkpoint")
    assert facts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert (facts["vocab_size"], facts["model"]["n_layers"]) == (270, 1)


@pytest.mark.parametrize("setting", ["model=gpt2-2l", "model.n_layers=2", "tokenizer=16k", "experiment=shakespeare"])
def test_model_settings_are_refused_with_a_checkpoint(project, setting):
    with pytest.raises(ValueError, match="^--checkpoint checkpoint: has its own model and vocabulary"):
        main([setting, "--checkpoint", "checkpoint"])


def test_a_model_too_large_for_this_machine_is_counted(project, call):
    large = (
        "d_model=16384",
        "n_layers=126",
        "n_heads=128",
        "n_kv_heads=8",
        "d_ff=53248",
        "context_length=8192",
        "attention_bias=false",
    )  # Llama 3.1 405B
    facts = call(main, "--json", *(f"model.{setting}" for setting in large), "tokenizer.vocab_size=128256")
    assert facts["total"] == 405_853_388_800


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=gpt9"], "model=gpt9: no such preset"),
        (["model.n_kv_heads=3"], "model.n_kv_heads = 3: must be a divisor of n_heads = 2"),
        (["model.d_model=1e12"], "model.d_model = 1000000000000, model.d_ff = 32, .* a tensor would have 2.63 bytes"),
        (["train.batch_size=1e16", "train.micro_batch_size=1e16"], "train.micro_batch_size = 10000000000000000: must"),
        (["--checkpoint", "nowhere"], "nowhere/config.json: there is no such file"),
        (["--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_damaged_shards_are_named(project):
    (project / "data/shards/metadata.json").write_text("{")
    with pytest.raises(ValueError, match="data/shards/metadata.json: not readable as JSON"):
        main([])


def test_accelerator_auto_counts_for_cuda_if_available(project, call):
    assert call(main, "--json", "train.accelerator=auto")["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
