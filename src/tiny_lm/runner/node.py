"""A node of a run in several processes: `tiny-lm join HOST:PORT` (launch.py).

It connects to the launcher, proves that it works in the same folder on the same params, code and data, and then starts
the workers of this node through torchrun's agent, which is a part of this process. Workers die with it.
"""

import contextlib
import fcntl
import json
import logging
import os
import queue
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from typing import Any, NoReturn

from tiny_lm.runner.channel import Channel, Message
from tiny_lm.runner.launch import NONCE
from tiny_lm.runner.messages import KILLED, OWN, PEER, RESUME, explain, say
from tiny_lm.runner.overrides import remove_overrides
from tiny_lm.runner.pipelines import read_plans
from tiny_lm.runner.stage import Stage

CONNECT_SECONDS = 20.0
SHUTDOWN_SECONDS = 30  # between SIGTERM and SIGKILL to the workers
SIOCGIFADDR = 0x8915  # Linux: the address of an interface


class LauncherSaid(ValueError):
    """What the launcher prints as well."""


def join(address: str) -> None:
    """Works for the launcher at `address`, and ends this process when the run ends, with exit code 0 if it succeeded.
    ValueError if there is no launcher, and LauncherSaid if it refuses this node or stops before the run begins.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{address!r}: must be HOST:PORT, as the first node prints it")
    remove_overrides()
    try:
        connection = socket.create_connection((host, int(port)), CONNECT_SECONDS)
    except OSError as error:
        raise ValueError(f"{address}: {error.strerror or error}; start the run on the first node") from None
    received: queue.Queue[Message | None] = queue.Queue()
    channel = Channel(connection, lambda _, message: received.put(message))
    stage_name = str((_next(received)).get("stage"))
    plans = read_plans()
    if stage_name not in plans:
        raise ValueError(f"{address}: a run of a stage {stage_name!r}, which dvc.yaml does not have")
    stage = Stage(stage_name, plans[stage_name])
    nonce = stage.folder() / NONCE
    proof = nonce.read_text() if nonce.exists() else ""
    channel.send({"node": socket.gethostname(), "identity": stage.identity(), "nonce": proof})
    order = _next(received)
    if "address" not in order:  # refused, or stopped before all nodes had joined
        raise LauncherSaid(order.get("end") or f"the run was stopped; {RESUME}")

    ended = threading.Event()
    end: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_obey, args=(received, ended, end), daemon=True).start()
    kind, text = _run_workers(stage_name, order)
    ended.set()
    channel.send({"failed": text, "kind": kind} if text else {"done": True})
    _exit(end.get())  # the launcher has heard it, and knows of the other nodes


def _next(received: "queue.Queue[Message | None]") -> Message:
    message = received.get()
    if message is None:
        raise LauncherSaid("the launcher has ended")
    return message


def _obey(received: "queue.Queue[Message | None]", ended: threading.Event, end: "queue.Queue[str]") -> None:
    """When the launcher says so, or is lost, ends this process, and with it the workers unless they have ended."""
    while (message := received.get()) and "end" not in message:
        if "stop" in message:
            os.kill(os.getpid(), signal.SIGTERM)  # the agent passes it on
    text = str(message["end"]) if message else f"lost the connection to the launcher; {RESUME}"
    end.put(text)
    if not ended.is_set():
        _exit(text)


def _exit(text: str) -> NoReturn:
    """Ends this process at once; Python would wait for threads of libraries."""
    if text and __name__ != "__main__":  # the launcher prints it for the nodes that it has started
        say(f"tiny-lm join: {text}")
    os._exit(1 if text else 0)


def _run_workers(stage: str, order: dict[str, Any]) -> tuple[int, str]:
    """(kind, text) of the failure of this node's workers, as in launch.py; the text is empty if they succeed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # failures are reported in one line
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of workers; it warns about hosts without a name
    if name := _interface(order["address"]):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    ours, theirs = socket.socketpair()
    os.dup2(theirs.fileno(), 0)  # workers report failures through their standard input, which needs no disk
    theirs.close()
    failures: list[tuple[int, str]] = []
    threading.Thread(target=_collect, args=(ours, failures), daemon=True).start()
    where = f" on {socket.gethostname()}" if order["nodes"] > 1 else ""
    try:
        with tempfile.TemporaryDirectory(prefix="tiny-lm-", ignore_cleanup_errors=True) as logs:
            config = LaunchConfig(
                min_nodes=order["nodes"], max_nodes=order["nodes"], nproc_per_node=order["processes"], run_id=stage,
                rdzv_backend="static", rdzv_endpoint=f"{order['master']}:{order['port']}",
                rdzv_configs={"rank": order["rank"], "timeout": 60}, local_addr=order["address"], max_restarts=0,
                monitor_interval=0.1, shutdown_timeout=SHUTDOWN_SECONDS, logs_specs=DefaultLogsSpecs(logs),
            )  # fmt: skip
            elastic_launch(config, sys.executable)("-m", "tiny_lm.stages", stage)
        return OWN, ""
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0:
                failures.append(_killed(f"process {rank}{where}", signal.Signals(-failure.exitcode)))
    except SignalException as error:
        failures.append((KILLED, f"stopped by {signal.Signals(error.sigval).name}{where}; {RESUME}"))
    except Exception as error:
        failures.append((OWN, f"{where.removeprefix(' ')}: {explain(error, has_peers=True)}".removeprefix(": ")))
    time.sleep(0.2)  # for the last words of the workers
    return min(failures, default=(KILLED, f"a process{where} ended without an error message; {RESUME}"))


def _killed(process: str, number: signal.Signals) -> tuple[int, str]:
    """(kind, text). When a worker ends, torchrun's agent ends the others by SIGTERM, so that is the cause only if no
    other is known.
    """
    return PEER if number == signal.SIGTERM else KILLED, f"{process} was killed by {number.name}; {RESUME}"


def _collect(workers: socket.socket, failures: list[tuple[int, str]]) -> None:
    for line in workers.makefile():
        kind, text = json.loads(line)
        failures.append((kind, text))


def _interface(address: str) -> str | None:
    """The network interface with this address. By default, gloo uses that of the host's name, often the loopback."""
    with socket.socket() as any_socket:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None


if __name__ == "__main__":
    try:
        join(sys.argv[1])
    except LauncherSaid:
        sys.exit(1)
    except Exception as error:  # the launcher may never have heard of this node
        sys.exit(f"{socket.gethostname()}: {explain(error)}")
