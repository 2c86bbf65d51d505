"""Runs a stage in several processes, on this machine or on several nodes.

The process that calls `launch` holds the lock, checks inputs, restores outputs after a failure, and computes nothing.
Each node runs `tiny-lm join HOST:PORT` (node.py), which it starts itself on this machine, `srun` on all nodes of a
SLURM job, or a person on the others. It proves that it works in the same folder by a file that differs in each run.

Nodes and launcher keep a connection (channel.py). If a node reports a failure, or its connection is lost, or DVC has
ended, all are told to end, and the failure that is the likely cause is reported.
"""

import contextlib
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tiny_lm.runner.channel import SILENCE, Channel, Message
from tiny_lm.runner.messages import LOST, OWN, RESUME
from tiny_lm.runner.overrides import PARENT
from tiny_lm.runner.stage import Stage

NONCE = "nonce"  # a file in the work folder that only nodes with the same folder can read
PORTS = range(20000, 25000)  # of launchers; below those that systems give to outgoing connections
MASTER = 5000  # from the port of a launcher to that at which its workers meet
REPORT_SECONDS = 2.0  # after the first failure, in which other nodes may report its cause
STOP_SECONDS = 40.0  # to finish a step and save; workers are killed 30 s after SIGTERM
JOIN_SECONDS = 300.0  # in which srun has to start all nodes


@dataclass
class Node:
    channel: Channel
    name: str
    address: str  # of the launcher, as the node sees it
    own_address: str
    ended: bool = False

    @property
    def is_here(self) -> bool:
        return self.own_address == self.address or self.own_address.startswith("127.")


def launch(stage: Stage) -> None:
    """Runs the stage in `runtime.devices` processes. ValueError with the cause if it fails on any of them."""
    Launcher(stage).run()


