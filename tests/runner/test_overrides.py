"""params.yaml decides what a stage computes, not environment variables."""

import os

import pytest

from tiny_lm.runner.overrides import PARENT, is_first_process, remove_overrides

SETTINGS = {
    "PL_TRAINER_MAX_STEPS": "3", "PL_TRAINER_LIMIT_TRAIN_BATCHES": "3", "PL_GLOBAL_SEED": "1", "DVCLIVE_RESUME": "true",
    "DVCLIVE_TEST": "true", "DVCLIVE_LOGLEVEL": "loud", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2", "MKL_DYNAMIC": "true", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_THREAD_LIMIT": "1",
    "ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "NVIDIA_TF32_OVERRIDE": "0", "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "TORCHDYNAMO_DISABLE": "1", "TORCHINDUCTOR_MAX_AUTOTUNE": "1",
}  # fmt: skip
CLUSTER = {
    "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "1", "GROUP_RANK": "1",
    "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "JSM_NAMESPACE_RANK": "1",
}  # fmt: skip
OTHERS = {
    "OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "MKL_INTERFACE_LAYER": "LP64", "CUDA_VISIBLE_DEVICES": "0",
    "DVC_ROOT": "/somewhere", "DVC_EXP_NAME": "name", "SLURM_JOB_ID": "7", "TORCHINDUCTOR_CACHE_DIR": "/tmp",
    "TORCH_HOME": "/tmp", "WANDB_PROJECT": "mine", "HF_HOME": "/tmp", "MY_RANK": "1", "GOMP_SPINCOUNT": "1",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    """The variables of this process, for one test."""
    monkeypatch.setattr(os, "environ", SETTINGS | CLUSTER | OTHERS)
    return os.environ


def test_settings_and_ranks_are_removed_and_settings_are_named(environment):
    assert remove_overrides() == sorted(SETTINGS)
    environment.pop("PYTEST_CURRENT_TEST")
    assert environment == OTHERS | {PARENT: str(os.getpid())}
    assert remove_overrides() == []
    assert is_first_process()


def test_a_leftover_rank_does_not_make_a_process_a_worker(environment):
    environment[PARENT] = str(os.getpid())  # of a stage that ran before in this shell
    assert is_first_process()
    assert "LOCAL_RANK" in environment
    remove_overrides()
    assert "LOCAL_RANK" not in environment


def test_a_process_started_by_the_first_one_keeps_its_rank(environment):
    environment[PARENT] = str(os.getppid())
    assert not is_first_process()
    assert remove_overrides() == []
    assert environment.items() >= (SETTINGS | CLUSTER | OTHERS).items()
