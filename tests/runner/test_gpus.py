"""runner/gpus.py, with a stand-in for nvidia-smi."""

import os
import subprocess
import sys

import pytest

from tiny_lm.runner.stage import Stage

CLAIM = """
import os, sys
from tiny_lm.runner.gpus import claim_gpu

claim = claim_gpu()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()  # until it is told to end
"""


@pytest.fixture
def stages(tmp_path):
    """Starts a process that claims a GPU of the three that are listed; returns it and what it sees."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU-a\\nGPU-b\\nGPU-c\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    started = []

    def start(**environment):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=kept | {"PATH": path, "TMPDIR": str(tmp_path)} | environment,
        )  # fmt: skip
        started.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_stages_that_run_at_a_time_see_a_gpu_each(stages):
    first, a = stages()
    assert (a, stages()[1], stages()[1]) == ("GPU-a", "GPU-b", "GPU-c")
    assert stages()[1] == "None"  # all are claimed: it sees what it would see without claims
    first.kill()  # -9: the system releases the claim
    first.wait()
    assert stages()[1] == "GPU-a"


def test_only_visible_gpus_are_claimed(stages):
    assert stages(CUDA_VISIBLE_DEVICES="2, 0")[1] == "2"
    assert stages(CUDA_VISIBLE_DEVICES="2, 0")[1] == "0"
    assert stages(CUDA_VISIBLE_DEVICES="1")[1] == "1"
    assert stages(CUDA_VISIBLE_DEVICES="")[1] == ""


@pytest.mark.parametrize(
    ("work", "runtime", "expected"),
    [
        ({"accelerator": "auto"}, "{}", True),
        ({"accelerator": "cuda"}, "{}", True),
        ({"accelerator": "cpu"}, "{}", False),
        ({"x": 1}, "{}", False),
        ({"accelerator": "auto"}, "{launcher: torchrun, devices: 2}", False),
    ],
)
def test_a_stage_on_one_device_that_may_be_a_gpu_claims_one(workspace, work, runtime, expected):
    (workspace / "params.yaml").write_text(f"alpha: {{path: data}}\nwork: {work}\nruntime: {runtime}\n")
    plan = {"params": ["alpha", "work"], "deps": ["${alpha.path}"]}
    assert Stage("work", plan).may_use_one_gpu() is expected
