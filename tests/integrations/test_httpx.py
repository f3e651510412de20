"""Policies around httpx and httpx2: what is judged bad, what is sent again, and when a permit comes back."""

import gc
import io
import sys

import httpx
import httpx2
import pytest
from tests.doubles import Slots
from tests.integrations.http_clients import Client, at_some_pace
from tests.integrations.servers import RawServer, asgi, closed_port, hang_up, reply, reset, then

from resilience import (
    CallContext,
    CircuitBreaker,
    CircuitState,
    ConcurrencyLimitedError,
    ConcurrencyLimiter,
    Fallback,
    Keyed,
    Outcome,
    Pipeline,
    Priority,
    RateLimiter,
    Retry,
    Timeout,
    Verdict,
    deadline,
    priority_scope,
    rates,
)
from resilience.backoff import constant
from resilience.deadline import decode_timeout
from resilience.errors import CircuitOpenError, ConfigError, DeadlineExceededError
from resilience.integrations.httpx import (
    AsyncResilientTransport,
    ResilientTransport,
    async_request_hook,
    http_verdict,
    request_hook,
    resilient,
)

LIBS = [httpx, httpx2]
JUNK = b"HTTP/9.9 what\r\n\r\n"


def retrying(attempts=3, **settings):
    return Retry(attempts=attempts, backoff=constant(0.0), budget=None, **settings)


def resets_after(*parts):
    return then(*parts, 0.05, reset)


