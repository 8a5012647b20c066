"""Ports of servers that tests start."""

import contextlib
import random
import socket

PORTS = range(11_000, 22_000)
"""Below those that the system gives to outgoing connections, one of which could take a port before its server does."""


def free_port(*offsets: int) -> int:
    """A port of 127.0.0.1 that nothing uses, nor those that are so much higher."""
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for offset in (0, *offsets):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            return port
