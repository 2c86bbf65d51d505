"""A run that is killed and run again ends with the same bytes as a run left alone."""

import os
import pickle
import signal
from pathlib import Path

import pytest
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tiny_lm.training.module import CausalLMModule
from tiny_lm.training.resume import AtomicCheckpointIO


class Killed(BaseException):
    """Simulates kill -9 in this process: our code does not catch it."""


@pytest.fixture
def kill(monkeypatch):
    """`kill(step, where)` makes the next run stop there."""

    def arm(step, where):
        original = getattr(CausalLMModule, where)

        def dies(self, *args):
            if self.global_step == step:
                monkeypatch.setattr(CausalLMModule, where, original)
                raise Killed
            return original(self, *args)

        monkeypatch.setattr(CausalLMModule, where, dies)

    return arm


@pytest.mark.parametrize(
    "where", ["training_step", "on_before_optimizer_step", "validation_step", "on_train_batch_start"]
)
@pytest.mark.parametrize("step", [1, 5, 7, 10])
def test_a_killed_run_continues_to_the_same_bytes(train, usual, kill, where, step):
    if where == "validation_step" and step % 5:
        pytest.skip("no validation at this step")
    options = {"vocabulary_sample": 0.2}
    whole = usual(**options)
    kill(step, where)
    with pytest.raises(Killed):
        train("killed", **options)
    again = train("killed", **options)
    assert again.said[0].startswith("resuming from work/last.ckpt") == (step > 2)
    assert again.files == whole.files


def test_a_run_killed_after_its_last_step_only_writes_its_results(train):
    whole = train("whole")
    again = train("whole")  # outside the runner the resume checkpoint stays, as after a kill
    assert again.said[0].startswith("resuming from work/last.ckpt")
    assert again.files == whole.files


def test_the_same_run_twice_gives_the_same_bytes(train):
    assert train("a").files == train("b").files


def test_another_seed_gives_another_model_with_the_same_rows(train, usual):
    one, two = usual(), train("b", seed=2)
    assert one.weights != two.weights
    assert one.rows("train_loss").keys() == two.rows("train_loss").keys()


def test_rows_have_no_gap_and_no_repetition_after_a_kill(train, kill):
    kill(7, "training_step")
    with pytest.raises(Killed):
        train("killed")
    rows = train("killed").rows("train_loss")
    assert list(rows) == list(range(1, 13))


@pytest.fixture
def on_hangup():
    """`on_hangup(handler)`: how this process handles SIGHUP, for one test; pytest itself may run with nohup."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_sigterm_sighup_and_ctrl_c_save_first_and_lose_no_step(train, usual, monkeypatch, on_hangup, number):
    on_hangup(signal.SIG_DFL)
    whole = usual(checkpoint_every=100)
    original = CausalLMModule.training_step

    def terminated(self, batch, batch_idx):
        if self.global_step == 8 and batch_idx % 2 == 0:
            os.kill(os.getpid(), number)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(CausalLMModule, "training_step", terminated)
    with pytest.raises(SystemExit) as stopped:
        train("stopped", checkpoint_every=100)
    assert stopped.value.code == 128 + number
    monkeypatch.setattr(CausalLMModule, "training_step", original)
    state = torch.load("work/last.ckpt", weights_only=True)
    assert state["global_step"] == 9
    assert train("stopped", checkpoint_every=100).files == whole.files


def test_a_run_started_with_nohup_ignores_sighup(train, monkeypatch, on_hangup):
    on_hangup(signal.SIG_IGN)
    original = CausalLMModule.training_step

    def hangs_up(self, *batch):
        os.kill(os.getpid(), signal.SIGHUP)
        return original(self, *batch)

    monkeypatch.setattr(CausalLMModule, "training_step", hangs_up)
    assert len(train("a").rows("train_loss")) == 12


def test_a_second_ctrl_c_stops_at_once(train, monkeypatch):
    original = CausalLMModule.training_step

    def twice(self, batch, batch_idx):
        if self.global_step == 8:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(CausalLMModule, "training_step", twice)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train("stopped", checkpoint_every=100)
    assert not Path("work/last.ckpt").exists()


def test_signal_handlers_are_restored_when_a_run_ends(train):
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    train("a", steps=1)
    assert [signal.getsignal(number) for number in numbers] == before


def test_of_two_equally_good_validations_the_first_is_kept(train):
    run = train(
        "a",
        optimizer="adamw",
        learning_rate=1e-30,
        min_learning_rate=0.0,
        keep="best",
    )
    losses = run.rows("val_loss")
    assert len(set(losses.values())) == 1
    assert run.metrics["best_step"] == min(losses)


def test_the_weights_kept_are_the_best_by_validation_loss_or_the_last(train):
    overshoots = {"optimizer": "adamw", "learning_rate": 5.0, "warmup": 0.95, "steps": 20, "validate_every": 2}
    last, best = train("last", **overshoots), train("best", **overshoots, keep="best")
    losses = best.rows("val_loss")
    assert best.metrics["best_val_loss"] == min(losses.values())
    assert losses[best.metrics["best_step"]] == min(losses.values())
    assert best.metrics["best_step"] < 20
    assert last.weights != best.weights
    assert last.rows("val_loss") == losses


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("a-pickle-ran"),))


def malicious(path):
    torch.save({"state_dict": Bomb()}, path)


def pickled(path):
    path.write_bytes(pickle.dumps(Bomb()))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [malicious, pickled, truncated, lambda path: path.write_bytes(b"")])
def test_a_damaged_resume_checkpoint_runs_no_code_and_the_error_says_what_to_do(train, kill, damage, recwarn):
    kill(7, "training_step")
    with pytest.raises(Killed):
        train("killed")
    damage(Path("work/last.ckpt"))
    with pytest.raises(
        ValueError, match=r"^work/last\.ckpt: not a resume checkpoint of this run; delete it and run again"
    ) as error:
        train("killed")
    assert "\n" not in str(error.value)
    assert not [warning for warning in recwarn if "pickle" in str(warning.message)]  # above that one line
    assert not list(Path().rglob("a-pickle-ran"))
    Path("work/last.ckpt").unlink()
    assert not train("killed").said[0].startswith("resuming from work/last.ckpt")


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), OSError(116, "Stale file handle"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_checkpoint_that_could_not_be_read_is_not_called_damaged(monkeypatch, failure):
    def load(*_, **__):
        raise failure

    monkeypatch.setattr(TorchCheckpointIO, "load_checkpoint", load)
    with pytest.raises(type(failure)) as error:  # the user must not delete it
        AtomicCheckpointIO().load_checkpoint("work/last.ckpt")
    assert error.value is failure
