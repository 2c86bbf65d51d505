"""The train stage on a tiny model: what it learns, logs and refuses, and that every option does something."""

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.model.transformer import Transformer
from tiny_lm.shards.stream import TokenStream
from tiny_lm.training import fit
from tiny_lm.training.module import CausalLMModule
from tiny_lm.training.params import TrainParams
from tiny_lm.training.schedule import multiplier

WITHOUT_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


def test_the_loss_starts_at_that_of_a_blind_guess_and_falls(train):
    losses = train("a", steps=60, learning_rate=2e-2).rows("train_loss")
    assert losses[1] == pytest.approx(math.log(260), abs=0.1)
    assert losses[60] < 3


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2}, {"initialization": "copying"}, {"initialization": "bigrams"}, {"steps": 13},
         {"batch_size": 8}, {"stride": 7},
        {"learning_rate": 2e-2},
        {"min_learning_rate": 2e-3}, {"schedule": "constant"}, {"schedule": "wsd"}, {"schedule": "wsd-sqrt"},
        {"optimizer": "adamw"}, {"matrix_learning_rate": 3e-3}, {"embedding_learning_rate": 3e-3}, {"momentum": 0.5},
        {"initialization": "zero"}, {"warmup": 0.5}, {"beta1": 0.5},
        {"beta2": 0.5}, {"eps": 1e-2}, {"weight_decay": 1.0}, {"weight_decay": None},
        {"gradient_clip": 0.01}, {"vocabulary_sample": 0.1}, {"precision": "bf16-mixed"},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_of_training_changes_the_weights(train, usual, change):
    assert train("a", **change).weights != usual().weights


def test_the_decay_of_wsd_changes_the_weights(train):
    a, b = (train(str(decay), schedule="wsd", decay=decay) for decay in (0.2, 0.8))
    assert a.weights != b.weights


def test_the_loss_samples_the_vocabulary_until_the_last_steps(train, monkeypatch):
    sizes = []
    original = Transformer.loss_of_embedded

    def loss_of_embedded(self, x, targets, sample=None):
        sizes.append(self.vocab_size if sample is None else len(sample.ids))
        return original(self, x, targets, sample)

    monkeypatch.setattr(Transformer, "loss_of_embedded", loss_of_embedded)
    train("a", steps=10, vocabulary_sample=0.1)
    assert len(sizes) == 20  # two micro-batches per step
    assert max(sizes[:14]) < 80
    assert set(sizes[14:]) == {260}


def test_intervals_and_counts_change_what_is_logged_and_not_what_is_learned(train, usual):
    usual = usual()
    assert list(usual.rows("train_loss")) == list(range(1, 13))
    assert list(usual.rows("val_loss")) == [5, 10, 12]  # the last step, too
    other = train("b", log_every=4, validate_every=6, checkpoint_every=5)
    assert list(other.rows("train_loss")) == [4, 8, 12]
    assert list(other.rows("val_loss")) == [6, 12]
    assert other.weights == usual.weights
    assert train("c", val_documents=2).rows("val_loss") != usual.rows("val_loss")
    assert list(train("d", validate_every=100, log_every=100).rows("val_loss")) == [12]


def test_accumulated_micro_batches_are_one_large_batch(train):
    whole = train("whole", model=NO_DROPOUT, batch_size=8, micro_batch_size=8)
    parts = train("parts", model=NO_DROPOUT, batch_size=8, micro_batch_size=2)
    assert first(parts, "train_loss") == pytest.approx(first(whole, "train_loss"), abs=1e-5)
    assert parts.rows("tokens") == whole.rows("tokens")
    assert first(parts, "gradient_norm") == pytest.approx(first(whole, "gradient_norm"), rel=1e-3)


def first(run, name):
    """The first eight values; later ones differ more and more, because Muon amplifies rounding."""
    return list(run.rows(name).values())[:8]


