"""Servers on real sockets: one that sends the bytes it is told to, one for HTTP/2, and uvicorn."""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import uvicorn


@dataclass
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic)


Answer = bytes | Callable[[socket.socket, Seen], bool | None]
"""What a request gets: bytes, after which the connection stays open, or what to do; False closes it."""


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return a whole response; underscores in the names of headers stand for hyphens."""
    lines = [f"HTTP/1.1 {status} Said"]
    if not any(name.lower() in {"content_length", "transfer_encoding"} for name in headers) and status >= 200:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def reset(connection: socket.socket, seen: Seen | None = None) -> bool:
    """Cut the connection with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang_up(connection: socket.socket, seen: Seen) -> bool:
    """Close the connection without a word."""
    return False


def then(*parts: bytes | float | Callable[[socket.socket, Seen], bool | None], close: bool = False) -> Answer:
    """Send parts one after another; a number is a pause in seconds, which the client's leaving ends."""

    def answer(connection: socket.socket, seen: Seen) -> bool | None:
        for part in parts:
            if isinstance(part, bytes):
                connection.sendall(part)
            elif callable(part):
                return part(connection, seen)
            else:
                select.select([connection], [], [], part)  # no longer than the client is there
        return False if close else None

    return answer


PATIENCE = 20.0
"""Seconds after which a server goes on, whatever it was to wait for: the test fails by what follows."""


def when(ready: Callable[[], object], answer: bytes) -> Answer:
    """Send *answer* as soon as something is so, or the client has left: a slow answer that no load makes fast."""

    def waiting(connection: socket.socket, seen: Seen) -> None:
        end = time.monotonic() + PATIENCE
        while not ready() and time.monotonic() < end:
            if select.select([connection], [], [], 0.005)[0]:
                return
        connection.sendall(answer)

    return waiting


class RawServer:
    """
    Answers requests in the order they come in, byte by byte as told; the last answer is given again and again.

    Attributes:
        seen: Requests.
        connections: How many connections were made.

    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.seen: list[Seen] = []
        self.connections = 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.open: set[socket.socket] = set()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in list(self.open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with suppress(OSError):
                self._talk(connection, number)
        finally:
            self.open.discard(connection)
            connection.close()

    def _talk(self, connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb")
        with stream:
            while (seen := self._read(stream, number)) is not None:
                with self.lock:
                    answer = self.answers[min(len(self.seen), len(self.answers) - 1)]
                    self.seen.append(seen)
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                elif answer(connection, seen) is False:
                    return

    def _read(self, stream: Any, number: int) -> Seen | None:
        first = stream.readline()
        if not first.strip():
            return None
        method, path, _ = first.decode().split()
        headers: dict[str, str] = {}
        while line := stream.readline().strip():
            name, _, text = line.decode().partition(":")
            headers[name.strip().lower()] = text.strip()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
        else:
            body = stream.read(int(headers.get("content-length", "0")))
        return Seen(method, path, headers, body, number)


class H2Server:
    """
    Speaks HTTP/2 over plain TCP. Each request gets the next of its answers.

    An answer is a status, ``"refuse"`` (REFUSED_STREAM), ``"goaway"`` (GOAWAY: nothing was looked at) or
    ``"break"`` (half a body, then the stream is reset).
    """

    def __init__(self, *answers: int | str) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, bytes]] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: set[socket.socket] = set()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    __enter__ = RawServer.__enter__
    __exit__ = RawServer.__exit__
    _accept = RawServer._accept

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(h2.exceptions.ProtocolError):  # the client may still talk after a GOAWAY
            RawServer._serve(self, connection, number)

    def _talk(self, sock: socket.socket, number: int) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        bodies: dict[int, tuple[str, bytes]] = {}
        while data := sock.recv(65_536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    method = dict(event.headers)[b":method"].decode()
                    bodies[event.stream_id] = (method, b"")
                elif isinstance(event, h2.events.DataReceived):
                    method, body = bodies[event.stream_id]
                    bodies[event.stream_id] = (method, body + event.data)
                    connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.seen.append(bodies[event.stream_id])
                    answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
                    self._answer(connection, event.stream_id, answer)
            sock.sendall(connection.data_to_send())

    def _answer(self, connection: h2.connection.H2Connection, stream: int, answer: int | str) -> None:
        if answer == "refuse":
            connection.reset_stream(stream, error_code=7)
        elif answer == "goaway":
            connection.close_connection(error_code=0, last_stream_id=0)
        else:
            status = "200" if answer == "break" else str(answer)
            connection.send_headers(stream, [(":status", status)])
            connection.send_data(stream, b"body", end_stream=answer != "break")
            if answer == "break":
                connection.reset_stream(stream, error_code=2)


@contextmanager
def asgi(app: Any) -> Iterator[str]:
    """Run *app* under uvicorn, in a thread of its own."""
    config = uvicorn.Config(
        app, port=0, log_level="critical", lifespan="off", ws="none", timeout_keep_alive=30
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def closed_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
