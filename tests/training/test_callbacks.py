import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
import torch

from tiny_lm.model.checkpoint import load_checkpoint
from tiny_lm.training import callbacks


def test_progress_in_a_file_is_lines_in_optimizer_steps(train, capfd, monkeypatch):
    monkeypatch.setattr(callbacks, "LINE_SECONDS", 0.0)
    train("a", runtime={"progress": True}, batch_size=4, micro_batch_size=1)
    shown = capfd.readouterr().err
    lines = re.findall(r"^step (\d+)/12 · loss \d\.\d{3}.* · [\d,]+ tokens/s · \d+:\d\d left$", shown, re.M)
    assert lines == [str(step) for step in range(1, 13)]
    assert "\r" not in shown.partition("step 1/12")[2].partition("step 12/12")[0]


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_closed_pipe_does_not_stop_the_run(train, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Closed())
    monkeypatch.setattr(callbacks, "LINE_SECONDS", 0.0)
    assert len(train("a", runtime={"progress": True}).rows("train_loss")) == 12


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, size in {"COLUMNS": 200, "LINES": 50}.items():
        monkeypatch.setenv(name, str(size))


def test_progress_in_a_file_always_shows_the_last_step(train, capfd):
    train("a", runtime={"progress": True})
    assert re.findall(r"^step (\d+)/12 ", capfd.readouterr().err, re.M) == ["12"]


