"""The dependency and the users of the demo, each by itself on real sockets."""

import asyncio
import re
from contextlib import asynccontextmanager
from io import StringIO

import pytest
from rich.console import Console

from resilience.cli._demo import _dependency, _load
from resilience.cli._demo._dependency import Dependency
from resilience.cli._demo._drive import Stage
from resilience.cli._demo._live import Picture
from resilience.cli._demo._load import Users
from resilience.cli._demo._plan import HOST, QUEUE, SIDES, WORKERS, Plan
from resilience.cli._demo._service import Service
from resilience.cli._demo._serving import serving

GET = b"GET /stock HTTP/1.1\r\nHost: x\r\n\r\n"


async def asked(dependency: Dependency) -> int:
    """Ask once, without a server in between; return the status."""
    statuses: list[int] = []

    async def send(message) -> None:
        if "status" in message:
            statuses.append(message["status"])

    await dependency({"type": "http"}, None, send)
    return statuses[0]


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for tells nobody
            await asyncio.sleep(0.005)


def test_as_many_are_at_work_as_there_are_workers_and_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        dependency = Dependency("1")
        calls = [asyncio.create_task(asked(dependency)) for _ in range(WORKERS + 3)]
        await asyncio.sleep(0)
        told = dependency.report()
        assert (told["busy"], told["waiting"]) == (WORKERS, 3)
        assert await asyncio.gather(*calls) == [200] * len(calls)
        told = dependency.report()
        assert (told["busy"], told["waiting"], told["done"]) == (0, 0, len(calls))

    monkeypatch.setattr(_dependency, "WORK", 0.005)
    asyncio.run(main())


def test_workers_that_go_finish_first_and_those_that_come_begin_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        dependency = Dependency("1")
        calls = [asyncio.create_task(asked(dependency)) for _ in range(WORKERS + 20)]
        await asyncio.sleep(0)
        dependency.obey({"do": "workers", "count": 2})
        assert dependency.report()["busy"] == WORKERS
        await until(lambda: dependency.report()["busy"] == 2)
        dependency.obey({"do": "workers", "count": WORKERS})
        assert dependency.report()["busy"] == min(WORKERS, 2 + dependency.report()["waiting"] + WORKERS - 2)
        assert await asyncio.gather(*calls) == [200] * len(calls)

    monkeypatch.setattr(_dependency, "WORK", 0.02)
    asyncio.run(main())


def test_a_full_queue_refuses_and_a_restart_empties_it() -> None:
    async def main() -> None:
        dependency = Dependency("1")
        calls = [asyncio.create_task(asked(dependency)) for _ in range(WORKERS + QUEUE)]
        await asyncio.sleep(0)
        assert await asked(dependency) == 503
        dependency.obey({"do": "restart"})
        statuses = await asyncio.gather(*calls)
        assert (statuses.count(200), statuses.count(503)) == (WORKERS, QUEUE)

    asyncio.run(main())


def test_a_broken_instance_answers_at_once_and_does_no_work() -> None:
    async def main() -> None:
        dependency = Dependency("1")
        dependency.obey({"do": "errors", "share": 1.0})
        assert await asked(dependency) == 500
        told = dependency.report()
        assert (told["arrived"], told["done"], told["busy"]) == (1, 0, 0)

    asyncio.run(main())


def test_what_was_asked_is_done_also_for_a_caller_who_has_left() -> None:
    async def main() -> None:
        dependency = Dependency("1")
        async with serving(dependency) as (port, _):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(GET)
            await until(lambda: dependency.arrived == 1)
            writer.transport.abort()
            await until(lambda: dependency.done == 1)

    asyncio.run(main())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/metrics", 200, b"resilience|python_info"),
        ("/elsewhere", 404, b"not found"),
        ("/checkout", 503, b"sorry"),
    ],
)
def test_a_service_serves_its_metrics_and_says_sorry_where_its_dependency_is_gone(
    side: str, path: str, status: int, body: bytes
) -> None:
    async def main() -> bytes:
        service = Service(side, f"http://{HOST}:1")
        async with serving(service.app) as (port, _):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer

    answer = asyncio.run(main())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert re.search(body, answer)


@asynccontextmanager
async def answering(answer: bytes):
    """A server that reads a request and writes *answer*, on as many connections as are opened; give both."""
    connections: dict[asyncio.Task, asyncio.StreamWriter] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[asyncio.current_task()] = writer
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1], connections
        for writer in connections.values():
            writer.close()
        await asyncio.wait(connections)


def records(answer: bytes) -> tuple[list, int]:
    """Send requests for 0.3 s, and return how they went, and over how many connections."""

    async def main() -> tuple[list, int]:
        async with answering(answer) as (port, connections):
            users = Users(port)
            await users.act(_load.time.monotonic(), 0.3, 100.0, "seed")
            users.close()
            return list(users.take()["records"]), len(connections)

    return asyncio.run(main())


def test_users_do_not_wait_for_answers_before_they_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "PATIENCE", 0.5)
    found, connections = records(b"")
    assert len(found) == connections > 10  # all of them were open at once
    assert not any(good for _, good, _ in found)
    assert all(took >= 0.5 for _, _, took in found)


def test_a_good_answer_counts_and_its_connection_is_used_again() -> None:
    found, connections = records(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert all(good for _, good, _ in found)
    assert connections < len(found)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\n\r\n",  # nobody knows where it ends
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"x" * 100_000 + b"\r\n\r\n",
    ],
)
def test_any_other_answer_is_not_a_good_one(answer: bytes) -> None:
    found, _ = records(answer)
    assert len(found) > 10
    assert not any(good for _, good, _ in found)


def test_one_seed_gives_the_same_requests_and_another_gives_others() -> None:
    async def dues(seed: str) -> list[float]:
        async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (port, _):
            users = Users(port)
            await users.act(_load.time.monotonic(), 0.2, 100.0, seed)
            users.close()
            return sorted(due for due, _, _ in users.take()["records"])

    first, again, other = (asyncio.run(dues(seed)) for seed in ("1", "1", "2"))
    assert first == again != other


def test_the_picture_is_drawn_while_it_plays_and_then_goes() -> None:
    stage, out = Stage(Plan(seconds=20.0)), StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    watcher = Picture(stage, console)

    async def playing() -> None:
        watcher.told()
        await asyncio.sleep(0.3)
        stage.phase = "collecting metrics"
        await asyncio.sleep(0.3)

    asyncio.run(watcher.watch(playing))
    assert "starting six processes ..." in out.getvalue()
    assert "collecting metrics ..." in out.getvalue()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")  # the line that it took is free again
