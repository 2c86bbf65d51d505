"""Executors: results in order, errors and killed processes in one line, and nothing left running."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from work import die_at_three, fail_at_three, rest, square

from tiny_lm.runner.executors import Processes, RayTasks

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # it prints a traceback


@pytest.fixture
def processes():
    with closing(Processes(2, "work")) as executor:
        yield executor


def test_results_are_in_the_order_of_the_items_and_computed_by_other_processes(processes):
    results = list(processes.ordered(square, range(12)))
    assert [result for result, _ in results] == [number * number for number in range(12)]
    assert os.getpid() not in {process for _, process in results}


def test_a_single_item_or_worker_needs_no_other_process(processes):
    assert list(processes.ordered(square, [3])) == [(9, os.getpid())]
    assert {process for _, process in Processes(1, "work").ordered(square, range(3))} == {os.getpid()}


def test_few_items_are_taken_ahead_so_that_a_source_may_be_endless(processes):
    taken = []
    results = processes.ordered(abs, (taken.append(number) or number for number in count()))
    assert list(islice(results, 5)) == [0, 1, 2, 3, 4]
    assert len(taken) < 12


def test_the_first_error_in_order_is_raised_as_it_was(processes):
    results = processes.ordered(fail_at_three, range(9))
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="^3 is wrong$"):
        next(results)


def test_a_killed_worker_is_an_error_in_one_line(processes):
    with pytest.raises(ValueError, match=r"^a worker process was killed, .*; run the same command again$"):
        list(processes.ordered(die_at_three, range(9)))


def test_no_worker_is_left_after_close():
    executor = Processes(2, "work")
    workers = {process for _, process in executor.ordered(square, range(6))}
    results = executor.ordered(rest, [0, 60, 60, 60])
    next(results)
    executor.close()
    _, alive = psutil.wait_procs([psutil.Process(worker) for worker in workers if psutil.pid_exists(worker)], 20)
    assert not alive


def test_without_ray_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^runtime.executor = 'ray': Ray is not installed; run `pip install -c "):
        RayTasks(None)


@pytest.mark.parametrize(
    ("address", "variable", "used"),
    [
        ("auto", None, "auto"),
        ("auto", "ray://other:1", "auto"),
        (None, "ray://head:1", "ray://head:1"),
        (None, None, "local"),
    ],
)
def test_the_address_of_ray_is_that_of_the_params_or_the_environment_or_this_machine(
    monkeypatch, address, variable, used
):
    addresses = []
    ray = SimpleNamespace(
        init=lambda address, **_: addresses.append(address), cluster_resources=dict, shutdown=lambda: None
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    RayTasks(address).close()
    assert addresses == [used]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_started_them(number):
    code = (
        "import time; from tiny_lm.runner.executors import Processes\n"
        "if __name__ == '__main__':\n"
        "    executor = Processes(2, 'math')\n"
        "    print(*executor.ordered(abs, range(4)), flush=True); time.sleep(20)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0 1 2 3\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 3  # the fork server and its workers
        process.send_signal(number)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
