"""A TCP proxy that loses requests and answers, doubles requests, and cuts connections in the middle."""

import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from typing import Final, Self

FAULTS: Final = ("drop", "lose", "double", "cut", "late")


class FaultyProxy:
    """
    Passes requests of HTTP/1.1 on, one a connection, and does something bad to some of them.

    ``drop``: the request is not passed on. ``lose``: it is, and its answer is lost. ``double``: it is passed
    on twice at once, and one of the answers comes back. ``cut``: the connection is reset in the middle of the
    answer. ``late``: the answer comes 0.15 s late.

    Attributes:
        did: What it did to how many requests; ``pass`` for nothing.

    """

    def __init__(self, port: int, *, seed: int, share: float = 0.5) -> None:
        self.port = port
        self.did: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._share = share
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _fault(self) -> str:
        with self._lock:
            fault = self._random.choice(FAULTS) if self._random.random() < self._share else "pass"
            self.did[fault] += 1
            return fault

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        with client, suppress(OSError):
            request = _message(client)
            if request:
                self._pass_on(client, request, self._fault())

    def _pass_on(self, client: socket.socket, request: bytes, fault: str) -> None:
        if fault == "drop":
            return
        if fault == "double":
            other = threading.Thread(target=self._asked, args=(request,), daemon=True)
            other.start()
            answer = self._asked(request)
            other.join(15)
        else:
            answer = self._asked(request)
        if fault == "late":
            threading.Event().wait(0.15)
        if fault == "cut":
            client.sendall(answer[: len(answer) * 2 // 3])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault != "lose":
            client.sendall(answer)

    def _asked(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as server:
            server.sendall(request)
            return _message(server)


def _message(sender: socket.socket) -> bytes:
    """Read one whole request or answer, whose length is declared."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sender.recv(65_536)
        if not part:
            return data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        part = sender.recv(65_536)
        if not part:
            break
        body += part
    return head + b"\r\n\r\n" + body
