"""How sums are rounded: threads and kernels. The same ones give the same bytes."""

import os

import torch


def set_arithmetic(threads: int, portable: bool) -> None:
    """To be called before the first operation: that is when torch and MKL choose their kernels.

    `portable` takes the kernels that every x86-64 CPU has, and MKL's branch that gives the same bits on all of them, in
    place of the fastest ones that this CPU has: the same bytes on another kind of CPU, several times slower.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")  # TF32 on CUDA; no effect on a CPU
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if portable:
        os.environ |= {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
        torch.backends.mkldnn.set_flags(False)
        assert torch.backends.cpu.get_cpu_capability() == "DEFAULT", "torch has chosen its kernels before"
