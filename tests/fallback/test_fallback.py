"""Fallback on threads, under asyncio and under trio: what is replaced, by what, and what passes through."""

import asyncio
import multiprocessing
import os
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.collector import collector_off

from resilience._runtime.pipeline import Pipeline
from resilience.errors import (
    CircuitOpenError,
    ConfigError,
    ConfigWarning,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
)
from resilience.fallback import NOT_GIVEN, Fallback, FallbackSettings
from resilience.outcome import CallContext, Outcome, Verdict

Run = Callable[..., Any]


@pytest.fixture
def run(runtime: Any) -> Run:
    """Make one call of a function under a policy."""

    def run(policy: Any, fn: Callable[..., Any], *, expect: tuple[type[BaseException], ...] = ()) -> Any:
        async def body() -> Any:
            try:
                return await runtime.wrap(policy, fn)()
            except expect:
                return None

        return runtime.run(body)

    return run


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def odd_is_bad(outcome: Outcome[Any], context: CallContext) -> Verdict:
    if outcome.error is not None:
        return Verdict.GOOD if isinstance(outcome.error, KeyError) else Verdict.BAD
    return Verdict.BAD if outcome.value % 2 else Verdict.GOOD


# --- what is replaced --------------------------------------------------------------------------------------------


def test_a_good_result_comes_out_as_it_is(run: Run) -> None:
    fallback = Fallback(value="instead")
    assert run(fallback, lambda: "answer") == "answer"
    assert fallback.replaced == 0


@pytest.mark.parametrize(
    "error",
    [
        ValueError("broken"),
        TimeoutError("slow"),
        RejectedError("gate"),
        CircuitOpenError("breaker", 3.0),
        RateLimitedError("limiter"),
        DeadlineExceededError(),
        DeadlineExceededError(started=True),
    ],
    ids=repr,
)
def test_every_error_is_replaced_by_default(run: Run, error: Exception) -> None:
    fallback = Fallback(value="instead")
    assert run(fallback, raising(error)) == "instead"
    assert fallback.replaced == 1


def test_none_is_a_value_to_fall_back_to(run: Run) -> None:
    assert run(Fallback(value=None), raising(ValueError())) is None


def test_a_callable_value_is_not_called(run: Run) -> None:
    assert run(Fallback(value=len), raising(ValueError())) is len


def test_on_replaces_exactly_the_errors_it_names(run: Run) -> None:
    fallback = Fallback(value="instead", on=(ConnectionError, RateLimitedError))
    assert run(fallback, raising(ConnectionResetError())) == "instead"
    assert run(fallback, raising(RateLimitedError("limiter"))) == "instead"
    with pytest.raises(ValueError, match="broken"):
        run(fallback, raising(ValueError("broken")))
    with pytest.raises(CircuitOpenError):
        run(fallback, raising(CircuitOpenError("breaker")))


def test_on_exception_replaces_refusals_too(run: Run) -> None:
    assert run(Fallback(value="instead", on=Exception), raising(CircuitOpenError("breaker"))) == "instead"


def test_on_replaces_a_deadline_that_it_names(run: Run) -> None:
    assert (
        run(Fallback(value="instead", on=DeadlineExceededError), raising(DeadlineExceededError()))
        == "instead"
    )


def test_a_predicate_is_asked_about_refusals(run: Run) -> None:
    fallback = Fallback(value="instead", on=lambda error: getattr(error, "retry_after", None) == 3.0)
    assert run(fallback, raising(CircuitOpenError("breaker", 3.0))) == "instead"
    with pytest.raises(CircuitOpenError):
        run(fallback, raising(CircuitOpenError("breaker", 4.0)))


def test_a_result_that_a_classifier_finds_bad_is_replaced(run: Run) -> None:
    fallback = Fallback(value=0, classify=odd_is_bad)
    assert run(fallback, lambda: 3) == 0
    assert run(fallback, lambda: 4) == 4


def test_an_error_that_a_classifier_calls_good_comes_out(run: Run) -> None:
    with pytest.raises(KeyError):
        run(Fallback(value=0, classify=odd_is_bad), raising(KeyError("not found")))


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.GOOD])
def test_whatever_is_not_good_is_replaced(run: Run, verdict: Verdict) -> None:
    fallback = Fallback(value="instead", classify=lambda outcome, context: verdict)
    assert run(fallback, lambda: "answer") == "instead"
    assert run(fallback, raising(ValueError())) == "instead"


