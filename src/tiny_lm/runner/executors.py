"""Executors compute the parts of a stage's work. None of them can change a byte of the result.

- `Processes`: worker processes on this machine
- `RayTasks`: the machines of a Ray cluster, all of which must see the project's folder under the same path
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P")  # a result that is being computed

AHEAD = 2  # items per worker that are taken before their turn, so that no worker waits for the slowest part
CONNECT_SECONDS = 10
RETRIES = 10  # of a Ray task whose worker or node was lost


def _in_order(
    items: Iterable[T],
    submit: Callable[[T], P],
    result: Callable[[P], R],
    cancel: Callable[[P], object],
    ahead: int,
) -> Iterator[R]:
    """Yields the results in the order of the items, of which at most `ahead` are taken before their turn."""
    pending: deque[P] = deque()
    try:
        for item in items:
            pending.append(submit(item))
            if len(pending) > ahead:
                yield result(pending.popleft())
        while pending:
            yield result(pending.popleft())
    finally:
        for each in pending:
            cancel(each)


class Processes:
    """Worker processes, started when there is more than one item, and stopped by `close`."""

    def __init__(self, workers: int, module: str) -> None:
        self._workers, self._module = workers, module  # imported once for all workers
        self._pool: ProcessPoolExecutor | None = None

    def ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        items = iter(items)
        first = list(islice(items, 2))
        if len(first) < 2 or self._workers == 1:  # a process takes longer to start than most single items to compute
            yield from map(function, chain(first, items))
            return
        pool = self._start()

        def submit(item: T) -> Future[R]:
            return pool.submit(function, item)

        try:
            # `close` cancels: in older Pythons, the pool's thread fails if a worker dies and its future is cancelled
            yield from _in_order(chain(first, items), submit, Future.result, lambda _: None, AHEAD * self._workers)
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed, perhaps because memory ran out (a smaller runtime.workers needs less); "
                "run the same command again"
            ) from error

    def _start(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = get_context("forkserver")  # not a fork of this process, which has threads
            context.set_forkserver_preload([self._module])
            self._pool = ProcessPoolExecutor(self._workers, context, _follow_parent)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())  # `shutdown` forgets them
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()  # whatever it computes is not needed
            self._pool = None


def _follow_parent() -> None:
    """Runs in each worker. The stage handles Ctrl-C, and a worker ends if the stage is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class RayTasks:
    """Tasks of a Ray cluster. A task whose worker or node is lost runs again elsewhere."""

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ValueError(
                "runtime.executor = 'ray': Ray is not installed; run `pip install -c constraints.txt -e '.[ray]'`"
            ) from None

        self._ray = ray
        # without an address, Ray would look for a cluster that somebody started here, even if it was killed
        address = address or os.environ.get("RAY_ADDRESS", "local")
        try:
            if ":" in address and "//" not in address:  # Ray would try for a minute
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(
                address,
                runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2])}},
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
        except (OSError, ValueError) as error:  # ConnectionError is an OSError
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"runtime.address = {address!r}: no Ray cluster there ({reason})") from error
        self._ahead = AHEAD * int(ray.cluster_resources().get("CPU", 1))

    def ordered(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        task: Any = self._ray.remote(max_retries=RETRIES, scheduling_strategy="SPREAD")(_run_in)

        def submit(item: T) -> Any:
            return task.remote(Path.cwd(), function, item)

        yield from _in_order(items, submit, self._result, self._ray.cancel, self._ahead)

    def _result(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:  # its text is a traceback
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"Ray gave up on a task ({reason}); run the same command again") from error

    def close(self) -> None:
        self._ray.shutdown()


def _run_in(folder: Path, function: Callable[[T], R], item: T) -> R:
    """Runs in a worker of Ray, whose own folder is another."""
    os.chdir(folder)
    return function(item)
