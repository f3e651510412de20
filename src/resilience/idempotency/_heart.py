"""What goes on in the background: leases are renewed, and what could not be stored is tried again."""

import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from resilience._runtime import fork
from resilience.typing import Seconds

if TYPE_CHECKING:
    from resilience.idempotency._session import Session

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0

MOST_RETRIES: Final = 1000
"""Operations that are tried again at a time; beyond that leases just run out. In an outage there are many."""


class Heart:
    """
    Renews leases of one length in one store, every third of it, in a daemon thread that ends when it is idle.

    Since all are of one length, the one that began first is due first; and since the thread looks up at least
    once in that time, whoever begins need not wake it.
    """

    __slots__ = (
        "__weakref__", "_again", "_bell", "_busy", "_interval", "_lock", "_store", "_thread", "_watched",
    )  # fmt: skip

    def __init__(self, store: object, lease: Seconds) -> None:
        self._store = store  # so that no other store gets its place
        self._interval = lease / 3
        self._after_fork()
        fork.register(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: dict[Session, Seconds] = {}
        self._again: list[tuple[Seconds, Retrying]] = []
        self._busy = 0  # those that are being tried now, and may come back

    def watch(self, session: "Session") -> None:
        """Renew the lease of *session* until `forget`."""
        with self._lock:
            self._watched[session] = time.monotonic() + self._interval
            self._start()

    def forget(self, session: "Session") -> None:
        """End what `watch` began."""
        with self._lock:
            self._watched.pop(session, None)

    def retry(self, job: "Retrying") -> None:
        """Do *job* until it succeeds or its time is over."""
        with self._lock:
            if len(self._again) + self._busy >= MOST_RETRIES:
                return
            self._again.append((time.monotonic() + job.pause(), job))
            self._start()
        self._bell.set()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="resilience-idempotency", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                self._thread = None  # the interpreter ends, or no thread is left: leases just run out

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                sessions = [session for session, due in self._watched.items() if due <= now]
                for session in sessions:
                    del self._watched[session]  # to its end: the first is due first
                    self._watched[session] = now + self._interval
                jobs = [job for due, job in self._again if due <= now]
                self._again = [entry for entry in self._again if entry[0] > now]
                self._busy = len(jobs)
            for session in sessions:
                session.beat()
            for job in jobs:
                is_over = job.attempt() or job.is_over()
                with self._lock:
                    self._busy -= 1
                    if not is_over:
                        self._again.append((time.monotonic() + job.pause(), job))
            with self._lock:
                if not self._watched and not self._again:
                    self._thread = None
                    return
                dues = [*list(self._watched.values())[:1], *(due for due, _ in self._again)]
                pause = max(0.0, min(*dues, now + self._interval) - time.monotonic())
            self._bell.wait(pause)
            self._bell.clear()


_hearts: "weakref.WeakValueDictionary[tuple[int, Seconds], Heart]" = weakref.WeakValueDictionary()


def heart_of(store: object, lease: Seconds) -> Heart:
    """Return the one that renews leases of this length in this store."""
    return _hearts.setdefault((id(store), lease), Heart(store, lease))


class Retrying:
    """
    One operation of a store that failed, and is worth trying again until the lease ends.

    Each may be repeated with the same owner, so it does no harm if it had been done after all.
    """

    __slots__ = ("_pause", "_until", "_work")

    def __init__(self, work: Callable[[], Any], until: Seconds) -> None:
        self._work = work
        self._until = until
        self._pause = FIRST_PAUSE

    def pause(self) -> Seconds:
        """Return how long to wait before the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause

    def is_over(self) -> bool:
        """Whether it is too late."""
        return time.monotonic() >= self._until

    def attempt(self) -> bool:
        """Try it; whether it is done."""
        try:
            self._work()
        except Exception:  # noqa: BLE001  # the store is still not there
            return False
        return True

    async def attempts(self) -> None:
        """Do the same in a task of asyncio, to the end."""
        import asyncio  # noqa: PLC0415  # only in its event loop

        while not self.is_over():
            await asyncio.sleep(self.pause())
            try:
                await self._work()
            except Exception:  # noqa: BLE001, S112  # the store is still not there
                continue
            return


# The event loop itself keeps only weak references to tasks.
_tasks: set[Any] = set()


def spawn(work: Coroutine[Any, Any, None]) -> Callable[[], object]:
    """Do *work* beside what runs in this event loop of asyncio; return what cancels it."""
    import asyncio  # noqa: PLC0415  # only in its event loop

    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task.cancel


def spawn_retry(job: Retrying) -> None:
    """Do *job* in this event loop until it succeeds or its time is over."""
    if len(_tasks) < MOST_RETRIES:
        spawn(job.attempts())


def watch_in_loop(session: "Session", interval: Seconds) -> Callable[[], object]:
    """Renew the lease of *session* from this event loop of asyncio; return what ends that."""
    import asyncio  # noqa: PLC0415  # only in its event loop

    loop = asyncio.get_running_loop()
    ends: list[Callable[[], object]] = []

    async def beats() -> None:
        while await session.abeat():  # noqa: ASYNC110  # it beats, and waits for nothing
            await asyncio.sleep(interval)

    timer = loop.call_later(interval, lambda: ends.append(spawn(beats())))
    ends.append(timer.cancel)

    def end() -> None:
        for each in ends:
            each()

    return end
