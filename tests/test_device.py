"""Choice of device, threads and kernels: `portable` uses the same kernels on every CPU. Large blocks of memory stay."""

import ctypes
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tiny_lm.device import set_arithmetic, uses_cuda

CODE = """
import hashlib, sys
import torch
from tiny_lm.device import set_arithmetic

set_arithmetic(1, sys.argv[1] == "portable")
torch.manual_seed(0)
x = torch.randn(64, 256, requires_grad=True)
(torch.nn.functional.silu(x @ torch.randn(256, 96)).softmax(-1) ** 2).sum().backward()
print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(x.grad.numpy().tobytes()).hexdigest())
"""


def run(mode: str, **limits: str) -> list[str]:
    """The kernels that torch took, and the hash of what they computed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ATEN_", "MKL_", "ONEDNN_"))}
    command = [sys.executable, "-c", CODE, mode]
    path = {"PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    done = subprocess.run(command, env=environment | path | limits, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="has no wider kernels")
def test_portable_gives_the_same_bytes_whatever_the_cpu_supports() -> None:
    here, portable = run("native"), run("portable")
    assert here[0] == torch.backends.cpu.get_cpu_capability()
    assert portable[0] == "DEFAULT"
    assert portable[1] != here[1]
    held = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert run("portable", **held) == portable  # as on a CPU that can do less


@pytest.mark.parametrize(("cuda", "expected"), [(True, "high"), (False, "highest")])
def test_threads_are_set_and_tf32_is_used_on_cuda_only(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, expected: str
) -> None:
    """On a CPU, some of which have TF32, a machine with a GPU computes as one without."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        for number in (2, 3):
            torch.set_float32_matmul_precision("medium")
            set_arithmetic(number, False, cuda=cuda)
            assert torch.get_num_threads() == number
            assert torch.get_float32_matmul_precision() == expected
            assert torch.backends.cuda.matmul.allow_tf32 == cuda
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    ("available", "params", "cuda"),
    [
        (0, {}, False),
        (0, {"accelerator": "cpu"}, False),
        (1, {}, True),
        (1, {"accelerator": "cpu"}, False),
        (2, {"devices": 2, "accelerator": "cuda", "precision": "16-mixed"}, True),
        (4, {"devices": 8, "nodes": 2}, True),
        (1, {"devices": 2, "accelerator": "cpu"}, False),  # processes share a CPU
    ],
)
def test_cuda_is_used_if_available_unless_params_ask_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, available: int, params: dict[str, Any], cuda: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert uses_cuda("train", **{"accelerator": "auto", "precision": "32"} | params) == cuda


@pytest.mark.parametrize(
    ("available", "params", "message"),
    [
        (0, {"accelerator": "cuda"}, r"train\.accelerator = 'cuda': must be auto or cpu: there is no CUDA device"),
        (1, {"devices": 2}, r"runtime\.devices = 2: must be at most 1, the CUDA devices of this machine"),
        (4, {"devices": 16, "nodes": 2}, r"runtime\.devices = 16: must be at most 8, the CUDA devices of all nodes"),
        (0, {"precision": "16-mixed"}, r"train\.precision = '16-mixed': must be 32 or bf16-mixed on a CPU"),
    ],
)
def test_what_this_machine_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, available: int, params: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    with pytest.raises(ValueError, match=f"^{message}$"):
        uses_cuda("train", **{"accelerator": "auto", "precision": "32"} | params)


FAULTS = """
import resource
import torch
from tiny_lm.device import keep_memory

faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for prepare in (lambda: None, keep_memory):
    prepare()
    for step in range(40):
        if step == 35:
            before = faults()
        torch.ones(2**24)  # 64 MB
    print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's own")
def test_kept_memory_is_not_faulted_in_again() -> None:
    path = {"PYTHONPATH": os.pathsep.join(["src", *sys.path])}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain > 50_000
    assert kept < 100
