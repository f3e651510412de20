"""One instrument of each for a process and a provider, whatever providers come and go or fail."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from resilience import Hedge, Keyed, Pipeline, Retry, RetryBudget, telemetry
from resilience.backoff import constant

from .otel import Otel


def fail_once():
    answers = iter([ConnectionError()])

    def fetch() -> int:
        error = next(answers, None)
        if error is not None:
            raise error
        return 7

    return fetch


class FailingProvider:
    """A meter provider out of order."""

    def get_meter(self, *args, **kwargs):
        raise ZeroDivisionError


class FailingMeter:
    def __getattr__(self, name: str):
        raise ZeroDivisionError


class HalfProvider:
    def get_meter(self, *args, **kwargs):
        return FailingMeter()


def test_two_readers_of_one_provider_see_the_same(otel: Otel) -> None:
    kept = Retry("both")
    kept.call(len, "four")
    first, second = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider([first, second])
    telemetry.configure(meter_provider=provider)
    one, two = Otel(meters=provider, reader=first), Otel(meters=provider, reader=second)
    for each in (one, two, one):
        assert each.value("resilience.retry.calls", "both", stop_reason="success") == 1
    provider.shutdown()


def test_each_collection_reads_anew(otel: Otel) -> None:
    retry = Retry("anew")
    for n in range(3):
        assert otel.value("resilience.retry.calls", "anew", stop_reason="success") == n
        retry.call(len, "four")


def test_several_providers_are_told_alike(otel: Otel) -> None:
    other = Otel()
    telemetry.configure(meter_provider=[otel.meters, other.meters])
    retry = Retry("several")
    retry.call(len, "four")
    for each in (otel, other):
        assert each.value("resilience.retry.calls", "several", stop_reason="success") == 1
    other.meters.shutdown()


def test_a_provider_that_is_no_longer_named_gets_nothing_more(otel: Otel) -> None:
    other = Otel()
    kept = Retry("moved")
    telemetry.configure(meter_provider=other.meters)
    assert otel.metrics() == {}
    assert "resilience.retry.calls" in other.metrics()
    telemetry.configure(meter_provider=otel.meters)
    assert "resilience.retry.calls" in otel.metrics()
    assert other.metrics() == {}
    assert kept
    other.meters.shutdown()


def test_a_provider_that_fails_breaks_neither_policies_nor_other_providers(otel: Otel) -> None:
    telemetry.configure(meter_provider=[FailingProvider(), HalfProvider(), otel.meters], call_duration=True)
    retry = Retry("works")
    assert retry.call(len, "four") == 4
    assert otel.value("resilience.retry.calls", "works", stop_reason="success") == 1


def test_attempts_by_calls_is_the_amplification(otel: Otel) -> None:
    pipeline = Pipeline("amplified", Retry(attempts=3, backoff=constant(0.0), budget=RetryBudget()))
    for _ in range(4):
        pipeline.call(fail_once())
    assert otel.series("resilience.attempts", "amplified") == {
        (("resilience.attempt.type", "initial"),): 4,
        (("resilience.attempt.type", "retry"),): 4,
    }


def test_only_the_outer_of_two_that_call_again_counts_calls(otel: Otel) -> None:
    budget = RetryBudget()
    hedge = Hedge(after=None, idempotent=True, budget=budget)
    pipeline = Pipeline("two", Retry(attempts=2, backoff=constant(0.0), budget=budget), hedge)
    pipeline.call(lambda: 7)
    assert otel.value("resilience.attempts", "two", type="initial") == 1
    assert otel.value("resilience.attempts", "two", type="hedge") == 0


def test_a_reload_keeps_who_is_outermost(otel: Otel) -> None:
    budget = RetryBudget()
    hedge = Hedge(after=None, idempotent=True, budget=budget)
    inner = Pipeline("reloaded", hedge)
    outer = Pipeline("reloaded", Retry(budget=budget), inner)
    inner.reload(hedge)
    outer.call(lambda: 7)
    assert otel.value("resilience.attempts", "reloaded", type="initial") == 1


def test_keyed_policies_report_under_their_parent(otel: Otel) -> None:
    keyed = Keyed("hosts", factory=lambda: Retry(budget=None), key=lambda host: host)
    guarded = keyed(lambda host: host)
    for host in ("a", "b", "c"):
        guarded(host)
    assert otel.value("resilience.retry.calls", "hosts", stop_reason="success") == 3
    assert otel.value("resilience.keyed.usage", "hosts") == 3
    names = {
        str(point.attributes.get("resilience.policy.name"))
        for metric in otel.metrics().values()
        for point in metric.data.data_points
    }
    assert names.isdisjoint({"a", "b", "c"})