# --- what an outcome says ---


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
@pytest.mark.parametrize(
    "status, headers, verdict, retry_after",
    [
        (101, {}, Verdict.GOOD, None),
        (200, {"Retry-After": "3"}, Verdict.GOOD, None),
        (304, {}, Verdict.GOOD, None),
        (404, {}, Verdict.GOOD, None),
        (408, {}, Verdict.BAD, None),
        (409, {"Retry-After": "3"}, Verdict.GOOD, None),
        (429, {}, Verdict.THROTTLED, None),
        (429, {"Retry-After": "3"}, Verdict.THROTTLED, 3.0),
        (429, {"RateLimit": '"a";r=0;t=7'}, Verdict.THROTTLED, 7.0),
        (429, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9"}, Verdict.THROTTLED, 9.0),
        (500, {}, Verdict.BAD, None),
        (501, {}, Verdict.BAD, None),
        (503, {}, Verdict.BAD, None),
        (503, {"Retry-After": "0"}, Verdict.THROTTLED, 0.0),
        (504, {}, Verdict.TIMED_OUT, None),
        (599, {"Retry-After": "2"}, Verdict.BAD, 2.0),
    ],
)
def test_a_response_is_judged_by_its_status(lib, status, headers, verdict, retry_after) -> None:
    outcome = Outcome(lib.Response(status, headers=headers))
    assert http_verdict(outcome, CallContext()) is verdict
    assert outcome.retry_after == retry_after


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
@pytest.mark.parametrize(
    "kind, verdict, unsent",
    [
        ("ConnectError", Verdict.BAD, True),
        ("ConnectTimeout", Verdict.TIMED_OUT, True),
        ("PoolTimeout", Verdict.TIMED_OUT, True),
        ("ProxyError", Verdict.BAD, True),
        ("ReadTimeout", Verdict.TIMED_OUT, False),
        ("WriteTimeout", Verdict.TIMED_OUT, False),
        ("ReadError", Verdict.BAD, False),
        ("WriteError", Verdict.BAD, False),
        ("RemoteProtocolError", Verdict.BAD, False),
        ("DecodingError", Verdict.BAD, False),
        ("LocalProtocolError", Verdict.IGNORED, False),
        ("UnsupportedProtocol", Verdict.IGNORED, False),
    ],
)
def test_an_error_is_judged_by_what_it_proves(lib, kind, verdict, unsent) -> None:
    outcome = Outcome(error=getattr(lib, kind)("went wrong"))
    assert http_verdict(outcome, CallContext()) is verdict
    assert outcome.unsent is unsent


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
def test_the_error_of_raise_for_status_is_judged_by_its_response(lib) -> None:
    response = lib.Response(429, headers={"Retry-After": "4"}, request=lib.Request("GET", "http://a"))
    with pytest.raises(lib.HTTPStatusError) as caught:
        response.raise_for_status()
    outcome = Outcome(error=caught.value)
    assert (http_verdict(outcome, CallContext()), outcome.retry_after) == (Verdict.THROTTLED, 4.0)


@pytest.mark.parametrize(
    "error, verdict",
    [
        (CircuitOpenError("a"), Verdict.IGNORED),
        (DeadlineExceededError(started=False), Verdict.IGNORED),
        (DeadlineExceededError(started=True), Verdict.TIMED_OUT),
        (TimeoutError(), Verdict.TIMED_OUT),
        (ValueError(), Verdict.BAD),
    ],
)
def test_errors_of_others_are_judged_as_everywhere(error, verdict) -> None:
    assert http_verdict(Outcome(error=error), CallContext()) is verdict


def test_what_is_no_response_is_good() -> None:
    assert http_verdict(Outcome([1]), CallContext()) is Verdict.GOOD


# --- what is sent again ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"])
def test_an_idempotent_method_is_sent_again(web, method) -> None:
    async def body():
        with RawServer(reply(503, b"" if method == "HEAD" else b"no"), reply(200)) as server:
            async with web.client(retrying()) as client:
                assert (await client.request(method, server.url)).status_code == 200
            assert [seen.method for seen in server.seen] == [method, method]
            assert server.connections == 1

    web.runtime.run(body)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_another_method_is_sent_once_unless_it_carries_a_key(web, method) -> None:
    async def body():
        with RawServer(reply(500), reply(500), reply(200)) as server:
            async with web.client(retrying()) as client:
                assert (await client.request(method, server.url, content=b"a")).status_code == 500
                assert len(server.seen) == 1
                keyed = await client.request(
                    method, server.url, content=b"a", headers={"idempotency-KEY": "k1"}
                )
            assert keyed.status_code == 200
            assert [seen.headers.get("idempotency-key") for seen in server.seen] == [None, "k1", "k1"]

    web.runtime.run(body)


def test_the_methods_and_the_header_that_allow_it_are_settings(web) -> None:
    async def body():
        with RawServer(reply(500)) as server:
            settings = {"idempotent_methods": {"REPORT"}, "idempotency_header": "X-Key"}
            async with web.client(retrying(2), settings=settings) as client:
                await client.request("GET", server.url)
                await client.request("REPORT", server.url)
                await client.request("POST", server.url, headers={"X-Key": "1"})
            assert [seen.method for seen in server.seen] == ["GET", "REPORT", "REPORT", "POST", "POST"]

    web.runtime.run(body)


def test_a_post_is_tried_again_where_nobody_listens_for_it_was_never_sent(web) -> None:
    async def body():
        retry = retrying()
        async with web.client(retry) as client:
            with pytest.raises(web.lib.ConnectError):
                await client.request("POST", f"http://127.0.0.1:{closed_port()}", content=web.body([b"a"]))
        assert retry.retries == 2

    web.runtime.run(body)


def test_a_post_is_tried_again_when_the_pool_had_no_connection_for_it(web) -> None:
    async def body():
        retry = retrying()
        limits = web.lib.Limits(max_connections=1)
        waits = web.lib.Timeout(5.0, pool=0.02)
        with RawServer(reply(200, b"abc")) as server:
            async with (
                web.client(retry, limits=limits, timeout=waits) as client,
                client.stream("GET", server.url),
            ):
                with pytest.raises(web.lib.PoolTimeout):
                    await client.request("POST", server.url, content=b"a")
            assert len(server.seen) == 1
        assert retry.retries == 2

    web.runtime.run(body)


@pytest.mark.parametrize(
    "answer, error",
    [
        (hang_up, "RemoteProtocolError"),
        (reset, "ReadError"),
        (JUNK, "RemoteProtocolError"),
        (then(0.4, close=True), "ReadTimeout"),
    ],
    ids=["no reply", "reset", "garbage", "silence"],
)
def test_a_post_whose_answer_is_lost_is_not_sent_again_and_a_get_is(web, answer, error) -> None:
    async def body():
        with RawServer(answer, answer, reply(200)) as server:
            async with web.client(retrying(), timeout=0.2) as client:
                with pytest.raises(getattr(web.lib, error)):
                    await client.request("POST", server.url, content=b"a")
                assert len(server.seen) == 1
                assert (await client.get(server.url)).status_code == 200
            assert len(server.seen) == 3

    web.runtime.run(body)


def test_a_connection_that_was_closed_while_idle_costs_a_get_one_attempt_at_most(web) -> None:
    async def body():
        with RawServer(then(reply(200), close=True), reply(200)) as server:
            async with web.client(retrying()) as client:
                assert (await client.get(server.url)).status_code == 200
                assert (await client.get(server.url)).status_code == 200
            assert server.connections == 2

    web.runtime.run(body)


# --- a permit is held until the body ends ---


def test_a_slot_is_held_until_the_body_has_been_read(web) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        with RawServer(then(reply(200, b"", Content_Length="6") + b"abc", 0.02, b"def")) as server:
            async with web.client(limiter) as client, client.stream("GET", server.url) as response:
                assert limiter.inflight == 1
                with pytest.raises(ConcurrencyLimitedError):
                    await client.get(server.url)
                assert await web.read(response) == b"abcdef"
                assert limiter.inflight == 0
            assert len(server.seen) == 1

    web.runtime.run(body)


def test_closing_a_response_before_its_end_gives_the_slot_back_and_teaches_nothing(web) -> None:
    async def body():
        slots = Slots(limit=1)
        with RawServer(reply(200, b"a" * 500_000)) as server:
            async with web.client(slots) as client:
                async with client.stream("GET", server.url):
                    assert slots.used == 1
                assert (slots.used, client.busy) == (0, 0)
        assert (slots.verdicts, slots.released) == ([], 1)

    web.runtime.run(body)


def test_a_body_that_was_read_counts_as_good_once(web) -> None:
    async def body():
        slots = Slots(limit=1)
        with RawServer(reply(200, b"abc")) as server:
            async with web.client(slots) as client, client.stream("GET", server.url) as response:
                assert slots.verdicts == []
                assert [chunk async for chunk in web.chunks(response)] == [b"abc"]
                assert slots.verdicts == [Verdict.GOOD]
        assert (slots.verdicts, slots.released) == ([Verdict.GOOD], 0)

    web.runtime.run(body)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_response_without_a_body_gives_the_slot_back(web, method) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        with RawServer(reply(204)) as server:
            async with web.client(limiter) as client:
                await client.request(method, server.url)
                assert limiter.inflight == 0
                assert len(client.pool) == 1

    web.runtime.run(body)


@pytest.mark.parametrize(
    "answer, error, verdict",
    [
        (resets_after(reply(200, b"ab", Content_Length="9")), "ReadError", Verdict.BAD),
        (then(reply(200, b"ab", Content_Length="9"), close=True), "RemoteProtocolError", Verdict.BAD),
        (reply(200, b"2\r\nab\r\nzz\r\n", Transfer_Encoding="chunked"), "RemoteProtocolError", Verdict.BAD),
        (then(reply(200, b"ab", Content_Length="9"), 0.6, close=True), "ReadTimeout", Verdict.TIMED_OUT),
    ],
    ids=["reset", "cut off", "garbage", "silence"],
)
def test_a_body_that_breaks_counts_as_bad_and_gives_the_slot_back(web, answer, error, verdict) -> None:
    async def body():
        slots = Slots(limit=1)
        with RawServer(answer) as server:
            async with web.client(slots, timeout=0.3) as client:
                with pytest.raises(getattr(web.lib, error)):
                    await client.get(server.url)
                assert (slots.used, client.busy) == (0, 0)
        assert (slots.verdicts, slots.released) == ([verdict], 0)

    web.runtime.run(body)


def test_a_bad_status_is_learnt_with_the_headers_by_who_holds_no_place(web) -> None:
    async def body():
        breaker = CircuitBreaker(consecutive_failures=1)
        with RawServer(then(reply(500, b"ab", Content_Length="4"), 0.1, b"cd")) as server:
            async with web.client(breaker) as client, client.stream("GET", server.url) as response:
                assert breaker.state is CircuitState.OPEN
                assert await web.read(response) == b"abcd"

    web.runtime.run(body)


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "closed"])
def test_a_slot_is_held_until_the_body_of_a_bad_answer_has_ended(web, is_read) -> None:
    async def body():
        slots = Slots(limit=1)
        with RawServer(then(reply(500, b"ab", Content_Length="4"), 0.02, b"cd")) as server:
            async with web.client(slots) as client:
                async with client.stream("GET", server.url) as response:
                    assert (slots.used, slots.verdicts) == (1, [])
                    with pytest.raises(ConcurrencyLimitedError):
                        await client.get(server.url)
                    if is_read:
                        assert await web.read(response) == b"abcd"
                assert (slots.used, slots.verdicts, slots.released) == (0, [Verdict.BAD], 0)

    web.runtime.run(body)


