"""Events as log records: which, how bad, and how many at most."""

import threading

import pytest
from opentelemetry._logs import SeverityNumber

from resilience import CircuitBreaker, ConcurrencyLimiter, Retry, telemetry
from resilience.events import emit
from resilience.telemetry._logs import BURST, WINDOW

from .otel import Otel

OPEN = {
    "resilience.circuit_breaker.state": "open",
    "resilience.circuit_breaker.previous_state": "closed",
    "resilience.circuit_breaker.reason": "manual",
    "resilience.retry_after": 5.0,
}


def limit_change(before: float, after: float) -> dict[str, object]:
    return {
        "resilience.limiter.change": "increase" if after > before else "decrease",
        "resilience.limiter.cause": "pinned",
        "resilience.limiter.previous_limit": before,
        "resilience.limiter.limit": after,
    }


class FailingLoggers:
    def get_logger(self, *args: object, **kwargs: object) -> object:
        raise ZeroDivisionError


def test_a_change_of_state_is_a_record_with_an_event_name(otel: Otel) -> None:
    breaker = CircuitBreaker("payments")
    with breaker.isolate():
        (record,) = otel.events()
    assert record.event_name == "resilience.circuit_breaker.state_change"
    assert dict(record.attributes) == {
        "resilience.policy.name": "payments",
        "resilience.circuit_breaker.state": "forced_open",
        "resilience.circuit_breaker.previous_state": "closed",
        "resilience.circuit_breaker.reason": "manual",
    }
    assert record.severity_number is SeverityNumber.WARN
    assert record.timestamp > 0


@pytest.mark.parametrize(
    ("name", "details", "severity"),
    [
        ("resilience.circuit_breaker.state_change", OPEN, "WARN"),
        ("resilience.circuit_breaker.state_change", {**OPEN, "resilience.circuit_breaker.state": "closed"}, "INFO"),
        ("resilience.throttle.state_change", {"resilience.throttle.state": "shedding"}, "WARN"),
        ("resilience.throttle.state_change", {"resilience.throttle.state": "passing"}, "INFO"),
        ("resilience.rate_limiter.limit_change", limit_change(10, 11), "DEBUG"),
        ("resilience.rate_limiter.limit_change", limit_change(10, 20), "INFO"),
        ("resilience.concurrency_limiter.limit_change", limit_change(10, 5), "INFO"),
        ("resilience.rate_limiter.limit_change", limit_change(float("inf"), 5), "INFO"),
        ("resilience.retry.exhausted", {"resilience.retry.stop_reason": "attempts_exhausted"}, "WARN"),
    ],
)  # fmt: skip
def test_how_bad_it_is_depends_on_what_happened(
    otel: Otel, name: str, details: dict[str, object], severity: str
) -> None:
    emit(name, "graded", details)
    (record,) = otel.events()
    assert record.severity_text == severity


def test_what_is_not_known_or_not_finite_is_left_out(otel: Otel) -> None:
    emit("resilience.rate_limiter.limit_change", "x", {**limit_change(float("inf"), 5), "stranger": 1})
    (record,) = otel.events()
    assert "resilience.limiter.previous_limit" not in record.attributes
    assert "stranger" not in record.attributes


def test_an_event_that_is_not_in_the_registry_is_no_record(otel: Otel) -> None:
    emit("resilience.stranger", "x", {})
    assert otel.events() == []


def test_records_of_one_event_and_policy_are_bounded_and_say_what_was_left_out(
    otel: Otel, fake_clock
) -> None:
    for _ in range(BURST + 3):
        emit("resilience.hedge.budget_exhausted", "loud", {})
    emit("resilience.hedge.budget_exhausted", "quiet", {})
    assert len(otel.events()) == BURST + 1
    fake_clock.advance(WINDOW)
    emit("resilience.hedge.budget_exhausted", "loud", {})
    emit("resilience.hedge.budget_exhausted", "loud", {})
    told = [record.attributes.get("resilience.event.suppressed") for record in otel.events()]
    assert told == [None] * (BURST + 1) + [3, None]


def test_a_provider_that_fails_breaks_no_call(otel: Otel) -> None:
    telemetry.configure(logger_provider=FailingLoggers())
    breaker = CircuitBreaker("unheard")
    with breaker.isolate():
        assert breaker.state.value == "forced_open"


def test_an_exporter_that_is_guarded_itself_does_not_recur(otel: Otel) -> None:
    depth: list[int] = []

    class Guarded:
        def get_logger(self, *args: object, **kwargs: object) -> "Guarded":
            return self

        def emit(self, record: object) -> None:
            depth.append(1)
            emit("resilience.hedge.budget_exhausted", "exporter", {})

    telemetry.configure(logger_provider=Guarded())
    emit("resilience.hedge.budget_exhausted", "first", {})
    assert depth == [1]


def test_an_event_in_the_middle_of_another_one_is_not_waited_for(
    otel: Otel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a handler of a signal, or a finalizer, that uses a policy."""

    class Interrupted:
        """A clock that an interrupt strikes while it is read."""

        has_struck = False

        def monotonic(self) -> float:
            if not self.has_struck:
                self.has_struck = True
                emit("resilience.hedge.budget_exhausted", "second", {})
            return 1.0

    monkeypatch.setattr("resilience.telemetry._logs._clock", Interrupted())
    thread = threading.Thread(
        target=emit, args=("resilience.hedge.budget_exhausted", "first", {}), daemon=True
    )
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert [record.attributes["resilience.policy.name"] for record in otel.events()] == ["second", "first"]


def test_exhausted_retries_tell_the_type_of_the_error(otel: Otel) -> None:
    def fail() -> None:
        raise ConnectionError

    retry = Retry("gives-up", attempts=1)
    with pytest.raises(ConnectionError):
        retry.call(fail)
    (record,) = otel.events()
    assert record.attributes["error.type"] == "ConnectionError"


def test_a_limit_change_tells_both_limits_and_the_cause(otel: Otel) -> None:
    limiter = ConcurrencyLimiter("places", limit=8)
    limiter.pin(2)
    (record,) = otel.events()
    assert dict(record.attributes) == {
        "resilience.policy.name": "places",
        "resilience.limiter.change": "decrease",
        "resilience.limiter.previous_limit": 8,
        "resilience.limiter.limit": 2,
        "resilience.limiter.cause": "pinned",
    }
