"""Training in several processes, on two nodes in network namespaces, and in a SLURM job: whatever is killed, the run
ends within a minute in one line, leaves no process behind, and resumes to the bytes of one process.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from pipeline.conftest import processes_in
from tries import ALL

pytestmark = pytest.mark.skipif(not ALL, reason="some minutes, in `make proof` alone")
STEPS = "train.micro_batch_size=1 train.steps=150 train.checkpoint_every=10 train.validate_every=50 train.log_every=50"
SECONDS = 60.0


@pytest.fixture
def alone(repository):
    """A copy of the repository with the result of one process; the repository itself has not trained these steps."""
    repository.preset(*STEPS.split())
    copy = repository.copy("alone")
    copy.dvc("repro", "train")
    shutil.rmtree(repository.path / ".work/train")
    return copy


def until_saved(repository, process):
    """Waits until the run has saved a resume checkpoint."""
    before = {file: file.stat().st_mtime_ns for file in repository.path.glob(".work/train/*/last.ckpt")}

    def saved():
        assert process.poll() is None, repository.said()
        now = {file: file.stat().st_mtime_ns for file in repository.path.glob(".work/train/*/last.ckpt")}
        return now != before

    repository.wait_for(saved)


def find(process, victim):
    """A process of the run that `dvc repro` started."""
    started = psutil.Process(process.pid).children(recursive=True)
    if victim == "DVC":
        return psutil.Process(process.pid)
    if victim.startswith("process "):
        return next(each for each in started if each.environ().get("RANK") == victim.split()[1])
    if victim == "torchrun's agent":
        return next(each for each in started if "tiny_lm.runner.node" in each.cmdline())
    return next(each for each in started if each.cmdline()[1:3] == ["-m", "tiny_lm.stages"])  # the launcher


def ends_within_a_minute(repository, since):
    repository.wait_for(lambda: repository.is_left_alone() or time.monotonic() > since + SECONDS, pause=0.1)
    assert repository.is_left_alone(), processes_in(repository.path)


@pytest.mark.parametrize(
    ("victim", "number", "said"),
    [
        ("process 0", signal.SIGKILL, "process 0 was killed by SIGKILL; run the same command to resume"),
        ("process 1", signal.SIGKILL, "process 1 was killed by SIGKILL; run the same command to resume"),
        ("process 1", signal.SIGTERM, "stopped by SIGTERM; run the same command to resume"),
        ("torchrun's agent", signal.SIGKILL, r"node \S+ was killed, or its network failed; run the same command"),
        ("torchrun's agent", signal.SIGTERM, "stopped by SIGTERM; run the same command to resume"),
        ("the launcher", signal.SIGKILL, "failed to run: sh src/stage.sh train, exited with -9"),  # as DVC says
        ("the launcher", signal.SIGTERM, "stopped by SIGTERM; run the same command to resume"),
        ("the launcher", signal.SIGINT, "stopped by Ctrl-C; run the same command to resume"),
        ("DVC", signal.SIGKILL, "DVC has ended; run the same command to resume"),
    ],
)
def test_a_run_on_several_devices_that_loses_a_process(repository, alone, book, victim, number, said):
    before = repository.hashes()
    for devices in (2, 4):
        repository.preset("runtime.launcher=torchrun", f"runtime.devices={devices}")
        process = repository.start("dvc", "repro", "train")
        until_saved(repository, process)
        since = time.monotonic()
        find(process, victim).send_signal(number)
        repository.end(process)
        ends_within_a_minute(repository, since)
        assert re.search(said, repository.said())
        assert "Traceback" not in repository.said()
        if victim == "the launcher" and number == signal.SIGKILL:
            repository.tiny_lm("restore", "train")
        assert repository.hashes() == before
    repository.preset("runtime.launcher=none", "runtime.devices=1")
    assert "resuming from " in repository.dvc("repro", "train")
    assert repository.lock() == alone.lock()
    book.note(
        f"train on two, four, then one device: {number.name} to {victim}", "one line, no process left, same bytes"
    )


@pytest.fixture
def namespaces():
    """The names of two network namespaces with addresses 10.77.0.1 and 10.77.0.2; skips without the permission."""

    def ip(*arguments):
        return subprocess.run(["ip", *arguments], capture_output=True).returncode == 0

    names = f"tl{os.getpid()}a", f"tl{os.getpid()}b"
    if not shutil.which("ip") or not all(ip("netns", "add", name) for name in names):
        pytest.skip("cannot create network namespaces")
    ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
    for number, name in enumerate(names, 1):
        ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            assert ip("-n", name, "link", "set", link, "up")
    yield names
    for name in names:
        ip("netns", "del", name)


def start_first(repository, namespaces):
    """`dvc repro train` in the first namespace, and the port at which it waits for another node."""
    command = ("ip", "netns", "exec", namespaces[0], "dvc", "repro", "--force", "--single-item", "train")
    process = repository.start(*command)
    waiting = r"waiting for 1 more node: run `tiny-lm join \S+:(\d+)`"
    return process, repository.wait_for(lambda: re.search(waiting, repository.said()))[1]


def join(repository, namespaces, port, *wrapper):
    """`tiny-lm join` in the second namespace, run by the command `wrapper`, and the file that it prints to."""
    log = getattr(repository, "log", "")
    command = ("ip", "netns", "exec", namespaces[1], *wrapper, *repository.TINY_LM, "join", f"10.77.0.1:{port}")
    node, said = repository.start(*command), Path(repository.log)
    repository.log = log  # that of `dvc repro`
    return node, said


def test_two_nodes_that_lose_each_other(repository, alone, namespaces, book):
    repository.preset("runtime.launcher=torchrun", "runtime.devices=4", "runtime.nodes=2")
    before = repository.hashes()
    process, port = start_first(repository, namespaces)
    node, said = join(repository, namespaces, port)
    until_saved(repository, process)
    subprocess.run(["ip", "-n", namespaces[1], "link", "set", "eth0", "down"], check=True)
    since = time.monotonic()
    assert process.wait(SECONDS) != 0
    assert node.wait(SECONDS) == 1
    ends_within_a_minute(repository, since)
    assert re.search(r"train: node \S+ was killed, or its network failed; run the same", repository.said())
    assert "tiny-lm join: lost the connection to the launcher; run the same command to resume" in said.read_text()
    assert repository.hashes() == before

    subprocess.run(["ip", "-n", namespaces[1], "link", "set", "eth0", "up"], check=True)
    process, port = start_first(repository, namespaces)
    node, _ = join(repository, namespaces, port)
    assert (process.wait(600), node.wait(60)) == (0, 0), repository.said()
    assert "resuming from " in repository.said()
    assert repository.lock() == alone.lock()
    book.note("train on two nodes in network namespaces: the network fails", "one line on each, then the same bytes")


@pytest.mark.parametrize("offset", ["-3d", "+3d"])
def test_a_node_whose_clock_is_wrong(repository, alone, namespaces, book, offset):
    """One of its processes is killed, so that the run resumes as well."""
    if not shutil.which("faketime"):
        pytest.skip("no faketime")
    clock = ("env", "NO_FAKE_STAT=1", "faketime", "-f", offset)
    repository.preset("runtime.launcher=torchrun", "runtime.devices=2", "runtime.nodes=2")
    process, port = start_first(repository, namespaces)
    node, _ = join(repository, namespaces, port, *clock)
    until_saved(repository, process)
    since = time.monotonic()
    psutil.Process(node.pid).children(recursive=True)[-1].kill()
    assert process.wait(SECONDS) != 0
    ends_within_a_minute(repository, since)
    process, port = start_first(repository, namespaces)
    node, said = join(repository, namespaces, port, *clock)
    assert (process.wait(600), node.wait(60)) == (0, 0), repository.said() + said.read_text()
    assert "resuming from " in repository.said()
    assert repository.lock() == alone.lock()
    book.note(f"train on two nodes, the clock of one is wrong by {offset}", "the same bytes")


def test_a_node_whose_own_disk_is_full(repository, alone, namespaces, book, tmp_path):
    """The shared folder has room; what is full is the folder for temporary files."""
    full = tmp_path / "full"
    full.mkdir()
    fill = f"mount -t tmpfs -o size=64k tmpfs {full} && ! cat /dev/zero > {full}/zeros 2> {tmp_path}/none"
    disk = ("unshare", "--mount", "sh", "-c", f'{fill} && TMPDIR={full} exec "$@"', "sh")
    if subprocess.run([*disk, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    repository.preset("runtime.launcher=torchrun", "runtime.devices=2", "runtime.nodes=2")
    process, port = start_first(repository, namespaces)
    node, said = join(repository, namespaces, port, *disk)
    assert (process.wait(600), node.wait(60)) == (0, 0), repository.said() + said.read_text()
    assert repository.lock() == alone.lock()
    book.note("train on two nodes, the own disk of one is full", "the same bytes")


def test_a_node_with_a_copy_of_the_folder_is_refused(repository, alone, namespaces, book):
    """In a copy, the second process would start at step 0 while the first resumes."""
    repository.preset("runtime.launcher=torchrun", "runtime.devices=2", "runtime.nodes=2")
    copy, edited = repository.copy("copy"), repository.copy("edited")
    edited.preset("train.learning_rate=0.003")
    process, port = start_first(repository, namespaces)
    for other, refusal in (
        (copy, "does not see the folder"),
        (edited, "differs from the first node in train.learning"),
    ):
        node, said = join(other, namespaces, port)
        assert node.wait(60) == 1
        assert refusal in said.read_text()
        book.note(f"train on two nodes: the other {refusal}", "refused in one line")
    find(process, "the launcher").send_signal(signal.SIGTERM)
    code, output = repository.end(process)
    assert code != 0
    assert "train: stopped by SIGTERM" in output


SLURM = """
ClusterName=tiny
SlurmctldHost={host}({addresses[0]})
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
SlurmdTimeout=20
KillWait=10
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
NodeName=a0 NodeHostname={host} NodeAddr={addresses[0]} Port={ports[0]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=a1 NodeHostname={host} NodeAddr={addresses[1]} Port={ports[1]} CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=a[0-1] Default=YES MaxTime=60 State=UP
"""


@contextlib.contextmanager
def slurm_of_two_nodes(folder, repository, addresses, wrappers):
    """A SLURM on this machine, from Debian's packages slurmctld, slurmd, slurm-client and munge. `wrappers` are the
    commands that run a node, and `slurmctld` like the first. Yields the processes of the nodes.
    """
    if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))) or os.geteuid():
        pytest.skip("no slurmctld, slurmd, sbatch, munged, or not root")
    host, port = os.uname().nodename.split(".")[0], 16817 + os.getpid() % 1000
    (folder / "state").mkdir()
    ports = port + 2000, port + 2001
    conf = SLURM.format(host=host, port=port, folder=folder, addresses=addresses, ports=ports)
    (folder / "slurm.conf").write_text(conf)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    repository.environment = repository.environment | {"SLURM_CONF": str(folder / "slurm.conf")}
    munged = subprocess.run(["pgrep", "-x", "munged"], capture_output=True).returncode == 0
    if not munged:
        subprocess.run(["install", "-d", "-o", "munge", "/run/munge", "/var/log/munge"], check=True)
        subprocess.run(["su", "-s", "/bin/sh", "munge", "-c", shutil.which("munged")], check=True)
    commands = [[*wrappers[0], "slurmctld", "-c"]]
    commands += [[*wrapper, "slurmd", "-N", f"a{number}"] for number, wrapper in enumerate(wrappers)]
    daemons = [
        subprocess.Popen(
            [*command, "-D"], env=repository.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    activate = repository.path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")  # the environment is this one's
    try:
        yield daemons[1:]
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


@pytest.fixture
def slurm(tmp_path_factory, repository):
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_of_two_nodes(folder, repository, ("127.0.0.1",) * 2, ((), ())):
        repository.wait_for(lambda: " idle " in repository.run("sinfo"), pause=1)
        yield repository


def start_soon(repository, job):
    """SLURM would wait for two minutes with a job that was requeued; in the same second, a node would refuse it."""
    repository.run("scontrol", "update", f"jobid={job}", "starttime=now+3")


def test_a_slurm_job_that_is_stopped_requeues_itself(slurm, repository, alone, book):
    repository.preset("runtime.launcher=srun", "runtime.devices=2", "runtime.nodes=2")
    submitted = repository.run("sbatch", "--cpus-per-task=1", "--time=20", "scripts/train.sbatch")
    job = submitted.split()[-1]
    log = repository.path / f"tiny-lm-{job}.log"
    repository.wait_for(lambda: list(repository.path.glob(".work/train/*/last.ckpt")), pause=0.1)
    repository.run("scancel", "--signal=TERM", job)
    repository.wait_for(lambda: "stopped by SIGTERM" in log.read_text(), pause=0.5)
    repository.wait_for(lambda: job not in repository.run("squeue", "--noheader", "--states=RUNNING"), pause=0.5)
    start_soon(repository, job)
    repository.wait_for(lambda: "best validation loss" in log.read_text(), pause=0.5)
    repository.wait_for(lambda: job not in repository.run("squeue", "--noheader"), pause=0.5)
    assert "train: resuming from " in log.read_text()
    assert {path: md5 for path, md5 in repository.lock().items() if "train" in path or "checkpoint" in path} == {
        path: md5 for path, md5 in alone.lock().items() if "train" in path or "checkpoint" in path
    }
    book.note("train on two nodes of a SLURM: SIGTERM", "the job requeues itself, then the same bytes")


def test_a_slurm_job_whose_run_fails_for_good_is_not_requeued(slurm, repository, book):
    repository.edit("params.yaml", "n_kv_heads: 2", "n_kv_heads: 3")
    job = repository.run("sbatch", "--cpus-per-task=1", "--time=20", "scripts/train.sbatch").split()[-1]
    repository.wait_for(lambda: job not in repository.run("squeue", "--noheader"), pause=0.5)
    assert (repository.path / f"tiny-lm-{job}.log").read_text().count("must be a divisor of n_heads") == 1
    book.note("train as a SLURM job: an error that would come again", "the job ends")


def test_a_sweep_runs_as_the_tasks_of_a_slurm_array(slurm, repository, alone, book):
    repository.git("commit", "-qam", "more steps")
    here = repository.copy("here")
    here.dvc("exp", "run", "--name", "same", "-S", "train.seed=2")
    settings = ("train.seed=2", "train.seed=2 model.n_kv_heads=1")
    job = repository.run(
        "sbatch", "--array=0-1", "--cpus-per-task=1", "--time=20", "scripts/sweep.sbatch", *settings
    ).split()[-1]
    clone = f".work/sweeps/sweep-{job}-0"
    repository.wait_for(lambda: list(repository.path.glob(f"{clone}/.work/train/*/last.ckpt")), pause=0.05)
    repository.run("scontrol", "requeue", f"{job}_0")  # kills it
    repository.wait_for(lambda: "PENDING" in repository.run("squeue", "--noheader", "--format=%T"), pause=0.1)
    start_soon(repository, f"{job}_0")
    repository.wait_for(lambda: job not in repository.run("squeue", "--noheader", "--format=%F"), pause=0.5)
    logs = [(repository.path / f"tiny-lm-{job}_{task}.log").read_text() for task in (0, 1)]
    assert ["resuming from " in log for log in logs] == [True, False]
    assert set(repository.dvc("exp", "list", "--name-only").split()) == {f"sweep-{job}-0", f"sweep-{job}-1"}
    repository.dvc("exp", "apply", f"sweep-{job}-0")
    assert repository.lock() == here.lock()
    repository.dvc("exp", "apply", f"sweep-{job}-1")
    assert "n_kv_heads: 1" in (repository.path / "params.yaml").read_text()
    assert not list(repository.path.glob(".work/sweeps/*"))
    book.note("a sweep as a SLURM array, one task killed and requeued", "the same bytes as `dvc exp run`")


def test_ray_runs_as_a_slurm_job_that_loses_a_node(repository, namespaces, tmp_path_factory, book):
    """The nodes have a network, processes and names of their own, as `ray symmetric-run` compares addresses and stops
    every process of Ray that it sees.
    """
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is an extra")
    repository.preset("dataset.documents=40000")
    alone = repository.copy("alone")
    alone.dvc("repro", "shards")
    repository.preset("runtime.executor=ray", "runtime.address=auto")
    folder = tmp_path_factory.mktemp("slurm")
    addresses = "10.77.0.1", "10.77.0.2"
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 a0\n10.77.0.2 a1\n")
    for name, other in zip(namespaces, reversed(addresses), strict=True):  # Ray asks for the way to the Internet
        subprocess.run(["ip", "-n", name, "route", "add", "default", "via", other], check=True)
    of_node = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    hosts = ("sh", "-c", f'mount --bind {folder}/hosts /etc/hosts && exec "$@"', "sh")
    wrappers = [("ip", "netns", "exec", name, *of_node, *hosts) for name in namespaces]
    with slurm_of_two_nodes(folder, repository, addresses, wrappers) as nodes:
        here = "ip", "netns", "exec", namespaces[0]
        repository.wait_for(lambda: re.search(r" 2 +idle ", repository.run(*here, "sinfo")), pause=1)
        submitted = repository.run(*here, "sbatch", "--cpus-per-task=2", "--time=20", "scripts/data.sbatch")
        job = submitted.split()[-1]

        def works(node):
            return any(is_at_work(process) for process in psutil.Process(node.pid).children(recursive=True))

        repository.wait_for(lambda: all(map(works, nodes)), pause=0.05)
        psutil.Process(nodes[1].pid).children()[0].kill()  # and with it all its processes
        running = (*here, "squeue", "--noheader", "--states=RUNNING")
        repository.wait_for(lambda: job not in repository.run(*running), pause=0.5)
    log = (repository.path / f"tiny-lm-data-{job}.log").read_text()
    assert "Traceback" not in log, log
    assert repository.lock() == alone.lock(), log
    book.note("corpus to shards as a SLURM job, with Ray: a node is killed", "the same bytes")


def is_at_work(process):
    with contextlib.suppress(psutil.Error):
        return "".join(process.cmdline()).startswith("ray::_run_in")  # nothing of a zombie
    return False