def test_an_open_circuit_sends_nothing(web) -> None:
    async def body():
        with RawServer(reply(500)) as server:
            async with web.client(CircuitBreaker(consecutive_failures=2)) as client:
                for _ in range(2):
                    await client.get(server.url)
                with pytest.raises(CircuitOpenError):
                    await client.get(server.url)
            assert len(server.seen) == 2

    web.runtime.run(body)


# --- time ---


def test_the_attempt_timeout_covers_until_the_headers_and_no_longer(web) -> None:
    async def attempt(seconds):
        slow_body = then(reply(200, b"ab", Content_Length="4"), 1.5 * seconds, b"cd")
        with RawServer(slow_body, then(30.0, reply(200))) as server:
            async with web.client(Timeout(seconds, name="a"), timeout=30.0) as client:
                assert (await client.get(server.url)).content == b"abcd"
                with pytest.raises(TimeoutError) as caught:
                    await client.get(server.url)
                assert type(caught.value) is TimeoutError
                assert client.busy == 0

    web.runtime.run(lambda: at_some_pace(attempt))


def test_an_attempt_that_ran_out_of_time_is_repeated_if_that_is_safe(web) -> None:
    async def attempt(seconds):
        pipeline = Pipeline("h", retrying(), Timeout(seconds))
        with RawServer(then(30.0, reply(200)), reply(200, b"a"), then(30.0, reply(200))) as server:
            async with web.client(pipeline, timeout=30.0) as client:
                assert (await client.get(server.url)).content == b"a"
                with pytest.raises(TimeoutError):
                    await client.request("POST", server.url, content=b"a")
                assert client.busy == 0
            assert [seen.method for seen in server.seen] == ["GET", "GET", "POST"]

    web.runtime.run(lambda: at_some_pace(attempt))


