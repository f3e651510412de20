"""Ways to call an ASGI application: by hand, message for message, and over a socket through uvicorn."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

PATIENCE = 20.0


class Exchange:
    """
    One request, sent to an application by hand under any event loop.

    Attributes:
        sent: Messages that the application sent, oldest first.
        scope: The scope, as the application left it.

    """

    def __init__(
        self, runtime: Any, path: str = "/", headers: dict[str, str] | None = None, **scope: Any
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            **scope,
        }
        self.left = runtime.event()
        self.refuses = False  # whether sending fails once the client has left, as it does from ASGI 2.4 on
        self._has_asked = False

    @property
    def status(self) -> int | None:
        """The status of the answer, or None if none began."""
        starts = [message for message in self.sent if message["type"] == "http.response.start"]
        assert len(starts) <= 1, "an answer begins once"
        return starts[0]["status"] if starts else None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        """The body so far."""
        return b"".join(message.get("body", b"") for message in self.sent)

    async def receive(self) -> dict[str, Any]:
        if not self._has_asked:
            self._has_asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self.refuses and self.left.is_set():
            raise OSError("the client has left")
        self.sent.append(message)

    async def run(self, app: Any) -> "Exchange":
        await app(self.scope, self.receive, self.send)
        return self


async def begin(send: Any, status: int = 200) -> None:
    """Begin an answer."""
    await send({"type": "http.response.start", "status": status, "headers": []})


async def end(send: Any, body: bytes = b"") -> None:
    """End an answer; both keys of the message are optional."""
    await send({"type": "http.response.body", "body": body} if body else {"type": "http.response.body"})


async def answer(send: Any, status: int = 200, body: bytes = b"") -> None:
    """Send a whole answer."""
    await begin(send, status)
    await end(send, body)


def answering(status: int = 200) -> Any:
    """Return an application that answers so."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, status)

    return app


@contextmanager
def serving(app: Any) -> Iterator[httpx.Client]:
    """Serve an application by uvicorn on a free port, in a thread; yield a client that calls it."""
    # Said to be TCP, so that asyncio sends small answers at once.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, ws="none", lifespan="on", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the server did not start"
        # Uvicorn closes a connection after an error, so none is used twice.
        alone = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, limits=alone) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"


def until(holds: Any) -> None:
    """Wait until *holds*."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, "it never came about"
        time.sleep(0.002)
