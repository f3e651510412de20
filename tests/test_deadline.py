"""The caller's remaining time: nesting, inheritance by threads and tasks, and the wire format."""

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from resilience import _clock
from resilience.deadline import (
    LONGEST,
    NANOSECONDS,
    bounded,
    check_deadline,
    current_deadline,
    deadline,
    decode_nanoseconds,
    decode_timeout,
    encode_nanoseconds,
    encode_timeout,
    remaining,
    usage,
)
from resilience.errors import ConfigError, DeadlineExceededError

from .runtimes import Runtime

START = 1000.0


class Hand:
    """A clock set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(_clock, "monotonic", hand)
    return hand


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    yield
    assert current_deadline() is None, "the test left a deadline behind"


# --- the block ---


def test_without_a_block_there_is_no_deadline() -> None:
    assert current_deadline() is None
    assert remaining() is None
    check_deadline()


def test_a_block_counts_from_where_it_begins(clock: Hand) -> None:
    block = deadline(2.0)
    clock.now += 10.0
    with block:
        assert current_deadline() == START + 12.0
        clock.now += 0.5
        assert remaining() == 1.5
    assert current_deadline() is None


@pytest.mark.parametrize("late", [0.0, 7.0])
def test_remaining_is_never_negative(clock: Hand, late: float) -> None:
    with deadline(2.0):
        clock.now += 2.0 + late
        assert remaining() == 0.0


def test_a_block_raises_nothing_by_itself(clock: Hand) -> None:
    with deadline(2.0):
        clock.now += 100.0


def test_an_error_in_the_block_comes_out_and_ends_the_deadline(clock: Hand) -> None:
    with pytest.raises(KeyError), deadline(2.0):
        raise KeyError
    assert current_deadline() is None


def test_check_deadline_passes_while_there_is_time(clock: Hand) -> None:
    with deadline(2.0):
        clock.now += 1.999
        check_deadline()


@pytest.mark.parametrize("late", [0.0, 0.25])
def test_check_deadline_raises_once_no_time_is_left(clock: Hand, late: float) -> None:
    with deadline(2.0):
        clock.now += 2.0 + late
        with pytest.raises(DeadlineExceededError, match=rf"exceeded {late:g} s ago: not started") as caught:
            check_deadline()
    assert not caught.value.started
    assert isinstance(caught.value, TimeoutError)


def test_an_inner_block_shortens(clock: Hand) -> None:
    with deadline(5.0):
        with deadline(2.0):
            assert remaining() == 2.0
        assert remaining() == 5.0


def test_an_inner_block_never_extends(clock: Hand) -> None:
    with deadline(2.0):
        clock.now += 0.5
        with deadline(60.0):
            assert remaining() == 1.5


@given(st.lists(st.floats(min_value=1e-9, max_value=1e9), min_size=1, max_size=8))
def test_the_effective_deadline_never_grows_down_the_tree(seconds: list[float]) -> None:
    def descend(rest: list[float], outer: float) -> None:
        if rest:
            with deadline(rest[0]):
                until = current_deadline()
                assert until is not None
                assert until <= outer
                descend(rest[1:], until)
                assert current_deadline() == until

    descend(seconds, float("inf"))


def test_none_sets_no_deadline() -> None:
    with deadline(None):
        assert current_deadline() is None


def test_none_keeps_the_outer_deadline(clock: Hand) -> None:
    with deadline(2.0):
        with deadline(None):
            assert remaining() == 2.0
        assert remaining() == 2.0


@pytest.mark.parametrize("seconds", [0, 0.0, -1, float("nan"), float("inf"), True, "2"])
def test_a_meaningless_length_is_refused_at_once(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="seconds must be a finite number of seconds > 0 or None"):
        deadline(seconds)


@pytest.mark.parametrize("block", [deadline(2.0), deadline(None), bounded(5.0)])
def test_a_block_is_entered_once(block: bounded) -> None:
    with block:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        block.__enter__()


def test_a_refused_second_entry_changes_nothing(clock: Hand) -> None:
    block = deadline(2.0)
    with block:
        clock.now += 1.0
        with pytest.raises(RuntimeError):
            block.__enter__()
        assert remaining() == 1.0


def test_bounded_takes_an_instant(clock: Hand) -> None:
    with bounded(START + 3.0):
        assert remaining() == 3.0
        with bounded(START + 4.0):
            assert remaining() == 3.0
        with bounded(START - 1.0):
            assert remaining() == 0.0
        with bounded(None):
            assert remaining() == 3.0


def test_a_wall_clock_that_jumps_changes_nothing(clock: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    with deadline(2.0):
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert remaining() == 2.0


def test_a_clock_that_steps_back_does_not_move_the_deadline(clock: Hand) -> None:
    with deadline(2.0):
        until = current_deadline()
        clock.now -= 1.0
        with deadline(60.0):
            assert current_deadline() == until


def test_usage_is_noticed_at_the_first_deadline_and_stays() -> None:
    program = (
        "from resilience.deadline import bounded, current_deadline, deadline, usage\n"
        "with deadline(None), bounded(None): pass\n"
        "print(usage.used)\n"
        "with deadline(2.0): print(usage.used)\n"
        "print(usage.used, current_deadline())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "None"]


def test_a_bound_by_an_instant_is_usage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "used", False)
    with bounded(5.0):
        assert usage.used


# --- generators, which end their blocks out of order ---


def timed_rows() -> Generator[float | None, None, None]:
    with deadline(1.0):
        yield remaining()
        yield remaining()


def test_a_generator_closed_inside_a_younger_block_leaves_that_block_alone(clock: Hand) -> None:
    rows = timed_rows()
    next(rows)
    with deadline(0.5):
        rows.close()
        assert remaining() == 0.5


def test_a_generator_closed_inside_a_younger_block_leaves_no_deadline_behind(clock: Hand) -> None:
    rows = timed_rows()
    next(rows)
    with deadline(5.0):
        rows.close()
    assert current_deadline() is None


def test_blocks_of_two_generators_may_overlap(clock: Hand) -> None:
    with deadline(9.0):
        first, second = timed_rows(), timed_rows()
        next(first)
        next(second)
        assert list(first) == [1.0]
        assert remaining() == 1.0
        assert list(second) == [1.0]
        assert remaining() == 9.0


def test_a_generator_closed_in_another_context_lifts_its_deadline(clock: Hand) -> None:
    rows = timed_rows()
    elsewhere = contextvars.copy_context()
    assert elsewhere.run(next, rows) == 1.0
    rows.close()
    assert current_deadline() is None
    assert elsewhere.run(remaining) is None


def test_a_generator_closed_in_another_context_changes_nothing_there(clock: Hand) -> None:
    rows = timed_rows()
    with deadline(9.0):
        elsewhere = contextvars.copy_context()
        assert elsewhere.run(next, rows) == 1.0
    rows.close()
    assert current_deadline() is None
    rows = timed_rows()
    with deadline(9.0):
        assert contextvars.copy_context().run(next, rows) == 1.0
    with deadline(3.0):
        rows.close()
    assert current_deadline() is None


def test_a_generator_closed_on_another_thread_raises_nothing(clock: Hand) -> None:
    rows = timed_rows()
    context = contextvars.copy_context()
    context.run(next, rows)
    errors: list[BaseException] = []

    def close() -> None:
        try:
            rows.close()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert errors == []


async def timed_stream() -> AsyncGenerator[float | None, None]:
    with deadline(1.0):
        yield remaining()
        await asyncio.sleep(0)
        yield remaining()


def test_an_async_generator_finalised_by_another_task_raises_nothing(clock: Hand) -> None:
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, details: reported.append(details))
        stream = timed_stream()
        assert await asyncio.create_task(first_of(stream)) == 1.0
        assert current_deadline() is None
        await stream.aclose()
        abandoned = timed_stream()
        assert await asyncio.create_task(first_of(abandoned)) == 1.0
        del abandoned
        gc.collect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert current_deadline() is None

    async def first_of(stream: AsyncIterator[float | None]) -> float | None:
        return await anext(stream)

    asyncio.run(main())
    assert reported == []


# --- threads ---


def on_a_thread(read: Callable[[], Any]) -> Any:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(read()))
    thread.start()
    thread.join()
    return seen[0]


def test_a_thread_given_the_context_inherits_the_deadline(clock: Hand) -> None:
    with deadline(2.0):
        context = contextvars.copy_context()
        assert on_a_thread(lambda: context.run(remaining)) == 2.0


def test_a_block_on_one_thread_is_unknown_to_another(clock: Hand) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with deadline(2.0):
            inside.set()
            leave.wait(10.0)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10.0)
    assert current_deadline() is None
    leave.set()
    thread.join()


# --- threads, asyncio and trio alike ---


def test_a_block_holds_across_awaits(runtime: Runtime, clock: Hand) -> None:
    async def body() -> None:
        with deadline(2.0):
            await runtime.checkpoint()
            clock.now += 0.5
            await runtime.checkpoint()
            assert remaining() == 1.5
        assert current_deadline() is None

    runtime.run(body)


def test_what_runs_beside_inherits_the_deadline_and_keeps_its_own_apart(
    runtime: Runtime, clock: Hand
) -> None:
    async def work(seconds: float) -> float | None:
        with deadline(seconds):
            await runtime.checkpoint()
            return remaining()

    async def body() -> None:
        with deadline(2.0):
            jobs = [runtime.spawn(work, 1.0), runtime.spawn(work, 60.0)]
            assert [await job for job in jobs] == [1.0, 2.0]
            assert remaining() == 2.0

    runtime.run(body)


def test_what_outlives_the_block_keeps_its_deadline(runtime: Runtime, clock: Hand) -> None:
    async def body() -> None:
        over = runtime.event()

        async def work() -> float | None:
            await over.wait()
            with deadline(0.25):
                pass
            return remaining()

        with deadline(2.0):
            job = runtime.spawn(work)
        clock.now += 0.5
        over.set()
        assert await job == 1.5
        assert current_deadline() is None

    runtime.run(body)


def test_a_cancelled_task_ends_its_block(async_runtime: Runtime) -> None:
    left: list[float | None] = []

    async def body() -> None:
        inside = async_runtime.event()

        async def work() -> None:
            try:
                with deadline(60.0):
                    inside.set()
                    await async_runtime.event().wait()
            finally:
                left.append(current_deadline())

        job = async_runtime.spawn(work)
        await inside.wait()
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)

    async_runtime.run(body)
    assert left == [None]


def test_a_worker_thread_of_asyncio_inherits_the_deadline(clock: Hand) -> None:
    async def main() -> None:
        with deadline(2.0):
            assert await asyncio.to_thread(remaining) == 2.0

    asyncio.run(main())


def test_a_worker_thread_of_trio_inherits_the_deadline(clock: Hand) -> None:
    async def main() -> None:
        with deadline(2.0):
            assert await trio.to_thread.run_sync(remaining) == 2.0

    trio.run(main)


# --- the wire format ---

whole_nanoseconds = st.one_of(
    st.integers(min_value=0, max_value=LONGEST),
    st.builds(  # where a unit stops fitting into eight digits, on either side
        lambda unit, by: max(0, 10**8 * NANOSECONDS[unit] + by),
        st.sampled_from("numS"),
        st.integers(min_value=-2, max_value=2),
    ),
)


@given(whole_nanoseconds)
def test_what_is_read_is_never_less_than_what_was_written(nanoseconds: int) -> None:
    header = encode_nanoseconds(nanoseconds)
    assert 2 <= len(header) <= 9
    read = decode_nanoseconds(header)
    assert nanoseconds <= read
    assert (read - nanoseconds) * 10**5 < max(nanoseconds, 10**5)


@given(st.floats(min_value=0.0, max_value=9e9))
def test_seconds_survive_the_round_trip(seconds: float) -> None:
    read = decode_timeout(encode_timeout(seconds))
    assert seconds <= read <= seconds * (1 + 1e-5) + 1e-9  # <=: a float may round the bound itself down


@given(st.text(alphabet="0123456789", min_size=1, max_size=8), st.sampled_from("HMSmun"))
def test_every_well_formed_text_is_read(digits: str, unit: str) -> None:
    assert decode_nanoseconds(digits + unit) == min(int(digits) * NANOSECONDS[unit], LONGEST)


@given(whole_nanoseconds)
def test_the_finest_unit_that_fits_is_used(nanoseconds: int) -> None:
    header = encode_nanoseconds(nanoseconds)
    finer = [size for size in NANOSECONDS.values() if size < NANOSECONDS[header[-1]]]
    assert all(-(-nanoseconds // size) > 99_999_999 for size in finer)


@given(st.integers(), st.integers(min_value=0))
def test_more_time_never_reads_as_less(nanoseconds: int, more: int) -> None:
    def read(time: int) -> int:
        return decode_nanoseconds(encode_nanoseconds(time))

    assert read(nanoseconds) <= read(nanoseconds + more)


@pytest.mark.parametrize(
    "seconds, header",
    [
        (0.0, "0n"),
        (-3.0, "0n"),
        (1e-9, "1n"),
        (1e-12, "1n"),
        (0.1, "100000u"),
        (0.3, "300000u"),
        (2, "2000000u"),
        (60.0, "60000000u"),
        (3600.0, "3600000m"),
        (1e300, "2562048H"),
    ],
)
def test_seconds_are_written_so(seconds: float, header: str) -> None:
    assert encode_timeout(seconds) == header


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), True, "2", None])
def test_what_is_no_time_is_not_written(seconds: Any) -> None:
    with pytest.raises(ValueError, match="must be a finite number of seconds"):
        encode_timeout(seconds)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("0S", 0.0),
        ("00000000H", 0.0),
        ("1n", 1e-9),
        ("250000u", 0.25),
        ("250m", 0.25),
        ("2S", 2.0),
        ("1M", 60.0),
        ("1H", 3600.0),
        ("99999999H", (2**63 - 1) / 1e9),
    ],
)
def test_text_is_read_so(text: str, seconds: float) -> None:
    assert decode_timeout(text) == seconds


def test_what_is_longer_than_292_years_is_read_as_that() -> None:
    assert decode_nanoseconds("99999999H") == decode_nanoseconds("2562048H") == 2**63 - 1
    assert decode_nanoseconds("2562047H") == 2562047 * 3600 * 10**9


@pytest.mark.parametrize(
    "text",
    ["", "S", "1", "-1S", "+1S", "1.5S", " 1S", "1S ", "1S\n", "1s", "1h", "1 S", "٣S", "1_0S", "123456789n"],
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a timeout"):
        decode_timeout(text)


def test_the_error_names_the_text_but_only_so_much_of_it() -> None:
    with pytest.raises(ValueError, match="want 1 to 8 digits and a unit") as caught:
        decode_timeout("9" * 10_000)
    assert len(str(caught.value)) < 150