def test_the_time_left_travels_in_a_header_and_shrinks_with_every_attempt(web) -> None:
    async def body():
        pipeline = Pipeline("h", retrying(2), Timeout(1.0))
        with RawServer(then(0.05, reply(503)), reply(200)) as server:
            async with web.client(pipeline) as client:
                with deadline(0.5):
                    await client.get(server.url)
                await client.get(server.url)
            first, second, third = (decode_timeout(seen.headers["x-request-timeout"]) for seen in server.seen)
        assert 0.3 < second < first - 0.05 < 0.5
        assert 0.5 < third <= 1.0

    web.runtime.run(body)


def test_the_priority_travels_in_a_header_unless_it_is_normal(web) -> None:
    async def body():
        with RawServer(reply(200)) as server:
            async with web.client(retrying()) as client:
                with priority_scope(Priority.SHEDDABLE):
                    await client.get(server.url)
                await client.get(server.url)
            assert [seen.headers.get("x-request-priority") for seen in server.seen] == ["sheddable", None]

    web.runtime.run(body)


def test_headers_have_the_names_that_were_set_or_are_left_out(web) -> None:
    async def body():
        with RawServer(reply(200)) as server, deadline(5.0), priority_scope(Priority.HIGH):
            for settings in (
                {"timeout_header": "grpc-timeout", "priority_header": "X-P"},
                {"timeout_header": None, "priority_header": None},
            ):
                async with web.client(retrying(), settings=settings) as client:
                    await client.get(server.url)
            named, without = (seen.headers for seen in server.seen)
        assert 4.0 < decode_timeout(named["grpc-timeout"]) <= 5.0
        assert named["x-p"] == "high"
        assert {"x-request-timeout", "x-request-priority", "grpc-timeout"}.isdisjoint(without)

    web.runtime.run(body)


