"""Environment variables that could change what a stage computes. A stage removes them before it imports its libraries.

params.yaml decides what a run does. Lightning, DVCLive, torch and MKL also read settings from the environment, and
ranks that a SLURM job or an earlier `torchrun` left there. The first process of a run ignores all of these, and so does
a node; its workers get their rank from it.
"""

import os
import re

PARENT = "TINY_LM_PARENT"  # set to the process ID of a run's first process, for the processes that it starts
SETTINGS = re.compile(
    "PL_.*"  # Lightning: PL_TRAINER_* fills arguments of Trainer
    "|DVCLIVE_.*"  # DVCLIVE_RESUME appends to existing rows, DVCLIVE_TEST writes to a temporary folder
    "|ATEN_CPU_CAPABILITY|MKL_(CBWR|DEBUG_CPU_TYPE|DISABLE_FAST_MM|DYNAMIC|ENABLE_INSTRUCTIONS|NUM_STRIPES)"
    "|(ONEDNN|DNNL)_(MAX_CPU_ISA|CPU_ISA_HINTS|DEFAULT_FPMATH_MODE)"  # kernels of a CPU
    "|MKL_DOMAIN_NUM_THREADS|OMP_(DYNAMIC|THREAD_LIMIT)"  # fewer threads than the params ask for
    "|NVIDIA_TF32_OVERRIDE|(CUBLAS|CUBLASLT)_(WORKSPACE|EMULAT).*|DISABLE_ADDMM_CUDA_LT|TRITON_F32_DEFAULT"
    "|TORCH_(ALLOW_TF32|BLAS_PREFER|CUDNN|LINALG_PREFER|LINEAR|MKLDNN)_.*"  # kernels of a GPU
    "|TORCH_COMPILE_DISABLE|TORCHDYNAMO_.*|TORCHINDUCTOR_(?!CACHE_DIR|COMPILE_THREADS).*"
)
CLUSTER = re.compile(
    "(LOCAL_|NODE_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|STANDALONE_PORT|TORCHELASTIC_.*"
    "|SLURM_(NTASKS|PROCID|LOCALID|NODEID)|JSM_NAMESPACE_.*"
)


def is_first_process() -> bool:
    """False in workers; RANK alone may be a leftover."""
    return os.environ.get(PARENT) != str(os.getppid())


def remove_overrides() -> list[str]:
    """Removes the variables from this process's environment; returns the names of the settings among them."""
    if not is_first_process():
        return []
    settings = sorted(filter(SETTINGS.fullmatch, os.environ))
    for name in [*settings, *filter(CLUSTER.fullmatch, list(os.environ))]:
        del os.environ[name]
    os.environ[PARENT] = str(os.getpid())
    return settings
