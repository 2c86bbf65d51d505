"""A connection between the launcher and a node: JSON lines over TCP, with a heartbeat.

A process that ends, even by kill -9, closes its connections, which the other side sees at once. A node without power or
network closes nothing, so silence counts as an end, too.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

BEAT = 2.0  # seconds between two heartbeats
SILENCE = 20.0  # seconds after which the other side counts as lost; by this machine's clock alone
LIMIT = 1 << 20  # bytes of a message

Message = dict[str, Any]


class Channel:
    """Calls `receive(channel, message)` from a thread for each message, and with None at the end."""

    def __init__(self, connection: socket.socket, receive: Callable[["Channel", Message | None], None]) -> None:
        self._connection = connection
        self._receive = receive
        self._sending = threading.Lock()
        connection.settimeout(SILENCE)
        for work in (self._read, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def send(self, message: Message) -> None:
        """Without an error if the connection is lost, which `receive` reports."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # also ends a `recv` that waits in another thread

    def addresses(self) -> tuple[str, str]:
        """(this side's, the other side's)"""
        return self._connection.getsockname()[0], self._connection.getpeername()[0]

    def _beat(self) -> None:
        while self._connection.fileno() >= 0:
            self.send({})
            time.sleep(BEAT)

    def _read(self) -> None:
        received = b""
        with contextlib.suppress(OSError, ValueError, RecursionError), self._connection:
            while (data := self._connection.recv(1 << 16)) and len(received) < LIMIT:
                *lines, received = (received + data).split(b"\n")
                for message in map(json.loads, lines):
                    if not isinstance(message, dict):
                        raise ValueError("not a message")
                    if message:  # else it is a heartbeat
                        self._receive(self, message)
        self._receive(self, None)
