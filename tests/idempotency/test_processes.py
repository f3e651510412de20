"""Several processes on one store: they race, are killed at every step, and come too late."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from resilience.errors import IdempotencyInProgressError
from resilience.idempotency import IdempotencyLayer, IdempotencySettings, Replayed, Session, lookup_key

WORKER = Path(__file__).parent / "worker.py"
K0 = lookup_key("worker", "k0")
RACERS = 8


class Worker:
    def __init__(self, where: tuple[str, str], effects: Path, mode: str, *rest: object) -> None:
        arguments = [sys.executable, str(WORKER), *where, str(effects), mode, *map(str, rest)]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> list[str]:
        out, errors = self.process.communicate(timeout=40)
        assert self.process.returncode in (0, -signal.SIGKILL), errors
        return out.splitlines()

    @property
    def was_killed(self) -> bool:
        return self.process.returncode == -signal.SIGKILL


def effects_in(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


@pytest.fixture
def where(shared_store, postgres) -> tuple[str, str]:
    """How another process opens the same store."""
    kind = type(shared_store).__name__.removesuffix("Store").lower()
    if kind == "sqlite":
        return kind, str(shared_store._path)
    if kind == "redis":
        port = shared_store._client.connection_pool.connection_kwargs["port"]
        return kind, f"redis://127.0.0.1:{port}/0|{shared_store._prefix.decode()}"
    return kind, f"{postgres.conninfo}|{shared_store._table}"


@pytest.mark.timeout(120)
def test_eight_processes_race_on_each_of_many_keys_and_each_work_is_done_once(where, tmp_path) -> None:
    effects = tmp_path / "effects"
    workers = [Worker(where, effects, "race", 40) for _ in range(RACERS)]
    assert [worker.line() for worker in workers] == ["ready"] * RACERS
    for worker in workers:
        worker.go()
    said = Counter(line.split()[0] for worker in workers for line in worker.end())
    assert Counter(effects_in(effects)) == Counter({(f"k{number}", 1): 1 for number in range(40)})
    assert said["kept"] == 40
    assert sum(said.values()) == RACERS * 40
    assert set(said) <= {"kept", "replayed", "IdempotencyInProgressError"}


STEPS = [(1, "before"), (1, "after"), (2, "working"), (2, "before"), (2, "after")]


@pytest.mark.parametrize(("number", "moment"), STEPS, ids=lambda each: str(each))
def test_a_process_killed_at_a_step_leaves_a_key_that_comes_to_its_end(
    shared_store, where, tmp_path, number: int, moment: str
) -> None:
    effects, lease = tmp_path / "effects", 0.5
    worker = Worker(where, effects, "die", lease, number, moment)
    assert worker.line() == "ready"
    worker.go()
    worker.end()
    assert worker.was_killed
    was_done = len(effects_in(effects))
    layer = IdempotencyLayer(
        "after", store=shared_store, settings=IdempotencySettings(lease=lease, wait_for=20.0)
    )
    begun = layer.begin(K0, b"same")
    if (number, moment) == (2, "after"):  # its result was stored: nothing is done again
        assert isinstance(begun, Replayed)
        assert (begun.content, was_done) == (b"k0 1", 1)
        return
    assert isinstance(begun, Session)
    is_first = (number, moment) == (1, "before")
    assert (begun.takeover, begun.epoch) == (not is_first, 1 if is_first else 2)
    # The gap that no lease closes: killed between the effect and its result, the work is done again.
    assert was_done == (0 if number == 1 else 1)
    with begun:
        assert begun.complete(b"second")
    assert layer.begin(K0, b"same") == Replayed(b"second")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", ["release", "renew"])
def test_a_process_killed_while_it_gives_back_or_renews_leaves_a_key_that_comes_to_its_end(
    shared_store, where, tmp_path, operation: str, moment: str
) -> None:
    effects, lease = tmp_path / "effects", 0.5
    worker = Worker(where, effects, "die", lease, 2, moment, operation)
    assert worker.line() == "ready"
    worker.go()
    worker.process.wait(40)
    worker.end()
    assert worker.was_killed
    assert len(effects_in(effects)) == 1
    layer = IdempotencyLayer(
        "after", store=shared_store, settings=IdempotencySettings(lease=lease, wait_for=20.0)
    )
    begun = layer.begin(K0, b"same")
    assert isinstance(begun, Session)
    assert (begun.epoch, begun.takeover) == (2, (operation, moment) != ("release", "after"))
    with begun:
        assert begun.complete(b"second")
    assert layer.begin(K0, b"same") == Replayed(b"second")


def test_before_the_lease_of_a_killed_process_ends_its_key_is_in_progress(
    shared_store, where, tmp_path
) -> None:
    worker = Worker(where, tmp_path / "effects", "die", 30.0, 1, "after")
    worker.line()
    worker.go()
    worker.end()
    with pytest.raises(IdempotencyInProgressError) as caught:
        IdempotencyLayer("after", store=shared_store).begin(K0, b"same")
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 30


def test_the_late_completion_of_a_process_that_was_overtaken_changes_nothing(
    shared_store, where, tmp_path
) -> None:
    effects = tmp_path / "effects"
    slow = Worker(where, effects, "slow", 0.3)
    slow.line()
    slow.go()
    assert slow.line() == "working"
    layer = IdempotencyLayer("quick", store=shared_store, settings=IdempotencySettings(wait_for=20.0))
    begun = layer.begin(K0, b"same")
    assert isinstance(begun, Session)
    assert (begun.epoch, begun.takeover) == (2, True)
    with begun:
        slow.go()
        assert slow.end() == ["lost"]  # while the second is still at work
        assert begun.complete(b"quick")
    assert layer.begin(K0, b"same") == Replayed(b"quick")


def test_a_process_that_renews_is_not_overtaken_and_one_that_is_stopped_is(
    shared_store, where, tmp_path
) -> None:
    worker = Worker(where, tmp_path / "effects", "asleep", 0.6)
    worker.line()
    worker.go()
    assert worker.line() == "working"
    layer = IdempotencyLayer("other", store=shared_store, settings=IdempotencySettings(wait_for=1.5))
    with pytest.raises(IdempotencyInProgressError):
        layer.begin(K0, b"same")  # twice its lease and more
    worker.process.send_signal(signal.SIGSTOP)  # like a long pause of the machine: no renewals
    begun = layer.begin(K0, b"same", wait_for=20.0)
    assert isinstance(begun, Session)
    assert begun.takeover
    with begun:
        begun.complete(b"other")
    worker.process.send_signal(signal.SIGCONT)
    worker.go()
    assert worker.end() == ["lost"]
    assert layer.begin(K0, b"same") == Replayed(b"other")


def test_clocks_that_disagree_cost_a_second_execution_and_never_a_wrong_result(tmp_path) -> None:
    from resilience.idempotency.stores import SQLiteStore

    behind = SQLiteStore(tmp_path / "keys.db", clock=time.time)
    ahead = SQLiteStore(tmp_path / "keys.db", clock=lambda: time.time() + 3600)
    first = IdempotencyLayer("behind", store=behind)
    second = IdempotencyLayer("ahead", store=ahead)
    one, two = first.begin(K0, b"same"), second.begin(K0, b"same")
    assert isinstance(one, Session)
    assert isinstance(two, Session)
    assert two.takeover
    assert not one.complete(b"behind")
    assert two.complete(b"ahead")
    assert first.begin(K0, b"same") == second.begin(K0, b"same") == Replayed(b"ahead")
    behind.close()
    ahead.close()


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_the_servers_clock_counts_however_wrong_the_workers_are(make_store, kind: str, fake_clock) -> None:
    store = make_store(kind)
    layer = IdempotencyLayer("skewed", store=store)
    assert isinstance(layer.begin(K0, b"same"), Session)
    fake_clock.advance(10 * 86_400)
    with pytest.raises(IdempotencyInProgressError):
        layer.begin(K0, b"same")
