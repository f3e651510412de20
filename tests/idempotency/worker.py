"""
A worker process of the tests: it does one piece of work per key, and writes each effect into a file.

    python worker.py STORE PLACE EFFECTS MODE [ARGUMENTS]

It says "ready" when it is, and goes when it is told to on its standard input.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from resilience.errors import IdempotencyError
from resilience.idempotency import IdempotencyLayer, IdempotencySettings, Replayed, lookup_key
from resilience.idempotency.stores import PostgresStore, RedisStore, SQLiteStore


def open_store(kind: str, place: str) -> Any:
    if kind == "sqlite":
        return SQLiteStore(place, synchronous="NORMAL")
    if kind == "redis":
        url, _, prefix = place.partition("|")
        return RedisStore(url, prefix=prefix)
    conninfo, _, table = place.partition("|")
    return PostgresStore(conninfo, table=table)


class Deadly:
    """A store in which the process is killed before or after the operation of that number."""

    def __init__(self, store: Any, number: int, moment: str) -> None:
        self._store, self._number, self._moment, self._count = store, number, moment, 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name not in {"claim", "renew", "complete", "release"}:
            return value

        def operation(*values: Any) -> Any:
            self._count += 1
            if self._count == self._number and self._moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            answer = value(*values)
            if self._count == self._number and self._moment == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return operation


def effect(effects: str, key: str, epoch: int) -> None:
    # One write of a line in append mode is atomic.
    with Path(effects).open("ab", buffering=0) as file:
        file.write(f"{key} {epoch} {os.getpid()}\n".encode())


def main() -> None:
    kind, place, effects, mode, *rest = sys.argv[1:]
    store = open_store(kind, place)
    if mode == "race":
        keys, settings = [f"k{number}" for number in range(int(rest[0]))], IdempotencySettings()
    else:
        keys, settings = ["k0"], IdempotencySettings(lease=float(rest[0]), renew=mode != "slow")
    if mode == "die":
        store = Deadly(store, int(rest[1]), rest[2])
    layer = IdempotencyLayer("worker", store=store, settings=settings)
    with contextlib.suppress(Exception):
        store.inspect(bytes(32))  # connected
    print("ready", flush=True)
    sys.stdin.readline()
    for key in keys:
        try:
            begun = layer.begin(lookup_key("worker", key), b"same")
        except IdempotencyError as error:
            print(type(error).__name__, flush=True)
            continue
        if isinstance(begun, Replayed):
            print("replayed", begun.content.decode(), flush=True)
            continue
        with begun:
            effect(effects, key, begun.epoch)
            if mode in {"slow", "asleep"}:
                print("working", flush=True)
                sys.stdin.readline()
            if mode == "die" and rest[2] == "working":
                os.kill(os.getpid(), signal.SIGKILL)
            if mode == "die" and rest[3:] == ["release"]:
                begun.release()
            if mode == "die" and rest[3:] == ["renew"]:
                sys.stdin.readline()  # until a heartbeat kills it
            print("kept" if begun.complete(f"{key} {begun.epoch}".encode()) else "lost", flush=True)


if __name__ == "__main__":
    main()
