"""Which nodes a launcher accepts. Whole runs are in tests/pipeline/test_devices.py."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_lm.io.params import load_params
from tiny_lm.runner import launch as launch_file
from tiny_lm.runner.launch import Launcher
from tiny_lm.runner.node import LauncherSaid, join
from tiny_lm.runner.stage import RuntimeParams

ROOT = Path(__file__).parents[2]
IDENTITY = {"model.d_model": "16", "src/a.py": "ab", "data/shards/metadata.json": "cd", "torch": "2"}


class FakeStage:
    name = "train"

    def __init__(self, nodes=2, digest="00000000000000ab"):
        self.runtime = SimpleNamespace(launcher="torchrun", nodes=nodes, devices=2 * nodes)
        self.digest = digest
        self.said = []

    def work_folder(self):
        folder = Path(".work/train") / self.digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def identity(self):
        return IDENTITY

    def say(self, line):
        self.said.append(line)


class Guest:
    """The connection of a node, which speaks for itself."""

    def __init__(self, launcher):
        self.socket = socket.create_connection(("127.0.0.1", launcher.port), 5)
        self.lines = self.socket.makefile()

    def send(self, **message):
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self):
        return next(message for line in self.lines if (message := json.loads(line)))

    def introduce(self, launcher, **changes):
        assert self.hear() == {"stage": "train"}
        self.send(**{"node": "b", "identity": IDENTITY, "nonce": launcher.nonce} | changes)


@pytest.fixture
def parents(monkeypatch):
    """The processes that have started the launcher."""
    parents = [1, 2]
    monkeypatch.setattr(launch_file, "_parents", lambda: list(parents))
    return parents


@pytest.fixture
def launched(tmp_path, monkeypatch, parents):
    """launched() is a running launcher without nodes, and a list of how it ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch_file, "REPORT_SECONDS", 60.0)  # it stops waiting once all nodes have ended
    monkeypatch.setattr(launch_file, "SILENCE", 0.0)
    monkeypatch.setattr(launch_file.signal, "signal", lambda *_: None)  # not in this thread
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]  # it is killed at the end
    monkeypatch.setattr(Launcher, "_command", lambda self: sleeps)
    started = []

    def launched(nodes=2):
        launcher, ends = Launcher(FakeStage(nodes)), []

        def run():
            try:
                launcher.run()
                ends.append("")
            except ValueError as error:
                ends.append(str(error))

        monkeypatch.setattr(launch_file.subprocess.Popen, "wait", lambda self, timeout=None: self.kill())
        thread = threading.Thread(target=run)
        thread.start()
        started.append((launcher, thread))
        return launcher, ends, thread

    yield launched
    parents.clear()
    for launcher, thread in started:
        for node in launcher.nodes:
            node.channel.close()
        thread.join(60)
        assert not thread.is_alive()


def test_all_nodes_start_together_and_get_ranks_and_one_master(launched):
    launcher, ends, thread = launched()
    guests = [Guest(launcher), Guest(launcher)]
    for guest in guests:
        guest.introduce(launcher)
    orders = [guest.hear() for guest in guests]
    assert sorted(order["rank"] for order in orders) == [0, 1]
    assert {(order["nodes"], order["processes"], order["master"]) for order in orders} == {(2, 2, "127.0.0.1")}
    assert {order["port"] for order in orders} == {launcher.port + 5000}
    for guest in guests:
        guest.send(done=True)
    thread.join(60)
    assert ends == [""]
    assert [guest.hear() for guest in guests] == [{"end": ""}, {"end": ""}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": IDENTITY | {"model.d_model": "32"}}, "b differs from the first node in model.d_model"),
        ({"identity": IDENTITY | {"src/b.py": "x", "src/a.py": "y"}}, "b differs from .* src/a.py, src/b.py"),
        ({"identity": IDENTITY | {"data/shards/metadata.json": "x"}}, "b differs from .* data/shards/metadata.json"),
        ({"identity": IDENTITY | {"torch": "1"}}, "b differs from the first node in torch"),
        ({"nonce": ""}, r"b does not see the folder .*\.work/train/\w+ of the first node; all nodes need .*"),
    ],
)  # fmt: skip
def test_other_params_code_data_libraries_and_folders_are_refused(launched, changes, message):
    launcher, _, _ = launched()
    guest = Guest(launcher)
    guest.introduce(launcher, **changes)
    assert re.fullmatch(message, guest.hear()["end"])
    assert launcher.nodes == []
    for right in (guests := [Guest(launcher), Guest(launcher)]):  # it still waits for these
        right.introduce(launcher)
    assert guests[0].hear()["nodes"] == 2