def test_a_header_that_the_caller_set_stays(web) -> None:
    async def body():
        with RawServer(reply(200)) as server, deadline(5.0):
            async with web.client(retrying()) as client:
                await client.get(server.url, headers={"x-request-timeout": "7S"})
            assert server.seen[0].headers["x-request-timeout"] == "7S"

    web.runtime.run(body)


def test_a_deadline_that_has_passed_sends_nothing(web) -> None:
    async def body():
        with RawServer(reply(200)) as server:
            async with web.client(retrying()) as client:
                with deadline(0.01):
                    await web.runtime.sleep(0.02)
                    with pytest.raises(DeadlineExceededError):
                        await client.get(server.url)
            assert server.seen == []

    web.runtime.run(body)


def test_a_response_that_is_dropped_unread_gives_its_place_back(web) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        with RawServer(reply(200, b"abc")) as server:
            async with web.client(limiter) as client:
                await client.send(client.inner.build_request("GET", server.url), stream=True)
                gc.collect()
                await web.runtime.until(lambda: limiter.inflight == 0)

    web.runtime.run(body)


# --- what the server says about its rate ---


def test_rate_fields_feed_the_limiter(web) -> None:
    async def body():
        limiter = RateLimiter("api", rate=rates.Fixed(100))
        said = {"RateLimit": '"a";r=50;t=10', "RateLimit-Policy": '"a";q=600;w=60'}
        with RawServer(reply(200, b"", **{k.replace("-", "_"): v for k, v in said.items()})) as server:
            async with web.client(Pipeline("h", retrying(), limiter)) as client:
                await client.get(server.url)
        assert 4.9 < limiter.rate <= 5.0

    web.runtime.run(body)


def by_host(request):
    return request.url.port


@pytest.mark.parametrize("key", [by_host, "request"])
@pytest.mark.parametrize("within", [lambda keyed: Pipeline("h", retrying(), keyed), lambda keyed: keyed])
def test_rate_fields_feed_the_limiter_of_their_key(web, within, key) -> None:
    async def body():
        made = []

        def make():
            made.append(RateLimiter(rate=rates.Fixed(100)))
            return Pipeline("api", made[-1])

        keyed = Keyed("hosts", factory=make, key=key)
        with RawServer(reply(200, b"", RateLimit='"a";r=50;t=10')) as told, RawServer(reply(200)) as quiet:
            async with web.client(within(keyed)) as client:
                await client.get(told.url)
                await client.get(quiet.url)
        assert [round(limiter.rate) for limiter in made] == [100, 5, 100]  # the first is the overflow policy

    web.runtime.run(body)


def test_a_limiter_with_a_number_as_its_rate_follows_nobody(web) -> None:
    async def body():
        limiter = RateLimiter("api", rate=100)
        with RawServer(reply(200, b"", RateLimit='"a";r=1;t=10')) as server:
            async with web.client(limiter) as client:
                for _ in range(3):
                    assert (await client.get(server.url)).status_code == 200

    web.runtime.run(body)


# --- one set of policies for each host ---


