"""A TCP address, plain or with TLS, of the Redis of the tests, which listens on a socket of the file system."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


@contextlib.contextmanager
def relay(redis_url: str, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Pass bytes between a port of 127.0.0.1 and Redis, and yield the host and port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, urlsplit(redis_url).path, tls), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _serve(server: socket.socket, path: str, tls: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        while True:
            client = server.accept()[0]
            threading.Thread(target=_pass_on, args=(client, path, tls), daemon=True).start()


def _pass_on(client: socket.socket, path: str, tls: ssl.SSLContext | None) -> None:
    """Commands are answered in turn, so one thread passes both ways on."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as redis:
        redis.connect(path)
        with tls.wrap_socket(client, server_side=True) if tls else client as connection:
            while sent := connection.recv(65_536):
                redis.sendall(sent)
                connection.sendall(redis.recv(65_536))
