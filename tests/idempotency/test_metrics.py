"""What a middleware of keys tells OpenTelemetry: every request with a key once, and every conflict."""

from tests.integrations.test_asgi_idempotency import Failing, Post, Shop, layer, run
from tests.telemetry.conftest import otel as otel  # a fixture, for the tests of this file

NAME = "payments"


def test_every_result_is_counted_once_under_its_name(async_runtime, otel) -> None:
    store = Failing()
    shop = Shop(201)
    guarded = layer(shop, store=store, name=NAME, required=True, max_response_bytes=1000)

    def send(key, body=b"a", **settings):
        (exchange,) = run(async_runtime, guarded, Post(async_runtime, key=key, body=body, **settings))
        return exchange.status

    assert send("one") == 201  # executed
    assert [send("one") for _ in range(2)] == [201, 201]  # replayed
    assert send("one", b"b") == 422  # mismatch
    shop.parts = (b"x" * 2000,)
    assert [send("long"), send("long")] == [201, 409]  # executed, not replayable
    assert [send(None), send("ä")] == [400, 400]  # missing key
    store.operations.add("complete")
    store.complete = None  # type: ignore[assignment]  # the background fails as well
    assert [send("open"), send("open")] == [201, 409]  # executed, in progress
    store.operations.add("claim")
    assert send("away") == 503  # store error

    results = otel.series("resilience.idempotency.requests", NAME)
    assert {dict(key)["resilience.idempotency.result"]: value for key, value in results.items()} == {
        "executed": 3, "replayed": 2, "mismatch": 1, "not_replayable": 1, "missing_key": 2, "in_progress": 1,
        "store_error": 1,
    }  # fmt: skip


def test_every_conflict_is_an_event_that_does_not_tell_the_key(async_runtime, recorded_events) -> None:
    guarded = layer(Shop(201), name=NAME)
    run(async_runtime, guarded, *(Post(async_runtime, key="secret", body=body) for body in (b"a", b"b")))
    (event,) = [event for event in recorded_events if event.name == "resilience.idempotency.conflict"]
    assert (event.policy, dict(event.attributes)) == (NAME, {"resilience.idempotency.result": "mismatch"})
    assert "secret" not in repr(event)


def test_a_request_without_a_key_is_not_counted_where_none_is_needed(async_runtime, otel) -> None:
    run(async_runtime, layer(Shop(201), name=NAME), Post(async_runtime))
    assert set(otel.series("resilience.idempotency.requests", NAME).values()) <= {0}