@pytest.fixture
def ignores(monkeypatch):
    """`ignores(tokens)` ignores targets with these ids, which some sequences contain more of than others."""
    original = CausalLMModule.training_step

    def arm(tokens):
        def step(self, batch, batch_idx):
            x, y = batch
            return original(self, (x, y.masked_fill(torch.isin(y, torch.tensor(tokens)), -100)), batch_idx)

        monkeypatch.setattr(CausalLMModule, "training_step", step)

    return arm


def test_every_target_of_a_step_weighs_the_same_if_some_are_ignored(train, ignores):
    ignores([*b"aeio. T"])
    options = {"batch_size": 8, "gradient_clip": 0.5}
    whole = train("whole", model=NO_DROPOUT, **options, micro_batch_size=8)
    parts = train("parts", model=NO_DROPOUT, **options, micro_batch_size=1)
    for name in ("train_loss", "gradient_norm"):
        assert first(parts, name) == pytest.approx(first(whole, name), rel=1e-4)
    assert parts.rows("val_loss")[5] == pytest.approx(whole.rows("val_loss")[5], rel=1e-4)


def test_a_step_divides_by_its_own_number_of_targets(train, ignores):
    """The first loss of a model that knows nothing is that of a blind guess, however many targets are ignored."""
    usual = train("a", initialization="gpt2").rows("train_loss")[1]
    ignores(list(range(32, 110)))
    assert train("b").rows("train_loss")[1] == pytest.approx(usual, abs=0.1)


def test_a_step_without_targets_changes_no_weight(train, ignores):
    ignores(list(range(260)))
    run = train("a", steps=2, weight_decay=0.0)
    assert set(run.rows("train_loss").values()) == set(run.rows("gradient_norm").values()) == {0.0}


def test_logged_metrics_follow_their_definitions(usual):
    run = usual()
    p = TrainParams(**run.train)
    for step, rate in run.rows("lr").items():
        assert rate == p.learning_rate * multiplier(step - 1, p)
    assert run.rows("tokens") == {step: step * 4 * 16 for step in range(1, 13)}
    for name in ("train", "val"):
        ppl = run.rows(f"{name}_ppl")
        assert ppl == pytest.approx({step: math.exp(loss) for step, loss in run.rows(f"{name}_loss").items()})
    assert run.hardware["tokens_per_second"] > 0
    assert run.metrics["train_loss"] == run.rows("train_loss")[12]


