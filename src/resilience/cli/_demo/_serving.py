"""A real HTTP server in this process: uvicorn, on a socket that says at once whether its port is free."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

from resilience.cli._demo._plan import HOST

KEEP_ALIVE: Final = 600  # seconds, longer than the longest demo: no connection ends while it is reused


@asynccontextmanager
async def serving(app: Any, port: int = 0) -> AsyncGenerator[tuple[int, "asyncio.Task[None]"]]:
    """
    Serve *app* on loopback for as long as the block takes; give the port, and the task that serves.

    Raises:
        OSError: The port is taken.

    """
    # Said to be TCP, so that asyncio sends small answers at once.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise OSError(f"cannot listen on port {port}: {error.strerror}") from None
        listening.listen(512)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                access_log=False,
                http="h11",
                lifespan="off",
                log_level="error",
                timeout_keep_alive=KEEP_ALIVE,
                ws="none",
            )
        )
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield listening.getsockname()[1], task
        finally:
            server.should_exit = server.force_exit = True
            await asyncio.wait([task])


async def answer(send: Any, status: int, body: bytes, kind: bytes = b"text/plain") -> None:
    """Answer a request."""
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