class Launcher:
    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.work = stage.work_folder()
        self.nonce = secrets.token_hex(16)
        (self.work / NONCE).write_text(self.nonce)
        self.nodes: list[Node] = []
        self.failures: list[tuple[int, str]] = []
        self.events: queue.Queue[tuple[Channel, Message | None]] = queue.Queue()
        self.refusal = ""  # of the last node that was refused
        self.host = socket.gethostname()
        alone = stage.runtime.nodes == 1 and stage.runtime.launcher == "torchrun"
        self.listener = _listen("127.0.0.1" if alone else "", self.work.name)
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        parents = _parents()
        threading.Thread(target=self._accept, daemon=True).start()
        environment = {key: value for key, value in os.environ.items() if key != PARENT}  # it starts workers itself
        process = subprocess.Popen(
            self._command(), env=environment, stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process
        )  # fmt: skip
        started, others = time.monotonic(), self.stage.runtime.nodes - 1
        if others and self.stage.runtime.launcher == "torchrun":
            self.stage.say(
                f"waiting for {others} more node{'s' * (others > 1)}: "
                f"run `tiny-lm join {self.host}:{self.port}` there, in this folder"
            )
        try:
            while not self._all_ended() and not self.failures:
                self._handle()
                if process.poll() is not None and not self._is_complete():
                    self._fail(OWN, self.refusal or f"{self._command()[0]} ended with exit code {process.returncode}")
                if self.stage.runtime.launcher == "srun" and not self._is_complete() and _since(started) > JOIN_SECONDS:
                    self._fail(OWN, f"srun started {len(self.nodes)} of {self.stage.runtime.nodes} nodes in 5 minutes")
                if _parents() != parents:
                    raise ValueError(f"DVC has ended; {RESUME}")
            self._wait(REPORT_SECONDS)
        except BaseException:  # Ctrl-C and SIGTERM: the workers finish their step and save
            for node in self.nodes:
                node.channel.send({"stop": True})
            self._wait(STOP_SECONDS)
            raise
        finally:
            self._end(process)
        if self.failures:
            raise ValueError(min(self.failures)[1])

    def _command(self) -> list[str]:
        nodes = self.stage.runtime.nodes
        join = [sys.executable, "-m", "tiny_lm.runner.node"]
        if self.stage.runtime.launcher == "torchrun":
            return [*join, f"127.0.0.1:{self.port}"]
        return [
            "srun",
            f"--nodes={nodes}",
            f"--ntasks={nodes}",
            "--ntasks-per-node=1",
            "--export=ALL",
            *join,
            f"{self.host}:{self.port}",
        ]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self.listener.accept()
                Channel(connection, lambda *event: self.events.put(event)).send({"stage": self.stage.name})

    def _is_complete(self) -> bool:
        return len(self.nodes) == self.stage.runtime.nodes

    def _all_ended(self) -> bool:
        return self._is_complete() and all(node.ended for node in self.nodes)

    def _fail(self, kind: int, text: str) -> None:
        self.failures.append((kind, text))

    def _wait(self, seconds: float) -> None:
        """For the ends of the nodes that have started."""
        end = time.monotonic() + seconds
        while not all(node.ended for node in self.nodes) and time.monotonic() < end:
            self._handle()

    def _handle(self) -> None:
        """Handles an event if one comes within half a second."""
        try:
            channel, message = self.events.get(timeout=0.5)
        except queue.Empty:
            return
        node = next((node for node in self.nodes if node.channel is channel), None)
        if node is None:
            if message is not None:
                self._join(channel, message)
        elif message is None:
            if not node.ended:
                self._fail(LOST, f"node {node.name} was killed, or its network failed; {RESUME}")
            node.ended = True
        else:
            node.ended = True
            if "failed" in message:
                self._fail(int(message["kind"]), str(message["failed"]))

    def _join(self, channel: Channel, message: Message) -> None:
        """Adds a node if it has the same folder, params, code, data and libraries; starts all if it is the last."""
        name, mine, theirs = str(message.get("node")), self.stage.identity(), message.get("identity")
        if not isinstance(theirs, dict):
            return channel.close()
        refusal = ""
        if different := sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)):
            refusal = f"{name} differs from the first node in {', '.join(different[:5])}"
        elif message.get("nonce") != self.nonce:
            refusal = f"{name} does not see the folder {self.work} of the first node; all nodes need one shared folder"
        elif self._is_complete():
            refusal = f"this run has all of its {len(self.nodes)} nodes"
        if refusal:
            channel.send({"end": refusal})
            if self.stage.runtime.launcher == "srun":
                self._fail(OWN, refusal)
            elif not self._is_complete():
                self.refusal = refusal
                self.stage.say(refusal)
            return None
        try:
            self.nodes.append(Node(channel, name, *channel.addresses()))
        except OSError:  # it has ended meanwhile
            return None
        if self._is_complete():
            self._start()
        return None

    def _start(self) -> None:
        self.nodes.sort(key=lambda node: not node.is_here)  # process 0 prints progress, so it should be on this machine
        outward = next((node.address for node in self.nodes if not node.is_here), "127.0.0.1")
        reachable = [outward if node.is_here else node.own_address for node in self.nodes]
        port = self.port + MASTER
        for rank, node in enumerate(self.nodes):
            order = {"rank": rank, "nodes": len(self.nodes), "master": reachable[0], "port": port}
            processes = self.stage.runtime.devices // self.stage.runtime.nodes
            node.channel.send(order | {"address": reachable[rank], "processes": processes})

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """Returns when no process of this run can write any more."""
        text = min(self.failures)[1] if self.failures else "" if self._all_ended() else f"the run was stopped; {RESUME}"
        if text:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # also ends `accept` in the other thread
        self.listener.close()
        for node in self.nodes:
            node.channel.send({"end": text})
        self._wait(SILENCE + 2)  # a node that cannot be reached ends itself after so much silence
        for node in self.nodes:
            node.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listen(host: str, digest: str) -> socket.socket:
    """At the port of this run, so that the command for the other nodes stays the same, or the next that is free."""
    first = int(digest, 16) % len(PORTS)
    for port in (*PORTS[first:], *PORTS[:first]):
        with contextlib.suppress(OSError):
            return socket.create_server((host, port))
    raise ValueError(f"no free port among {PORTS[0]} to {PORTS[-1]}")


def _since(moment: float) -> float:
    return time.monotonic() - moment


def _parents() -> list[int]:
    """The process that started this one, and if that is the shell of the stage, DVC."""
    parent = os.getppid()
    with contextlib.suppress(OSError, IndexError):  # a system without /proc
        if b"stage.sh" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return [parent, int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])]
    return [parent]