def test_the_validation_loss_is_that_of_every_target_once(train, shards):
    run = train("a")
    model, _ = load_checkpoint(Path("models/checkpoint"))
    nats, targets = 0.0, 0
    stream = TokenStream(shards, "val")
    for begin, end in pairwise(stream.document_starts(6)):
        tokens = torch.from_numpy(stream.read(begin, end).astype(np.int64))
        for start in range(0, len(tokens) - 1, 16):
            window = tokens[start : start + 17]
            logits = model(window[None, :-1])[0]
            nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
            targets += len(window) - 1
    assert run.rows("val_loss")[12] == pytest.approx(nats / targets, abs=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        ("muon", "train.matrix_learning_rate (now 0.02), train.embedding_learning_rate (now 0.03)"),
        ("adamw", "train.learning_rate (now 0.01)"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(train, monkeypatch, optimizer, rates):
    original = CausalLMModule.training_step

    def breaks(self, batch, batch_idx):
        if self.global_step == 6:
            self.model.norm.weight.data[0] = math.inf
        return original(self, batch, batch_idx)

    monkeypatch.setattr(CausalLMModule, "training_step", breaks)
    with pytest.raises(ValueError, match=rf"^the loss of step 7 is not finite.* Lower {re.escape(rates)} or train\."):
        train("a", log_every=4, optimizer=optimizer)
    assert torch.load("work/last.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("step", [1, 12])
def test_an_update_that_breaks_the_weights_stops_the_run_and_keeps_nothing_of_it(train, monkeypatch, step, keep):
    """The loss of the step itself is fine, and after the last one there is no other to notice it by."""
    original = CausalLMModule.configure_gradient_clipping

    def breaks(self, optimizer, **clipping):
        original(self, optimizer, **clipping)
        if self.global_step == step - 1:
            self.model.norm.weight.grad[0] = math.nan

    monkeypatch.setattr(CausalLMModule, "configure_gradient_clipping", breaks)
    with pytest.raises(ValueError, match=rf"^the loss of step {min(step + 1, 12)} is not finite"):
        train("a", keep=keep, log_every=100)
    assert not Path("models/checkpoint").exists()


@pytest.mark.parametrize(
    ("accelerator", "last"), [("cpu", 6), pytest.param("cuda", 50, marks=[pytest.mark.gpu, WITHOUT_CUDA])]
)
def test_a_bad_loss_stops_a_cpu_at_that_step_and_a_gpu_soon_after(train, monkeypatch, accelerator, last):
    """On a CPU no update follows; a GPU is some steps behind, which nobody waits for."""
    updates = []
    monkeypatch.setattr(
        CausalLMModule, "configure_gradient_clipping", lambda self, *_, **rest: updates.append(self.global_step)
    )
    original = CausalLMModule.training_step
    monkeypatch.setattr(
        CausalLMModule, "training_step",
        lambda self, *batch: original(self, *batch) * (math.nan if self.global_step == 6 else 1),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"^the loss of step"):
        train("a", steps=200, log_every=200, validate_every=200, checkpoint_every=200, accelerator=accelerator)
    assert max(updates) <= last


def test_the_checkpoint_has_the_sections_that_made_it(train):
    run = train("a", seed=7)
    kept = yaml.safe_load(run.files["models/checkpoint/params.yaml"])
    assert kept["train"]["seed"] == 7
    assert kept["model"]["d_model"] == 16
    config = json.loads(run.files["models/checkpoint/config.json"])
    assert (config["step"], config["tokens_seen"]) == (12, 12 * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batch_size": 3}, r"train\.batch_size = 4: must be a multiple of micro_batch_size = 3"),
        ({"matrix_learning_rate": 0}, r"train\.matrix_learning_rate = 0\.0: must be more than 0 and at most 10"),
        ({"momentum": 1.0}, r"train\.momentum = 1\.0: must be at least 0 and less than 1"),
        ({"min_learning_rate": 1.0}, r"train\.min_learning_rate = 1\.0: must be between 0 and learning_rate = 0\.01"),
        ({"vocabulary_sample": 0}, r"train\.vocabulary_sample = 0\.0: must be more than 0 and at most 1"),
        ({"warmup": 1.5}, r"train\.warmup = 1\.5: must be a fraction"),
        ({"accelerator": "cuda"}, r"train\.accelerator = 'cuda': must be auto or cpu: there is no CUDA device"),
        ({"accelerator": "auto", "precision": "16-mixed"}, r"train\.precision = '16-mixed': must be 32 or bf16-mixed"),
        ({"precision": "16-mixed"}, r"train\.precision = '16-mixed': must be 32 or bf16-mixed with accelerator = cpu"),
        ({"steps": 0}, r"train\.steps = 0: must be at least 1"),
    ],
)
def test_invalid_values_are_refused(train, monkeypatch, change, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=f"^{message}"):
        train("a", **change)


@pytest.mark.parametrize(
    ("precision", "probe", "warned"),
    [
        ("bf16-mixed", {"_is_mkldnn_bf16_supported": lambda: False}, True),
        ("bf16-mixed", {"_is_mkldnn_bf16_supported": lambda: True}, False),
        ("bf16-mixed", {}, False),  # a build of torch without oneDNN
        ("32", {"_is_mkldnn_bf16_supported": lambda: False}, False),
    ],
    ids=["without", "with", "unknown", "float32"],
)
def test_bf16_on_a_cpu_without_it_is_reported(train, monkeypatch, precision, probe, warned):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**probe))
    said = train("run", precision=precision, steps=1).said
    assert any("slow on this CPU" in line for line in said) == warned


@pytest.fixture
def in_a_step(monkeypatch):
    """`in_a_step(function)`: what the function returned in each training step, once a run is through."""

    def arm(function):
        seen, original = [], CausalLMModule.training_step

        def step(self, *batch):
            seen.append(function())
            return original(self, *batch)

        monkeypatch.setattr(CausalLMModule, "training_step", step)
        return seen

    return arm


