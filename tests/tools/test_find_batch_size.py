"""`tiny-lm find-batch-size`: real steps in separate processes, and the choice among results. Speed is not asserted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tiny_lm.io.params import read_yaml
from tiny_lm.step_speed import CODE, run
from tiny_lm.tools import find_batch_size
from tiny_lm.tools.find_batch_size import main

SETTINGS = ["train.batch_size=67", "model.context_length=256", "model.d_model=64", "train.threads=1"]
QUICK = ["--seconds", "0.05"]


def test_larger_micro_batches_need_more_memory_and_stop_at_the_limit(project, call):
    before = Path("params.yaml").read_text()
    free = call(main, *SETTINGS, *QUICK, "--json")
    assert [row["micro_batch_size"] for row in free["sizes"]] == [1, 67]  # the divisors of 67
    one, all_ = (row["memory_bytes"] for row in free["sizes"])
    assert all_ - one > 30e6
    assert all(row["tokens_per_second"] > 0 for row in free["sizes"])
    assert (free["largest"], Path("params.yaml").read_text()) == (67, before)
    measure = [sys.executable, "-c", CODE, "find-batch-size", *SETTINGS, *QUICK, "--measure", "67"]
    assert run([*measure, "--memory", str((one + all_) // 2)]) is None


def test_too_little_memory_for_one_sequence_is_an_error(project):
    before = Path("params.yaml").read_text()
    with pytest.raises(ValueError, match="^train.micro_batch_size = 1: does not fit in 50.0 MB; free memory, or set"):
        main(["--memory", "50MB", "--write"])
    assert Path("params.yaml").read_text() == before


@pytest.fixture
def measured(monkeypatch):
    """measured({size: (memory, tokens per second)}) replaces the processes; returns the list of sizes tried."""

    def measured(results):
        tried = []

        def run(command):
            (size,) = [word for word in command if word.startswith("--measure=")]
            tried.append(int(size.removeprefix("--measure=")))
            if tried[-1] not in results:
                return None
            memory, speed = results[tried[-1]]
            return {"memory_limit": 100, "memory_bytes": memory, "tokens_per_second": speed}

        monkeypatch.setattr(find_batch_size, "run", run)
        return tried

    return measured


def test_only_divisors_are_tried_and_the_fastest_that_fits_is_suggested(project, call, measured):
    tried = measured({1: (10, 5.0), 2: (20, 9.0), 3: (30, 8.0), 4: (40, 7.0)})
    result = call(main, "train.batch_size=12", "--json")
    assert tried == [1, 2, 3, 4, 6]  # 6 does not fit, so 12 is not tried
    assert (result["fastest"], result["largest"], result["memory_limit"]) == (2, 4, 100)
    shown = call(main, "train.batch_size=12")
    assert "To use the fastest: `tiny-lm preset train.batch_size=12 train.micro_batch_size=2`" in shown
    assert "`dvc repro` trains again" in shown


def test_write_sets_size_and_settings_in_params_and_keeps_comments(project, call, measured):
    measured({1: (10, 1.0), 2: (10, 2.0), 4: (10, 3.0), 8: (10, 4.0), 16: (200, 5.0)})
    before = Path("params.yaml").read_text()
    shown = call(main, "train.batch_size=32", "--write")
    assert "params.yaml: set train.batch_size=32 train.micro_batch_size=8." in shown
    values = read_yaml(Path("params.yaml"))["train"]
    assert (values["batch_size"], values["micro_batch_size"]) == (32, 8)
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert all(comment in Path("params.yaml").read_text() for comment in comments)


def test_a_size_whose_peak_exceeds_the_limit_does_not_fit(project, call, measured):
    measured({1: (99, 1.0), 2: (101, 2.0)})
    assert call(main, "--json")["fastest"] == 1


def test_sizes_divide_the_batch_of_one_device(project, call, measured):
    tried = measured({1: (1, 1.0), 2: (1, 1.0), 4: (1, 1.0)})
    call(main, "train.batch_size=8", "runtime.launcher=torchrun", "runtime.devices=2", "--json")
    assert tried == [1, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "lots"], "argument --memory: 'lots': must be an amount"),
        (["--seconds", "0"], "--seconds 0: must be above 0 and at most 3600"),
        (["--seconds", "nan"], "--seconds nan: must be above 0"),
        (["train.batch_size=0"], "train.batch_size = 0: must be at least 1"),
        (["model.n_kv_heads=3"], "model.n_kv_heads = 3: must be a divisor of n_heads = 2"),
    ],
)
def test_a_mistake_is_one_line(project, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_ctrl_c_stops_both_processes(project):
    env = {**os.environ, "PYTHONPATH": str(Path(find_batch_size.__file__).parents[2])}
    command = [sys.executable, "-c", CODE, "find-batch-size", "--seconds", "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stdout.readline().split() == ["micro-batch", "memory", "tokens/s"]
    end, children = time.monotonic() + 60, []
    while not children and process.poll() is None and time.monotonic() < end:
        children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert children, stderr
    assert (process.returncode, stderr) == (130, "")
    assert not psutil.wait_procs(children, timeout=60)[1]  # even if Ctrl-C came while it was being started