def test_each_origin_has_policies_of_its_own(web) -> None:
    async def body():
        breakers = Keyed("hosts", factory=lambda: CircuitBreaker(consecutive_failures=1), max_keys=5)
        with RawServer(reply(500)) as ill, RawServer(reply(200)) as well:
            async with web.client(breakers, settings={"per": "host"}) as client:
                await client.get(ill.url)
                with pytest.raises(CircuitOpenError):
                    await client.get(ill.url)
                assert (await client.get(well.url)).status_code == 200
            assert sorted(breakers) == sorted(f"http://127.0.0.1:{each.port}" for each in (ill, well))

    web.runtime.run(body)


def test_each_origin_gets_a_copy_of_a_pipeline(web) -> None:
    async def body():
        pipeline = Pipeline("api", CircuitBreaker(consecutive_failures=1))
        with RawServer(reply(500)) as ill, RawServer(reply(200)) as well:
            async with web.client(pipeline, settings={"per": "host"}) as client:
                await client.get(ill.url)
                with pytest.raises(CircuitOpenError, match="api"):
                    await client.get(ill.url)
                assert (await client.get(well.url)).status_code == 200
        assert pipeline.policies[0].state is CircuitState.CLOSED

    web.runtime.run(body)


def test_a_callable_makes_the_policies_of_each_host_whose_limiter_follows_that_host(web) -> None:
    async def body():
        made = []

        def make():
            made.append(RateLimiter(rate=rates.Fixed(100)))
            return Pipeline("api", made[-1])

        with RawServer(reply(200, b"", RateLimit='"a";r=50;t=10')) as told, RawServer(reply(200)) as quiet:
            async with web.client(make, settings={"per": "host"}) as client:
                await client.get(told.url)
                await client.get(quiet.url)
        assert [round(limiter.rate) for limiter in made] == [
            100,
            5,
            100,
        ]  # the first is for keys beyond bounds

    web.runtime.run(body)


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
def test_what_is_no_policy_and_makes_none_cannot_be_divided_among_hosts(lib) -> None:
    with lib.HTTPTransport() as inner:
        with pytest.raises(ConfigError, match="per must be"):
            ResilientTransport(retrying(), wrapped=inner, per=["host"])
        for policy in (Keyed(factory=Retry, key=lambda request: 1), "no policy"):
            with pytest.raises(ConfigError, match="policy must be"):
                ResilientTransport(policy, wrapped=inner, per="host")
        with pytest.raises(ConfigError, match="per must be"):
            ResilientTransport(retrying(), wrapped=inner, per="origin")
        with pytest.raises(ConfigError, match="policy must be a policy"):
            ResilientTransport(Retry, wrapped=inner)


# --- construction ---


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
def test_wrong_settings_are_all_named_at_once(lib) -> None:
    with pytest.raises(ConfigError) as caught, lib.HTTPTransport() as inner:
        ResilientTransport(
            retrying(),
            wrapped=inner,
            timeout_header="a b",
            priority_header="",
            idempotency_header=7,
            idempotent_methods="GET",
            drain_bytes=-1,
            drain_seconds=float("nan"),
        )
    assert [problem.setting for problem in caught.value.problems] == [
        "timeout_header",
        "priority_header",
        "idempotency_header",
        "idempotent_methods",
        "drain_bytes",
        "drain_seconds",
    ]


@pytest.mark.parametrize("lib", LIBS, ids=lambda lib: lib.__name__)
def test_policies_that_replace_or_keep_responses_are_refused(lib) -> None:
    with lib.HTTPTransport() as inner, pytest.raises(ConfigError, match="must not hold a Fallback"):
        ResilientTransport(Pipeline("h", Fallback(value=None), retrying()), wrapped=inner)


def test_what_is_no_client_is_refused() -> None:
    for thing in (object(), httpx.HTTPTransport(), "client"):
        with pytest.raises(ConfigError, match="client must be"):
            resilient(thing, retrying())


def test_a_client_is_wrapped_once(web) -> None:
    client = resilient(web.bare(), retrying())
    with pytest.raises(ConfigError, match="policies already"):
        resilient(client, retrying())