@pytest.fixture
def torch_as_it_was():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_uses_the_threads_of_the_params(train, in_a_step, torch_as_it_was, threads):
    torch.set_num_threads(2)
    seen = in_a_step(torch.get_num_threads)
    train("a", steps=1, threads=threads)
    assert set(seen) == {threads}


@pytest.mark.parametrize("portable", [False, True])
def test_portable_takes_effect_before_anything_is_computed(train, monkeypatch, portable):
    events, original = [], fit.build_model
    # What it does to the kernels is seen only in a process that has not computed yet.
    monkeypatch.setattr(fit, "set_arithmetic", lambda *given, cuda: events.append((*given, cuda)))
    monkeypatch.setattr(fit, "build_model", lambda *given: events.append("model") or original(*given))
    train("a", steps=1, threads=5, portable=portable)
    assert events == [(5, portable, False), "model"]


def test_a_nondeterministic_kernel_is_refused_if_the_run_is_deterministic(train, in_a_step, torch_as_it_was):
    def varies():
        return torch.zeros(2).put_(
            torch.tensor([0, 0]), torch.tensor([1.0, 2.0])
        )  # which of them is written last is undefined

    seen = in_a_step(varies)
    torch.use_deterministic_algorithms(True)
    train("a", steps=1, deterministic=False)
    assert len(seen) == 2  # micro-batches
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        train("b", steps=1, deterministic=True)


@pytest.fixture
def traced(monkeypatch):
    """The graphs that torch.compile has traced; they run as they are, which takes no compiler."""
    graphs, compiled = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function: compiled(function, backend=backend))
    yield graphs
    torch.compiler.reset()


@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_a_compiled_run_learns_the_same(train, traced, fraction):
    usual = train("a", vocabulary_sample=fraction)
    assert not traced
    run = train("b", vocabulary_sample=fraction, compile=True)
    assert traced
    for name in ("train_loss", "val_loss", "gradient_norm"):
        assert run.rows(name) == pytest.approx(usual.rows(name), rel=1e-3)


def test_params_decide_whatever_the_environment_and_the_work_folder_contain(train, monkeypatch):
    """Lightning would train 3 batches, or continue from the last `hpc_ckpt_N.ckpt` if it detected a SLURM job."""
    usual = train("a")
    for name, value in {"LIMIT_TRAIN_BATCHES": "3", "FAST_DEV_RUN": "1", "OVERFIT_BATCHES": "2"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    for name, value in {"NTASKS": "2", "JOB_ID": "7", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for folder in (Path("../b/.work"), Path("../b")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy("work/last.ckpt", folder / "hpc_ckpt_1.ckpt")
    run = train("b", seed=2, learning_rate=2e-2)
    assert list(run.rows("train_loss")) == list(range(1, 13))
    assert run.rows("train_loss")[1] != usual.rows("train_loss")[1]


def test_the_schedule_multiplies_the_learning_rate_of_each_group(train, monkeypatch):
    """Matrices and embeddings have their own; the rows show `train.learning_rate` times the schedule."""
    rates, original = [], CausalLMModule.configure_optimizers

    def configure(self):
        optimizer = original(self)
        optimizer.register_step_post_hook(lambda *_: rates.append([group["lr"] for group in optimizer.param_groups]))
        return optimizer

    monkeypatch.setattr(CausalLMModule, "configure_optimizers", configure)
    shown = train("a", learning_rate=1e-2, matrix_learning_rate=5e-3, embedding_learning_rate=2e-2).rows("lr")
    assert [embedding for *_, embedding, _ in rates] == pytest.approx([rate * 2 for rate in shown.values()])
    assert [vectors for *_, vectors in rates] == list(shown.values())
    for group in range(2):  # queries and keys, and the other matrices
        assert [each[group] for each in rates] == pytest.approx([rate / 2 for rate in shown.values()])