def test_it_inherits_the_classifier_of_its_pipeline(run: Run) -> None:
    pipeline = Pipeline("p", Fallback(value=0), classify=odd_is_bad)
    assert run(pipeline, lambda: 3) == 0
    with pytest.raises(KeyError):
        run(pipeline, raising(KeyError("not found")))


def test_its_own_classifier_wins_over_the_pipelines(run: Run) -> None:
    pipeline = Pipeline("p", Fallback(value=0, on=KeyError), classify=odd_is_bad)
    assert run(pipeline, lambda: 3) == 3
    assert run(pipeline, raising(KeyError("not found"))) == 0


def test_an_error_of_the_classifier_comes_out(run: Run) -> None:
    def broken(outcome: Outcome[object], context: CallContext) -> Verdict:
        raise LookupError("broken classifier")

    with pytest.raises(LookupError, match="broken classifier"):
        run(Fallback(value=0, classify=broken), lambda: 3)


def test_a_bad_result_that_is_replaced_is_closed(run: Run) -> None:
    class Response:
        closed = False

        def close(self) -> None:
            self.closed = True

    response = Response()
    fallback = Fallback(value="instead", classify=lambda outcome, context: Verdict.BAD)
    assert run(fallback, lambda: response) == "instead"
    assert response.closed


# --- the handler -------------------------------------------------------------------------------------------------


def test_a_handler_is_told_the_error(run: Run) -> None:
    error = ValueError("broken")
    seen: list[Outcome[Any]] = []

    def handler(outcome: Outcome[Any]) -> str:
        seen.append(outcome)
        return f"instead of {outcome.error}"

    fallback = Fallback(handler=handler)
    assert run(fallback, raising(error)) == "instead of broken"
    assert seen[0].error is error
    assert fallback.replaced == 1


def test_a_handler_is_told_the_bad_result_and_owns_it(run: Run) -> None:
    class Response:
        closed = False

        def close(self) -> None:
            self.closed = True

    response = Response()
    fallback = Fallback(handler=lambda o: ("saved", o.value), classify=lambda o, c: Verdict.BAD)
    assert run(fallback, lambda: response) == ("saved", response)
    assert not response.closed


def test_a_handler_is_not_asked_about_a_good_result(run: Run) -> None:
    assert run(Fallback(handler=lambda outcome: pytest.fail("asked")), lambda: "answer") == "answer"


def test_an_async_handler_is_awaited(async_runtime: Any) -> None:
    async def handler(outcome: Outcome[Any]) -> str:
        await async_runtime.checkpoint()
        return f"instead of {outcome.error}"

    async def body() -> None:
        fetch = async_runtime.wrap(Fallback(handler=handler), raising(ValueError("broken")))
        assert await fetch() == "instead of broken"

    async_runtime.run(body)


def test_a_cancellation_passes_through_an_async_handler(async_runtime: Any) -> None:
    async def body() -> None:
        began = async_runtime.event()

        async def handler(outcome: Outcome[Any]) -> None:
            began.set()
            await async_runtime.sleep(60)

        fallback = Fallback(handler=handler)
        job = async_runtime.spawn(async_runtime.wrap(fallback, raising(ValueError())))
        await began.wait()
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert fallback.replaced == 0

    async_runtime.run(body)


def test_an_async_handler_is_refused_for_a_plain_function() -> None:
    async def handler(outcome: Outcome[Any]) -> None:
        return None

    fallback = Fallback(handler=handler)
    with pytest.raises(ConfigError, match="handler must not be a coroutine function"):
        fallback(lambda: 1)
    with pytest.raises(ConfigError, match="handler must not be a coroutine function"):
        fallback(staticmethod(lambda: 1))

    async def fine() -> int:
        return 1

    assert asyncio.run(fallback(fine)()) == 1


def test_an_async_handler_inside_a_pipeline_of_plain_functions_is_a_type_error() -> None:
    async def handler(outcome: Outcome[Any]) -> None:
        return None

    guarded = Pipeline("p", Fallback(handler=handler))(raising(ValueError("broken")))
    with pytest.raises(TypeError, match=r"handler .*handler returned a coroutine"):
        guarded()


# --- an error of the handler -------------------------------------------------------------------------------------


def test_an_error_of_the_handler_comes_out_and_tells_of_the_original(run: Run) -> None:
    original, later = ValueError("broken"), LookupError("broken too")

    def handler(outcome: Outcome[Any]) -> None:
        raise later

    fallback = Fallback(handler=handler)
    with pytest.raises(LookupError) as caught:
        run(fallback, raising(original))
    assert caught.value is later
    assert later.__cause__ is original
    assert fallback.replaced == 0