@pytest.mark.parametrize(
    ("reports", "cause"),
    [
        ([(3, "another process"), (0, "the loss of step 3 is not finite")], "the loss of step 3 is not finite"),
        ([(3, "another process"), (1, "process 1 was killed")], "process 1 was killed"),
        ([(3, "another process"), None], "node b was killed, or its network failed; run the same command to resume"),
    ],
)
def test_the_likely_cause_is_reported_whoever_is_first(launched, reports, cause):
    launcher, ends, thread = launched()
    guests = [Guest(launcher), Guest(launcher)]
    for guest in guests:
        guest.introduce(launcher)
    for guest, report in zip(guests, reports, strict=True):
        guest.hear()
        if report:
            guest.send(kind=report[0], failed=report[1])
        else:
            guest.lines.close()
            guest.socket.close()
    thread.join(60)
    assert ends == [cause]


def test_a_run_keeps_its_port_and_takes_the_next_free_one_if_it_is_in_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def launcher(run=0):
        return Launcher(FakeStage(digest=f"{os.getpid() + run:016x}"))  # not those of another test

    with launcher().listener as listener:
        port = listener.getsockname()[1]
    with launcher().listener as again, launcher().listener as beside:
        assert again.getsockname()[1] == port
        assert beside.getsockname()[1] > port
    with launcher(run=1000).listener as other:
        assert other.getsockname()[1] != port
    assert 20000 <= port < 25000


def test_the_run_ends_if_dvc_is_killed(launched, parents):
    launcher, ends, thread = launched()
    guests = [Guest(launcher), Guest(launcher)]
    for guest in guests:
        guest.introduce(launcher)
    assert {guest.hear()["rank"] for guest in guests} == {0, 1}
    del parents[-1]
    assert [guest.hear() for guest in guests] == [{"stop": True}] * 2
    for guest in guests:
        guest.send(kind=1, failed="stopped by SIGTERM")
    assert [guest.hear() for guest in guests] == [{"end": "stopped by SIGTERM"}] * 2
    thread.join(60)
    assert ends == ["DVC has ended; run the same command to resume"]


def test_the_shell_of_a_stage_is_not_its_only_parent(tmp_path):
    """DVC starts it, and a shell outlives a killed DVC."""
    code = "import os; from tiny_lm.runner.launch import _parents; print(os.getppid(), *_parents())"
    (tmp_path / "stage.sh").write_text(f"{sys.executable} -c '{code}'; true")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = ["sh", tmp_path / "stage.sh"]
    shell, *parents = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert parents == [shell, str(os.getpid())]


@pytest.mark.parametrize("address", ["", "host", "host:", "host:x", ":5", "host:99999"])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(ValueError, match=r"must be HOST:PORT, as the first node prints it"):
        join(address)


def test_a_node_that_waits_for_others_ends_in_words_if_the_run_is_stopped(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tiny_lm.runner.node.remove_overrides", list)
    monkeypatch.setattr("tiny_lm.runner.node.read_plans", lambda: {"train": {}})
    monkeypatch.setattr("tiny_lm.runner.node.Stage", lambda *_: SimpleNamespace(folder=Path, identity=dict))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def stop():
            connection, _ = listener.accept()
            with connection:
                for message in ({"stage": "train"}, {"stop": True}):
                    connection.sendall(json.dumps(message).encode() + b"\n")
                connection.recv(1000)  # what the node says of itself

        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(LauncherSaid, match="^the run was stopped; run the same command to resume$"):
            join(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)


@pytest.fixture
def unreachable():
    """An address at which nobody listens, and nobody can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_node_that_cannot_reach_the_launcher_says_so(unreachable):
    command = [sys.executable, "-m", "tiny_lm.runner.node", unreachable]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == f"{socket.gethostname()}: {unreachable}: Connection refused; start the run on the first node\n"
    )


def test_without_a_launcher_nobody_joins(monkeypatch, unreachable):
    monkeypatch.setattr("tiny_lm.runner.node.remove_overrides", list)
    with pytest.raises(ValueError, match=f"^{unreachable}: Connection refused; start the run on the first node$"):
        join(unreachable)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ({"devices": 2}, "runtime.devices = 2: must be 1 with launcher = none; more need torchrun, or srun in a SLURM"),
        ({"launcher": "torchrun", "devices": 3, "nodes": 2}, "runtime.devices = 3: must be a multiple of nodes = 2"),
        ({"launcher": "mpirun"}, "runtime.launcher = 'mpirun': must be one of none, torchrun, srun"),
        ({"launcher": "torchrun", "devices": 0}, "runtime.devices = 0: must be between 1 and 1024"),
    ],
)
def test_invalid_values_are_refused(runtime, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_params("runtime", runtime, RuntimeParams)
