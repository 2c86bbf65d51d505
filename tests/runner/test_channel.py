import contextlib
import os
import queue
import signal
import socket
import time

import pytest

from tiny_lm.runner import channel
from tiny_lm.runner.channel import Channel


@pytest.fixture
def connect(monkeypatch):
    """connect() is a channel, the raw socket at its other end, and a queue of what the channel received."""
    monkeypatch.setattr(channel, "BEAT", 0.05)
    monkeypatch.setattr(channel, "SILENCE", 60.0)
    ends = []

    def connect():
        mine, other = socket.socketpair()
        received = queue.Queue()
        ends.append(Channel(mine, lambda _, message: received.put(message)))
        return ends[-1], other, received

    yield connect
    for each in ends:
        each.close()


def test_messages_arrive_whole_and_in_order_without_the_heartbeats(connect):
    _, other, received = connect()
    for part in (b'{"a": ', b"1}\n{}\n", b'{"b": "\xc3', b'\xa9"}\n{"c": 3}\n'):
        other.sendall(part)
        time.sleep(0.01)
    assert [received.get(timeout=5) for _ in range(3)] == [{"a": 1}, {"b": "é"}, {"c": 3}]
    other.close()
    assert received.get(timeout=5) is None


def test_a_sender_beats_and_two_channels_stay_connected(connect, monkeypatch):
    monkeypatch.setattr(channel, "SILENCE", 2.0)
    one, other, _ = connect()
    received = queue.Queue()
    two = Channel(other, lambda _, message: received.put(message))
    time.sleep(2.5)
    one.send({"still": "here"})
    assert received.get(timeout=5) == {"still": "here"}
    two.close()


def test_silence_is_the_end(connect, monkeypatch):
    monkeypatch.setattr(channel, "SILENCE", 0.2)
    _, other, received = connect()
    assert received.get(timeout=5) is None
    other.close()


def test_a_killed_process_is_the_end_at_once(connect):
    _, other, received = connect()
    child = os.fork()
    if child == 0:
        try:
            signal.pause()
        finally:
            os._exit(0)  # not a second pytest
    try:
        other.close()
        with pytest.raises(queue.Empty):
            received.get(timeout=0.1)  # the child has a copy of the socket
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert received.get(timeout=5) is None


@pytest.mark.parametrize(
    "line", [b"[1]\n", b"GET / HTTP/1.1\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"x" * (2 << 20)]
)
def test_what_is_no_message_is_the_end(connect, line):
    _, other, received = connect()
    other.settimeout(5)
    with contextlib.suppress(OSError):  # it has closed
        other.sendall(line)
    assert received.get(timeout=5) is None
