"""Spans and durations: only if asked for; and what the caller's own span is told of unhappy calls."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from resilience import CircuitBreaker, Hedge, Pipeline, Retry, telemetry
from resilience.backoff import constant
from resilience.errors import CircuitOpenError
from resilience.telemetry import async_request_hook, request_hook

from .otel import Otel, faults


def fails(times: int):
    left = [ConnectionError] * times

    def fetch() -> int:
        if left:
            raise left.pop()
        return 7

    return fetch


class FailingTracers:
    def get_tracer(self, *args: object, **kwargs: object) -> "FailingTracers":
        return self

    def start_span(self, *args: object, **kwargs: object) -> object:
        raise ZeroDivisionError


def told(span) -> dict[str, object]:
    return {key.removeprefix("resilience."): value for key, value in span.attributes.items()}


def test_there_are_no_spans_unless_asked_for(otel: Otel) -> None:
    Retry("quiet").call(lambda: 7)
    assert otel.spans() == []


def test_a_call_and_each_attempt_are_spans(otel: Otel) -> None:
    guarded = Retry("payments", attempts=3, backoff=constant(0.0), budget=None)(fails(1))
    telemetry.configure(spans=True)
    guarded()
    first, second, call = otel.spans()
    assert [span.name for span in (first, second, call)] == [
        "payments attempt",
        "payments attempt",
        "payments",
    ]
    assert {span.parent.span_id for span in (first, second)} == {call.context.span_id}
    assert told(call) == {"policy.name": "payments", "outcome": "success"}
    assert told(first) == {"policy.name": "payments", "error.type": "ConnectionError"}
    assert told(second) == {"policy.name": "payments", "http.request.resend_count": 1}
    assert first.status.status_code is StatusCode.ERROR
    assert call.status.status_code is StatusCode.UNSET
    assert faults(otel) == []


def test_what_the_function_does_is_inside_its_attempt(otel: Otel) -> None:
    telemetry.configure(spans=True)
    seen = []
    Retry("inside").call(lambda: seen.append(trace.get_current_span().get_span_context().span_id))
    attempt, _ = otel.spans()
    assert seen == [attempt.context.span_id]
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_call_that_fails_says_with_what_and_why_it_gave_up(otel: Otel) -> None:
    telemetry.configure(spans=True)
    with pytest.raises(ConnectionError):
        Retry("gives-up", attempts=1).call(fails(1))
    assert told(otel.spans()[-1]) == {
        "policy.name": "gives-up",
        "outcome": "failure",
        "retry.stop_reason": "attempts_exhausted",
        "error.type": "ConnectionError",
    }


def test_a_hedge_is_an_attempt_beside_the_first(otel: Otel) -> None:
    telemetry.configure(spans=True)

    async def slow() -> int:
        await asyncio.sleep(0.02)
        return 7

    asyncio.run(Hedge("raced", after=0.0, idempotent=True, budget=None).acall(slow))
    call = next(span for span in otel.spans() if span.name == "raced")
    attempts = [span for span in otel.spans() if span.name == "raced attempt"]
    assert len(attempts) == 2
    assert {span.parent.span_id for span in attempts} == {call.context.span_id}


def test_a_stream_is_a_span_until_it_was_read(otel: Otel) -> None:
    telemetry.configure(spans=True)

    @CircuitBreaker("stream")
    def lines():
        yield 1
        yield 2

    stream = lines()
    next(stream)
    assert otel.spans() == []
    assert trace.get_current_span() is trace.INVALID_SPAN
    list(stream)
    assert {span.name for span in otel.spans()} == {"stream", "stream attempt"}


def test_a_cancelled_call_ends_its_spans(otel: Otel) -> None:
    telemetry.configure(spans=True)

    async def main() -> None:
        task = asyncio.create_task(CircuitBreaker("cut").acall(asyncio.sleep, 60.0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    call = otel.spans()[-1]
    assert call.attributes["resilience.outcome"] == "cancelled"
    assert call.attributes["error.type"] == "asyncio.exceptions.CancelledError"


def test_a_tracer_that_fails_breaks_no_call(otel: Otel) -> None:
    telemetry.configure(spans=True, tracer_provider=FailingTracers())
    assert Retry("works").call(lambda: 7) == 7


def test_switched_off_calls_are_generated_again(otel: Otel) -> None:
    telemetry.configure(spans=True)
    breaker = CircuitBreaker("again")
    guarded = breaker(lambda: 7)
    guarded()
    telemetry.configure(spans=False)
    guarded()
    guarded()
    assert len(otel.spans()) == 2
    assert ".good += 1" in breaker.source(guarded)


def test_durations_have_the_type_of_error_and_an_exemplar(otel: Otel) -> None:
    guarded = Retry("timed", attempts=1)(fails(1))
    telemetry.configure(call_duration=True)
    with otel.tracers.get_tracer("test").start_as_current_span("caller") as span:
        with pytest.raises(ConnectionError):
            guarded()
        guarded()
    metric = otel.metrics()["resilience.call.duration"]
    points = {point.attributes.get("error.type"): point for point in metric.data.data_points}
    assert {kind: point.count for kind, point in points.items()} == {None: 1, "ConnectionError": 1}
    assert points[None].exemplars[0].span_id == span.get_span_context().span_id
    assert points[None].explicit_bounds[0] == 0.005


def test_error_types_are_bounded(otel: Otel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resilience.telemetry._errors.error_types.most", 2)
    telemetry.configure(call_duration=True)
    for number in range(4):
        kind = type(f"Error{number}", (Exception,), {})
        with pytest.raises(kind):
            CircuitBreaker("many").call(fail_with, kind)
    points = otel.metrics()["resilience.call.duration"].data.data_points
    assert sorted(point.attributes["error.type"].rpartition(".")[2] for point in points) == [
        "Error0", "Error1", "_OTHER",
    ]  # fmt: skip


def fail_with(kind: type[Exception]) -> None:
    raise kind


def test_the_callers_span_is_told_of_a_refusal(otel: Otel) -> None:
    breaker = CircuitBreaker("inventory")
    with otel.tracers.get_tracer("test").start_as_current_span("caller") as span, breaker.isolate():
        with pytest.raises(CircuitOpenError):
            breaker.call(len, "four")
        assert told(span) == {
            "policy.name": "inventory",
            "outcome": "rejected",
            "circuit_breaker.state": "forced_open",
        }


def test_the_callers_span_is_told_why_retries_gave_up(otel: Otel) -> None:
    pipeline = Pipeline("stock", Retry(attempts=2, backoff=constant(0.0), budget=None))
    with otel.tracers.get_tracer("test").start_as_current_span("caller") as span:
        with pytest.raises(ConnectionError):
            pipeline.call(fails(2))
        assert told(span)["retry.stop_reason"] == "attempts_exhausted"


def test_the_callers_span_is_told_nothing_while_all_is_well(otel: Otel) -> None:
    pipeline = Pipeline("well", Retry(attempts=2, backoff=constant(0.0), budget=None), CircuitBreaker())
    with otel.tracers.get_tracer("test").start_as_current_span("caller") as span:
        pipeline.call(fails(1))
        assert told(span) == {}


def test_hooks_of_http_instrumentations_tell_that_a_request_is_sent_again(otel: Otel) -> None:
    tracer = otel.tracers.get_tracer("test")
    outcomes = [ConnectionError, None]

    def send() -> int:
        with tracer.start_as_current_span("GET") as span:
            request_hook(span, None)
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return 200

    Retry("http", attempts=2, backoff=constant(0.0), budget=None).call(send)
    first, second = otel.spans()
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1


def test_the_hook_for_async_clients_does_the_same(otel: Otel) -> None:
    tracer = otel.tracers.get_tracer("test")
    outcomes = [ConnectionError, None]

    async def send() -> int:
        with tracer.start_as_current_span("GET") as span:
            await async_request_hook(span, None)
        error = outcomes.pop(0)
        if error is not None:
            raise error
        return 200

    asyncio.run(Retry("http", attempts=2, backoff=constant(0.0), budget=None).acall(send))
    assert [span.attributes.get("http.request.resend_count") for span in otel.spans()] == [None, 1]