def test_a_classifier_of_the_pipeline_comes_before_the_default(web) -> None:
    async def body():
        pipeline = Pipeline("h", retrying(), classify=lambda outcome, context: Verdict.GOOD)
        with RawServer(reply(500)) as server:
            async with web.client(pipeline) as client:
                assert (await client.get(server.url)).status_code == 500
            assert len(server.seen) == 1

    web.runtime.run(body)


def test_a_transport_of_ones_own_may_be_wrapped(web) -> None:
    async def body():
        kind = AsyncResilientTransport if web.is_async else ResilientTransport
        transport = kind(retrying(), wrapped=web.transport())
        with RawServer(reply(503), reply(200)) as server:
            async with Client(web, web.bare(transport=transport)) as client:
                assert (await client.get(server.url)).status_code == 200

    web.runtime.run(body)


# --- seen from outside ---


class Span:
    def __init__(self):
        self.attributes = {}

    def set_attribute(self, name, value):
        self.attributes[name] = value


def test_the_hook_counts_every_resend_over_retries_and_redirects(web) -> None:
    async def body():
        spans = []

        inner = web.transport()
        name = "handle_async_request" if web.is_async else "handle_request"
        real = getattr(inner, name)

        async def watching_async(request):
            spans.append(Span())
            await async_request_hook(spans[-1], request)
            return await real(request)

        def watching(request):
            spans.append(Span())
            request_hook(spans[-1], request)
            return real(request)

        # Where the instrumentation stands: around the real transport, inside the policies.
        setattr(inner, name, watching_async if web.is_async else watching)
        with RawServer(reply(503), reply(307, Location="/b"), reply(503), reply(200)) as server:
            async with web.client(retrying(), transport=inner, follow_redirects=True) as client:
                await client.get(server.url)
                await client.get(server.url)
        counts = [span.attributes.get("http.request.resend_count") for span in spans]
        assert counts == [None, 1, 2, 3, None]

    web.runtime.run(body)


def test_a_span_that_fails_does_not_break_the_request() -> None:
    class Failing:
        def set_attribute(self, name, value):
            raise RuntimeError(name)

    request_hook(Failing(), httpx.Request("GET", "http://a", extensions={"resilience.resend_count": 2}))


# --- with a well-behaved server ---


async def echo(scope, receive, send):
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(20):
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
    await send({"type": "http.response.body", "body": str(size).encode()})


def test_uploads_and_downloads_stream_through_uvicorn(web) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        with asgi(echo) as url:
            async with web.client(Pipeline("h", retrying(), limiter)) as client:
                for content in (web.body([b"ab"] * 500), b"a" * 1000):
                    async with client.stream("POST", url, content=content) as response:
                        chunks = [chunk async for chunk in web.chunks(response)]
                    assert b"".join(chunks)[-4:] == b"1000"
                    assert len(chunks) > 1
                assert (limiter.inflight, client.busy) == (0, 0)

    web.runtime.run(body)


def test_neither_library_is_imported_before_it_is_used() -> None:
    import subprocess

    script = "import sys, resilience.integrations.httpx; print({'httpx', 'httpx2'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_files_are_closed_by_nobody_but_their_owner(web) -> None:
    if web.is_async:
        pytest.skip("async clients take no plain files")

    async def body():
        file = io.BytesIO(b"abc")
        with RawServer(reply(503), reply(200)) as server:
            async with web.client(retrying()) as client:
                await client.request("PUT", server.url, content=file)
        assert not file.closed

    web.runtime.run(body)


def test_a_limiter_that_cannot_take_the_servers_word_does_not_lose_the_answer(web) -> None:
    class Deaf(RateLimiter):
        def follow(self, **terms):
            raise ZeroDivisionError

    async def body():
        with RawServer(reply(200, b"abc", RateLimit='"default";r=50;t=30')) as server:
            async with web.client(Deaf(rate=rates.Aimd(start=100))) as client:
                response = await client.get(server.url)
                assert (response.status_code, response.content, client.busy) == (200, b"abc", 0)

    web.runtime.run(body)