def test_an_error_of_an_async_handler_tells_of_the_original() -> None:
    original = ValueError("broken")

    async def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too")

    async def fail() -> None:
        raise original

    with pytest.raises(LookupError) as caught:
        asyncio.run(Fallback(handler=handler)(fail)())
    assert caught.value.__cause__ is original


def test_a_cause_that_the_handler_gives_stays(run: Run) -> None:
    original, cause = ValueError("broken"), KeyError("cause")

    def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too") from cause

    with pytest.raises(LookupError) as caught:
        run(Fallback(handler=handler), raising(original))
    assert caught.value.__cause__ is cause


def test_a_handler_may_say_that_there_is_no_cause(run: Run) -> None:
    def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too") from None

    with pytest.raises(LookupError) as caught:
        run(Fallback(handler=handler), raising(ValueError("broken")))
    assert caught.value.__cause__ is None


def test_a_context_of_the_handlers_own_stays(run: Run) -> None:
    def handler(outcome: Outcome[Any]) -> None:
        try:
            {}["missing"]
        except KeyError:
            raise LookupError("broken too")  # noqa: B904  # the implicit context is what is tested

    with pytest.raises(LookupError) as caught:
        run(Fallback(handler=handler), raising(ValueError("broken")))
    assert isinstance(caught.value.__context__, KeyError)
    assert caught.value.__cause__ is None


def test_an_error_that_the_caller_is_handling_does_not_hide_the_original() -> None:
    original = ValueError("broken")

    def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too")

    with pytest.raises(LookupError) as caught:
        try:
            raise RuntimeError("around")
        except RuntimeError:
            Fallback(handler=handler).call(raising(original))
    assert caught.value.__cause__ is original
    assert isinstance(caught.value.__context__, RuntimeError)


@pytest.mark.parametrize("link", ["__cause__", "__context__"])
def test_the_cause_of_a_handlers_error_never_runs_in_a_ring(run: Run, link: str) -> None:
    later = LookupError("broken too")
    original = ValueError("broken")
    setattr(original, link, later)

    def handler(outcome: Outcome[Any]) -> None:
        raise later

    with pytest.raises(LookupError):
        run(Fallback(handler=handler), raising(original))
    assert later.__cause__ is None


def test_a_ring_among_the_causes_of_the_original_is_survived(run: Run) -> None:
    original, other = ValueError("broken"), KeyError("other")
    original.__cause__, other.__cause__ = other, original

    def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too")

    with pytest.raises(LookupError) as caught:
        run(Fallback(handler=handler), raising(original))
    assert caught.value.__cause__ is original


def test_an_error_of_the_handler_about_a_bad_result_has_no_cause(run: Run) -> None:
    def handler(outcome: Outcome[Any]) -> None:
        raise LookupError("broken too")

    with pytest.raises(LookupError) as caught:
        run(Fallback(handler=handler, classify=odd_is_bad), lambda: 3)
    assert caught.value.__cause__ is None


def test_a_handler_may_raise_the_original_again(run: Run) -> None:
    original = ValueError("broken")

    def handler(outcome: Outcome[Any]) -> None:
        assert outcome.error is not None
        raise outcome.error

    with pytest.raises(ValueError, match="broken") as caught:
        run(Fallback(handler=handler), raising(original))
    assert caught.value is original
    assert original.__context__ is None
    assert original.__cause__ is None


def handler_that_gives_up(outcome: Outcome[Any]) -> None:
    raise LookupError("broken too")


def handler_that_passes_it_on(outcome: Outcome[Any]) -> None:
    assert outcome.error is not None
    raise outcome.error


@pytest.mark.parametrize("handler", [handler_that_gives_up, handler_that_passes_it_on])
def test_no_reference_cycle_keeps_errors_alive(run: Run, handler: Callable[[Outcome[Any]], None]) -> None:
    class Precious(Exception):
        pass

    alive: list[weakref.ref[BaseException]] = []

    def fail() -> None:
        error = Precious()
        alive.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    with collector_off():
        run(Fallback(handler=handler), fail, expect=(Exception,))
        assert alive[0]() is None


# --- what passes through, and what is refused --------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_not_an_exception_passes_through(error: type[BaseException]) -> None:
    fallback = Fallback(value="instead")
    with pytest.raises(error):
        fallback.call(raising(error()))
    assert fallback.replaced == 0


def test_a_cancelled_call_is_not_replaced(async_runtime: Any) -> None:
    async def body() -> None:
        fallback = Fallback(value="instead")
        began = async_runtime.event()

        async def slow() -> None:
            began.set()
            await async_runtime.sleep(60)

        job = async_runtime.spawn(async_runtime.wrap(fallback, slow))
        await began.wait()
        async_runtime.cancel(job)
        await job.join()
        assert isinstance(job.error, async_runtime.cancelled)
        assert fallback.replaced == 0

    async_runtime.run(body)


