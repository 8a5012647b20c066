"""A receiver of webhooks, a process of its own, and as fast as Python allows: it parses no more than it counts."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"webhook-id: *(\S+)", re.IGNORECASE)
_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True)
class Received:
    """What has been received since the last question.

    requests: of webhooks
    distinct: ids, each counted once for every path
    connections: that began to send
    most_at_once: requests that were unanswered at the same time
    """

    requests: int
    distinct: int
    connections: int
    most_at_once: int


class Receiver:
    """A receiver in another process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = psutil.Process(process.pid)
        self.port = port

    def take_counts(self) -> Received:
        """What has been received since the last question."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as response:
            return Received(**json.load(response))


@contextlib.contextmanager
def running_receiver(seconds: float = 0.0) -> Iterator[Receiver]:
    """Run a receiver until the end of the block.

    seconds: before each answer
    """
    command = [sys.executable, "-m", "bench.receiver", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - a command of our own
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe
        yield Receiver(process, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(10)


class _Counts:
    """Counts since the last question."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at_once = 0
        self.reset()

    def reset(self) -> None:
        """Set the counts to zero."""
        self.ids: Counter[bytes] = Counter()
        self.connections = self.most_at_once = 0

    def take(self) -> bytes:
        """The counts as JSON; reading them sets them to zero."""
        received = Received(self.ids.total(), len(self.ids), self.connections, self.most_at_once)
        self.reset()
        return json.dumps(vars(received)).encode()


class _Connection(asyncio.Protocol):
    """A connection of a client that sends one request at a time."""

    def __init__(self, counts: _Counts) -> None:
        self.counts = counts
        self.buffer = b""
        self.is_counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a TCP server
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        if head.startswith(b"GET"):
            answer = self.counts.take()
            self.transport.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            self.transport.close()
            return
        length = _LENGTH.search(head)
        webhook_id = _ID.search(head)
        if length is None or webhook_id is None or len(body) < int(length[1]):
            return
        self.buffer = b""
        self._count(head.partition(b"\r\n")[0] + webhook_id[1])

    def _count(self, key: bytes) -> None:
        counts = self.counts
        if not self.is_counted:
            self.is_counted = True
            counts.connections += 1
        counts.ids[key] += 1
        counts.at_once += 1
        counts.most_at_once = max(counts.most_at_once, counts.at_once)
        if counts.seconds:
            asyncio.get_running_loop().call_later(counts.seconds, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        self.counts.at_once -= 1
        self.transport.write(_ANSWER)


async def _serve(seconds: float) -> None:
    counts = _Counts(seconds)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(counts), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