def test_the_time_left_is_estimated_from_the_steps_of_this_process(capfd, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    tokens = callbacks.TokensMonitor(16)
    tokens.train_loss = 2.0
    bar = callbacks.OptimizerStepProgressBar(tokens)
    trainer = SimpleNamespace(global_step=1000, max_steps=1100, is_global_zero=True)
    module = SimpleNamespace(global_step=1010, params=SimpleNamespace(steps=1100), log_is_due=True, val_loss=1.0)
    bar.on_train_start(trainer, module)
    now[0] += 40.0  # ten steps; ninety are left
    bar.on_step_end(trainer, module)
    assert "step 1010/1100 · loss 2.000 · val 1.000 · 0 tokens/s · 06:00 left\n" in capfd.readouterr().err


def test_progress_on_a_terminal_is_one_bar_with_the_loss(train, monkeypatch):
    terminal(monkeypatch)
    monkeypatch.setattr(callbacks, "LINE_SECONDS", 0.0)
    run = train("a", runtime={"progress": True}, batch_size=4, micro_batch_size=1)
    shown = sys.stderr.getvalue()
    loss, val = run.rows("train_loss")[12], run.rows("val_loss")[10]  # the one of step 12 comes after the bar
    last = shown.split("\r")[-1]
    assert re.search(
        rf"100%.* 12/12 .*, loss {loss:.3f} · val {val:.3f} · [\d,]+ tokens/s\] *\n$", last
    )  # spaces over a longer line
    assert shown.count("\n") == 1
    assert not re.search(r"^step \d", shown, re.M)


def test_the_bar_of_a_resumed_run_starts_where_the_run_stopped(monkeypatch):
    terminal(monkeypatch)
    bar = callbacks.OptimizerStepProgressBar(callbacks.TokensMonitor(16))
    bar.on_train_start(SimpleNamespace(global_step=7, max_steps=12, is_global_zero=True), None)
    bar.on_train_end(None, None)
    assert " 7/12 " in sys.stderr.getvalue()


def test_only_the_first_of_several_devices_shows_progress(monkeypatch):
    terminal(monkeypatch)
    bar = callbacks.OptimizerStepProgressBar(callbacks.TokensMonitor(16))
    bar.on_train_start(SimpleNamespace(global_step=0, max_steps=12, is_global_zero=False), None)
    bar.on_train_end(None, None)
    assert sys.stderr.getvalue() == ""


class Rows:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.rows = {}

    def log_metrics(self, figures, step):
        self.rows.setdefault(step, {}).update(figures)


@pytest.mark.parametrize("world_size", [1, 2])
def test_speed_and_utilization_of_a_known_time(monkeypatch, world_size):
    """Steps 1 to 5 take ten seconds, two of them for a validation: 5 x 64 tokens in eight seconds."""
    clock, rows = SimpleNamespace(now=100.0), Rows()
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(callbacks, "_peak_flops", lambda *_, **__: 1e9)
    module = SimpleNamespace(
        global_step=0, log_is_due=True, stop_if_not_finite=lambda: None, compute_train_loss=lambda: 2.0,
        gradient_norm=torch.tensor(1.0), learning_rate=0.1, val_loss=3.0, device=torch.device("cpu"),
        params=SimpleNamespace(batch_size=4, precision="32", vocabulary_at=lambda step: 1.0 if step == 5 else 0.1),
        model=SimpleNamespace(flops_per_token=lambda vocabulary: vocabulary * 3e6),
    )  # fmt: skip
    trainer = SimpleNamespace(
        world_size=world_size, is_global_zero=True, loggers=[rows], global_step=5,
    )  # fmt: skip
    monitor = callbacks.TokensMonitor(context_length=16)
    monitor.on_train_start(trainer, module)
    clock.now = 104.0
    monitor.on_validation_start(trainer, module)
    clock.now = 106.0
    monitor.on_validation_end(trainer, module)
    clock.now, module.global_step = 110.0, 5
    monitor.on_step_end(trainer, module)
    assert rows.rows[5]["hardware/tokens_per_second"] == monitor.tokens_per_second == pytest.approx(40.0)
    assert rows.rows[5]["hardware/mfu"] == pytest.approx(40.0 * 3e5 / (1e9 * world_size))  # of a tenth of the head
    clock.now, module.global_step, trainer.global_step = 111.0, 6, 6  # since the last log only
    monitor.on_step_end(trainer, module)
    assert rows.rows[6]["hardware/tokens_per_second"] == pytest.approx(64.0)
    assert rows.rows[6]["hardware/mfu"] == pytest.approx(64.0 * 3e6 / (1e9 * world_size))


def hardware(name):
    lines = Path(f"results/train/hardware/plots/metrics/{name}.tsv").read_text().splitlines()[1:]
    return {int(step): float(value) for step, value in (line.split("\t") for line in lines)}


def test_utilization_is_the_fraction_of_peak_flops(train, monkeypatch):
    monkeypatch.setattr(callbacks, "_peak_flops", lambda *_, **__: 1e12)
    train("a")
    model, _ = load_checkpoint(Path("models/checkpoint"))
    speed = hardware("tokens_per_second")
    assert list(speed) == list(range(1, 13))
    assert hardware("mfu") == pytest.approx({step: speed[step] * model.flops_per_token() / 1e12 for step in speed})


def test_without_a_known_peak_no_utilization_is_logged(train, monkeypatch):
    monkeypatch.setattr(callbacks, "_peak_flops", lambda *_, **__: None)
    assert "mfu" not in train("a").hardware


def test_without_progress_nothing_is_shown(train, capfd):
    train("a")
    assert capfd.readouterr().err == ""


def test_utilization_is_known_for_the_cards_of_the_list(monkeypatch):
    import torch

    known = {
        "NVIDIA H200": 989e12, "NVIDIA H100 PCIe": 756e12, "NVIDIA H100 80GB HBM3": 989e12, "Tesla T4": 65e12,
        "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA L40S": 362e12, "NVIDIA GeForce RTX 5090": 209.5e12,
        "Tesla V100-SXM2-16GB": 125e12,
    }  # fmt: skip
    for name, peak in known.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert callbacks._peak_flops(torch.device("cuda")) == peak
    others = (
        "Unheard of", "NVIDIA RTX A1000", "NVIDIA L40", "NVIDIA T400 4GB", "NVIDIA A10G", "NVIDIA H100 NVL",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 5090 D", "Tesla V100-PCIE-16GB",
    )  # fmt: skip
    for name in others:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert callbacks._peak_flops(torch.device("cuda")) is None
    assert callbacks._peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize("answers", [True, False])
def test_gpu_metrics_are_logged_except_those_that_nvml_does_not_report(monkeypatch, answers):
    """It reports nothing for a MIG slice, which must not stop a run."""

    def nvml(value):
        def ask(device):
            if not answers:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return value

        return ask

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2_500_000_000)
    monkeypatch.setattr(torch.cuda, "utilization", nvml(98))
    monkeypatch.setattr(torch.cuda, "temperature", nvml(61))
    rows = []
    logger = SimpleNamespace(log_metrics=lambda figures, step: rows.append((step, figures)))
    trainer = SimpleNamespace(loggers=[logger], is_global_zero=True, global_step=10)
    module = SimpleNamespace(device=torch.device("cuda"), log_is_due=True)
    callbacks.GpuStatsMonitor().on_step_end(trainer, module)
    more = {"hardware/gpu_utilization": 98.0, "hardware/gpu_temperature": 61.0} if answers else {}
    assert rows == [(10, {"hardware/gpu_memory_gb": 2.5} | more)]
    for quiet in ({"device": torch.device("cpu")}, {"log_is_due": False}):
        callbacks.GpuStatsMonitor().on_step_end(trainer, SimpleNamespace(**(vars(module) | quiet)))
    assert len(rows) == 1