def test_generator_functions_are_refused() -> None:
    def stream() -> Generator[int, None, None]:
        yield 1

    for guard in (Fallback(value=None), Pipeline("p", Fallback(value=None))):
        with pytest.raises(ConfigError, match="Fallback cannot guard a stream"):
            guard(stream)


def test_it_replaces_in_a_pipeline_what_an_inner_policy_refuses(run: Run) -> None:
    refuse = Pipeline("inner", Fallback(handler=handler_that_gives_up))
    assert run(Pipeline("outer", Fallback(value="instead"), refuse), raising(ValueError())) == "instead"


def test_a_pipeline_warns_where_it_would_hide_failures() -> None:
    class Retries(Fallback):
        @property
        def traits(self) -> Any:
            from resilience._runtime.policy import Traits

            return Traits(repeats=True)

    with pytest.warns(ConfigWarning, match="put it first"):
        Pipeline("p", Retries(value=None), Fallback(value=None))
    Pipeline("p", Fallback(value=None), Retries(value=None))


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({}, "value"),
        ({"value": 1, "handler": len}, "value"),
        ({"value": None, "handler": len}, "value"),
        ({"handler": "not callable"}, "handler"),
        ({"value": 1, "on": "ConnectionError"}, "on"),
        ({"value": 1, "on": (KeyboardInterrupt,)}, "on"),
        ({"value": 1, "on": ValueError, "classify": odd_is_bad}, "classify"),
        ({"value": 1, "name": " "}, "name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Fallback(**settings)
    assert [problem.setting for problem in caught.value.problems] == [setting]


def test_the_constructor_and_the_settings_have_the_same_defaults() -> None:
    assert Fallback(value=1).settings == FallbackSettings(value=1)
    assert repr(NOT_GIVEN) == "not given"


def test_a_value_can_take_the_place_of_a_handler_at_run_time(run: Run) -> None:
    fallback = Fallback(handler=lambda outcome: "handled")
    assert run(fallback, raising(ValueError())) == "handled"
    fallback.reconfigure(value="instead")
    assert run(fallback, raising(ValueError())) == "instead"
    fallback.reconfigure(handler=lambda outcome: "handled again")
    assert run(fallback, raising(ValueError())) == "handled again"


def test_settings_that_cannot_work_change_nothing() -> None:
    fallback = Fallback(value="instead")
    with pytest.raises(ConfigError):
        fallback.reconfigure(handler=None)
    with pytest.raises(ConfigError):
        fallback.reconfigure(handler="not callable")
    assert fallback.settings == FallbackSettings(value="instead")


def test_a_reload_takes_over_value_and_classifier(run: Run) -> None:
    pipeline = Pipeline("p", Fallback(value="old", on=ValueError))
    present = pipeline.policies[0]
    pipeline.reload(Fallback(value="new", on=KeyError))
    assert pipeline.policies[0] is present
    assert run(pipeline, raising(KeyError())) == "new"
    with pytest.raises(ValueError, match="broken"):
        run(pipeline, raising(ValueError("broken")))


# --- many at once ------------------------------------------------------------------------------------------------


def test_threads_share_one_object() -> None:
    fallback = Fallback(handler=lambda outcome: str(outcome.error))

    def fail(number: int) -> str:
        raise ValueError(number)

    guarded = fallback(fail)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(guarded, range(800))) == [str(number) for number in range(800)]
    assert fallback.replaced == 800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_counts_from_zero() -> None:
    fallback = Fallback(value="instead")
    fallback.call(raising(ValueError()))

    def child() -> None:
        ok = (
            fallback.replaced == 0
            and fallback.call(raising(ValueError())) == "instead"
            and fallback.replaced == 1
        )
        os._exit(0 if ok else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert fallback.replaced == 1


def test_a_decorator_without_parentheses_says_how_to_write_it() -> None:
    with pytest.raises(ConfigError, match=r"write @Fallback\(value=\.\.\.\), with parentheses") as caught:
        Fallback(lambda: "answer")  # type: ignore[arg-type]  # what @Fallback does
    assert [problem.setting for problem in caught.value.problems] == ["name"]


def test_a_callable_name_beside_settings_is_listed_with_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        Fallback(len, handler=3)  # type: ignore[arg-type]  # that is the point
    assert [problem.setting for problem in caught.value.problems] == ["name", "handler"]
