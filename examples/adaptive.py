"""
A server whose capacity changes, and a limit that finds out how many calls at once it can take.

    python examples/adaptive.py               ten seconds
    python examples/adaptive.py --quick       three seconds

Two servers of the same kind run on free ports of this machine and get the same calls at the same times:
one through a `ConcurrencyLimiter` whose limit is found by `Aimd`, the other without. It ends by itself.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from resilience import ConcurrencyLimitedError, ConcurrencyLimiter, Pipeline, Timeout
from resilience.limits import Aimd

RATE = 200  # calls per second, whether the earlier ones were answered or not
WORK = 0.05  # seconds that a worker needs for a request
TIMEOUT = 0.15  # seconds after which a caller gives up; the server is not told
CAPACITIES = (8, 3, 12)  # workers in the three phases: 160, 60 and 240 requests per second
SLICE = 0.25  # seconds of a line of the chart
WINDOW = 0.25  # seconds between changes of the limit: a phase is too short for the default of 1.0
WIDTH = 40  # places of the longest bar

LEGEND = """\
=====|==   how many calls the limiter let run at once at that moment; the mark is the server's last worker
answered   the caller got the answer in time
refused    the limiter was full: the caller knew at once, and nothing was sent
late       the caller gave up waiting; the server did the work all the same
"""


class Server:
    """Workers before one queue, first in, first out. Nobody tells them that a caller has left."""

    def __init__(self) -> None:
        self.capacity = CAPACITIES[0]
        self.port = 0
        self._requests = asyncio.Queue[asyncio.StreamWriter]()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve for as long as the block takes."""
        server = await asyncio.start_server(self._receive, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        workers = [asyncio.create_task(self._work(number)) for number in range(max(CAPACITIES))]
        try:
            yield
        finally:
            server.close()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            while not self._requests.empty():
                self._requests.get_nowait().close()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        self._requests.put_nowait(writer)

    async def _work(self, number: int) -> None:
        while True:
            if number >= self.capacity:
                await asyncio.sleep(WORK)
                continue
            writer = await self._requests.get()
            try:
                await asyncio.sleep(WORK)
                writer.write(b"done\n")
            finally:
                writer.close()


async def ask(server: Server) -> bytes:
    """Send one request, and read the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(b"please\n")
        return await reader.readline()
    finally:
        writer.close()


class Side:
    """One server, how it is called, and what its callers saw."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.server = Server()
        self.seen: Counter[str] = Counter()
        self._ask = pipeline(ask)

    async def call(self) -> None:
        """Make one call and count how it ended."""
        try:
            await self._ask(self.server)
            self.seen["answered"] += 1
        except ConcurrencyLimitedError:
            self.seen["refused"] += 1
        except TimeoutError:
            self.seen["late"] += 1


@dataclass(frozen=True)
class Slice:
    """What was seen in a quarter of a second."""

    capacity: int
    limit: int
    limited: Counter[str]
    unlimited: Counter[str]


def bar(limit: int, capacity: int) -> str:
    """Draw *limit* as a bar, with a mark at *capacity*."""
    places = list(("=" * min(limit, WIDTH)).ljust(WIDTH))
    places[capacity - 1] = "|"
    return "".join(places)


def line(at: float, one: Slice) -> str:
    """Write one line of the chart."""
    counts = "".join(f"{one.limited[key]:>9}" for key in ("answered", "refused", "late"))
    without = "".join(f"{one.unlimited[key]:>9}" for key in ("answered", "late"))
    return f"{at:5.2f} s {one.limit:>3} {bar(one.limit, one.capacity)}{counts}  {without}"


async def load(sides: Sequence[Side], limiter: ConcurrencyLimiter, seconds: float) -> list[Slice]:
    """Call both sides at a steady rate while their capacity changes; draw a line per slice."""
    loop = asyncio.get_running_loop()
    slices: list[Slice] = []
    before = [Counter(side.seen) for side in sides]
    per_slice, count = int(RATE * SLICE), round(seconds / SLICE)
    began = loop.time()
    async with asyncio.TaskGroup() as calls:
        for number in range(count):
            capacity = CAPACITIES[number * len(CAPACITIES) // count]
            for side in sides:
                side.server.capacity = capacity
            for call in range(number * per_slice, (number + 1) * per_slice):
                for side in sides:
                    calls.create_task(side.call())
                await asyncio.sleep(began + (call + 1) / RATE - loop.time())
            now = [Counter(side.seen) for side in sides]
            seen = [after - earlier for after, earlier in zip(now, before, strict=True)]
            slices.append(Slice(capacity, limiter.limit, *seen))
            before = now
            print(line((number + 1) * SLICE, slices[-1]), flush=True)
    return slices


def verdict(slices: Sequence[Slice], limited: Counter[str], unlimited: Counter[str]) -> str:
    """Say what was seen, whichever way it went."""
    means = ""
    for capacity in CAPACITIES:
        limits = [one.limit for one in slices if one.capacity == capacity]
        mean = sum(limits) / len(limits)
        means += f"\n  {capacity:>2} workers: {mean:.1f}, that is {mean / capacity:.1f} for each"
    possible = sum(min(RATE, one.capacity / WORK) for one in slices) / len(slices) / RATE
    total = limited.total()
    answered, refused, late = (limited[key] / total for key in ("answered", "refused", "late"))
    return (
        f"The mean limit, where {TIMEOUT / WORK:.0f} calls for each worker can be answered in time:{means}\n"
        f"Of {total} calls {answered:.0%} were answered in time with the limiter, {refused:.0%} were\n"
        f"refused at once and {late:.0%} were late. The workers had time for {possible:.0%}.\n"
        f"Without it {unlimited['answered'] / total:.0%} were answered in time."
    )


async def main(seconds: float) -> None:
    """Run both sides and print what came of it."""
    limiter = ConcurrencyLimiter(limit=Aimd(window=WINDOW), max_queue=5, max_wait=0.05)
    limited = Side(Pipeline("limited", limiter, Timeout(TIMEOUT)))
    unlimited = Side(Pipeline("unlimited", Timeout(TIMEOUT)))
    print(f"{RATE} calls per second; {WORK} s of work each; callers give up after {TIMEOUT} s\n\n{LEGEND}")
    print(f"{'':{12 + WIDTH}}{'with the limiter':>27}  {'without':>18}")
    heads = "".join(f"{head:>9}" for head in ("answered", "refused", "late", "   answered", "late"))
    print(f"{'time':7} limit {'':{WIDTH - 1}}{heads}")
    async with limited.server.running(), unlimited.server.running():
        slices = await load((limited, unlimited), limiter, seconds)
    print(f"\n{verdict(slices, limited.seen, unlimited.seen)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Watch a limit find a capacity that changes.")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the run, 1 to 60 (10)")
    parser.add_argument("--quick", action="store_true", help="three seconds")
    options = parser.parse_args()
    if not 1 <= options.seconds <= 60:
        parser.error("--seconds must be from 1 to 60")
    try:
        asyncio.run(main(3.0 if options.quick else options.seconds))
    except KeyboardInterrupt:
        print("stopped")
        sys.exit(130)  # as shells say it
