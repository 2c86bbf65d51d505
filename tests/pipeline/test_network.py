"""The pipeline does not use the network: it opens no port, connects to nothing, looks up no name, and runs offline."""

import json
import re
import shlex
import shutil
import subprocess

import pytest
from tries import ALL

TOOLS = ["summary", "check", "restore evaluate", "compare HEAD workspace"]
if ALL:
    TOOLS += [
        "count-params", "find-batch-size --seconds 0.1", "generate --max-new-tokens 3", "tokenize text",
        "inspect-shards --document 0", "report", "plots", "export-gguf --approximate", "preset",
        "subset --tokens 2000 --output subset", "upload --repo someone/model --dry-run",
    ]  # fmt: skip
# Python imports `sitecustomize` before anything else where it is first on the path, as `src` is in every stage.
HOOK = """
import json, os, sys

def probes_ipv6():
    # urllib3, at import, binds a socket to the loopback and closes it, to see whether there is IPv6. Nobody listens.
    frame = sys._getframe()
    while frame:
        if frame.f_code.co_name == "_has_ipv6" and frame.f_globals["__name__"] == "urllib3.util.connection":
            return True
        frame = frame.f_back

def hook(event, arguments):
    if not event.startswith("socket.get") and event not in (
        "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"
    ):
        return
    if getattr(arguments[0], "family", None) == 1 or event in ("socket.gethostname", "socket.getservbyname"):
        return  # a socket that is a file; names of this machine
    if event == "socket.bind" and arguments[1][:2] == ("::1", 0) and probes_ipv6():
        return
    write(event, *map(str, arguments[1:]))

def write(*line):
    with open(os.environ["NETWORK_LOG"], "a") as file:
        file.write(json.dumps([*line, sys.orig_argv[:6]]) + "\\n")

write("started")
sys.addaudithook(hook)
"""


@pytest.fixture
def watched(repository, tmp_path):
    """The repository, with every Python process in it reporting what it does to the network; and the report so far."""
    (repository.path / "src/sitecustomize.py").write_text(HOOK)
    log = tmp_path / "network.jsonl"
    hidden = ("DVC_NO_ANALYTICS", "HF_HUB_OFFLINE")  # which a user need not have set
    kept = {key: value for key, value in repository.environment.items() if key not in hidden}
    repository.environment = kept | {"PYTHONPATH": "src", "NETWORK_LOG": str(log)}
    return repository, lambda: [json.loads(line) for line in log.read_text().splitlines()]


def spoken(report):
    return [line for line in report() if line[0] != "started"]


def cut():
    """What runs a command without any network but a loopback that is down; nothing where the system cannot do that."""
    command = ["unshare", "--map-root-user", "--net"]
    able = shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode
    return command if able else []


def traced(log):
    """What runs a command with its calls of the system watched, those of compiled libraries included; or nothing."""
    calls = "trace=connect,bind,listen,sendto,sendmsg,sendmmsg"
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-A", "-e", "signal=none", "-e", calls]
    able = shutil.which("strace") and not subprocess.run([*command, "true"], capture_output=True).returncode
    return [*command, "-o", str(log)] if able else []


def to_the_network(log):
    """The calls in a log of strace that have to do with another machine or a port, but for urllib3's probe (above)."""
    probe = 'AF_INET6, sin6_port=htons(0), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1"'
    calls = [line for line in log.read_text().splitlines() if re.search("AF_INET|listen\\(", line)]
    return [line for line in calls if not ("bind(" in line and probe in line)]


def test_the_audit_hook_sees_network_access(watched):
    repository, report = watched
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    repository.run("python", "-c", code)
    repository.run("python", "-c", "import socket; socket.getaddrinfo('localhost', 80)")
    repository.run("python", "-c", "import socket; socket.socket().bind(('127.0.0.1', 0))")
    repository.run("python", "-c", "import socket; socket.socket(socket.AF_UNIX).bind('a.socket')")
    assert [line[0] for line in spoken(report)] == ["socket.connect", "socket.getaddrinfo", "socket.bind"]
    if cut():
        code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
        assert "Network is unreachable" in repository.run(*cut(), "bash", "-c", f'python -c "{code}" 2>&1 || true')


@pytest.mark.skipif(not ALL, reason="strace takes its time")
def test_strace_sees_network_access(repository, tmp_path):
    watch = traced(tmp_path / "calls")
    if not watch:
        pytest.skip("no strace")
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()"
    repository.run(*watch, "python", "-c", code)
    repository.run(*watch, "python", "-c", "import socket; socket.socket(socket.AF_UNIX).bind('a.socket')")
    assert ["bind" in line or "listen" in line for line in to_the_network(tmp_path / "calls")] == [True, True]


def test_verify_rebuilds_the_same_bytes_and_stages_and_tools_do_not_use_the_network(watched, book, tmp_path):
    repository, report = watched
    calls = tmp_path / "calls"
    without_network = cut()
    start = [*(traced(calls) if ALL else ()), *without_network]
    output = repository.run(*start, *repository.TINY_LM, "verify")
    states = re.findall(r"^(identical|differs|may differ) +(\S+)", output, re.M)
    found = {path: state for state, path in states if "hardware" not in path}
    assert found == dict.fromkeys(repository.lock(), "identical")
    assert "may differ  results/train/hardware/metrics.json (records time and machine)" in output
    assert not (repository.path / ".work/verify").exists()
    for tool in TOOLS:
        repository.run(*start, *repository.TINY_LM, *shlex.split(tool))
    repository.run(*start, "dvc", "metrics", "diff")
    repository.run(*start, "dvc", "exp", "show")
    assert spoken(report) == []
    started = " ".join(" ".join(line[-1]) for line in report())
    for stage in ("corpus", "tokenizer", "shards", "train", "evaluate", "export"):
        assert f"tiny_lm.stages {stage}" in started
    config = repository.dvc("config", "--list")
    assert "core.analytics=false" in config
    assert "core.check_update=false" in config
    if calls.exists():
        assert to_the_network(calls) == []
    watches = (("Python's hook", True), ("strace", calls.exists()), ("no network", without_network))
    book.note(
        f"network: six stages in `tiny-lm verify`, {len(TOOLS)} more tools, two DVC commands",
        f"no port opened, no name looked up, nothing sent ({', '.join(name for name, there in watches if there)})",
        tried=9 + len(TOOLS),
    )
