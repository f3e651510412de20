"""
What goes wrong with retries around HTTP clients elsewhere, each with the test that it does not go wrong here.

Everything goes over real sockets: a mock transport reads bodies into memory first, and so hides the worst.
"""

import io
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import httpx
import httpx2
import pytest
from tests.doubles import Slots
from tests.integrations.http_clients import at_some_pace
from tests.integrations.servers import H2Server, RawServer, closed_port, reply, reset, then, when

from resilience import (
    CallContext,
    ConcurrencyLimiter,
    ConfigWarning,
    DeadlineExceededError,
    Hedge,
    Outcome,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    deadline,
)
from resilience.backoff import constant
from resilience.deadline import decode_timeout
from resilience.errors import ConfigError
from resilience.integrations.httpx import (
    AsyncResilientTransport,
    ResilientTransport,
    http_verdict,
    resilient,
)

PITFALLS = {
    "H1": "a body that cannot be replayed is sent empty, or cut off, by a retry",
    "H2": "a mock transport hides that",
    "H3": "a discarded response keeps its connection, or drops it",
    "H4": "the transport has returned before the body breaks",
    "H5": "httpx and httpx2 are two families of classes, and may go by each other's name",
    "H6": "an upgraded connection is no response",
    "H7": "timeouts are for each read, and their mapping is shared",
    "H8": "redirects and authentication pass the transport again",
    "H9": "a transport that retries by itself multiplies the attempts",
    "H10": "a wrapped transport loses proxies and mounts",
    "H11": "a sync transport in an async client, or the other way round",
    "H12": "asyncio's sleep under trio",
    "H13": "Retry-After is cut short, and the request sent early",
    "H14": "Retry-After is junk, a date, or of another clock",
    "H15": "a cancellation leaves a connection or a slot behind",
    "H16": "closing does not reach the transport inside",
    "H17": "the response is not what the client expects",
    "H18": "hedges share one stream, and the server answers 409 to the second",
    "H19": "a request is repeated by the library's own hand with a body cut off",
}
SOURCE = Path(__file__).read_text(encoding="utf-8")


def retrying(attempts=3, **settings):
    return Retry(attempts=attempts, backoff=constant(0.0), budget=None, **settings)


def hedging(after=0.05, **settings):
    return Hedge(after=after, idempotent=True, budget=RetryBudget.ratio(1.0), **settings)


class OneWay(io.BytesIO):
    """A file that cannot be wound back, such as a pipe."""

    def seekable(self):
        return False

    def seek(self, *args):
        raise io.UnsupportedOperation("seek")


@pytest.mark.parametrize("row", PITFALLS)
def test_every_pitfall_has_a_test(row) -> None:
    assert f"def test_{row.lower()}_" in SOURCE


@pytest.mark.parametrize(
    "content, sent",
    [
        ({"content": b"abc"}, b"abc"),
        ({"content": "abc"}, b"abc"),
        ({"json": {"a": 1}}, None),
        ({"data": {"a": "1"}}, b"a=1"),
        ({"content": b""}, b""),
        ({"data": {"a": "1"}, "files": {"f": b"abc"}}, None),
        ({"files": {"f": io.BytesIO(b"abc")}}, None),
    ],
    ids=["bytes", "text", "json", "form", "nothing", "multipart of bytes", "multipart of a file"],
)
def test_h1_a_body_that_can_be_replayed_is_sent_again_unchanged(web, content, sent) -> None:
    async def body():
        with RawServer(reply(503), reply(503), reply(200)) as server:
            async with web.client(retrying()) as client:
                assert (await client.request("PUT", server.url, **content)).status_code == 200
            bodies = [seen.body for seen in server.seen]
        assert bodies == [bodies[0]] * 3
        assert bodies[0] == sent or sent is None
        assert b"abc" in bodies[0] or "files" not in content

    web.runtime.run(body)


@pytest.mark.parametrize("status", [503, 429])
def test_h1_a_generator_is_sent_once(web, status) -> None:
    async def body():
        with RawServer(reply(status, b"why"), reply(200)) as server:
            async with web.client(retrying()) as client:
                response = await client.request(
                    "PUT", server.url, content=web.body([b"a", b"b"]), headers={"Idempotency-Key": "k"}
                )
            assert (response.status_code, response.content) == (status, b"why")
            assert [seen.body for seen in server.seen] == [b"ab"]

    web.runtime.run(body)


@pytest.mark.parametrize(
    "make",
    [lambda: iter([b"a", b"b"]), lambda: (part for part in [b"a", b"b"]), lambda: OneWay(b"ab")],
    ids=["iterator", "generator", "pipe"],
)
@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h1_what_is_gone_after_one_reading_is_sent_once(lib, make) -> None:
    with RawServer(reply(503), reply(200)) as server, resilient(lib.Client(), retrying()) as client:
        assert client.put(server.url, content=make()).status_code == 503
        assert [seen.body for seen in server.seen] == [b"ab"]


@pytest.mark.parametrize(
    "make", [lambda: [b"b", b"c"], lambda: io.BytesIO(b"bc")], ids=["list", "file that can be wound back"]
)
@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h1_what_can_be_read_twice_is_sent_again(lib, make) -> None:
    with (
        RawServer(reply(503), reply(503), reply(200)) as server,
        resilient(lib.Client(), retrying()) as client,
    ):
        assert client.put(server.url, content=make()).status_code == 200
        assert [seen.body for seen in server.seen] == [b"bc"] * 3


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h1_a_file_is_wound_back_to_where_it_stood(lib) -> None:
    file = io.BytesIO(b"abc")
    file.read(1)
    with RawServer(reply(503), reply(200)) as server, resilient(lib.Client(), retrying()) as client:
        headers = {"Content-Length": "2"}
        assert client.put(server.url, content=file, headers=headers).status_code == 200
        assert [seen.body for seen in server.seen] == [b"bc"] * 2
    assert not file.closed


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h1_a_multipart_upload_of_a_pipe_is_sent_once(lib) -> None:
    with RawServer(reply(503), reply(200)) as server, resilient(lib.Client(), retrying()) as client:
        assert client.put(server.url, files={"f": OneWay(b"ab")}).status_code == 503
        assert len(server.seen) == 1


def test_h1_a_stream_of_ones_own_is_replayed_if_it_says_so(web) -> None:
    class Numbers(web.lib.SyncByteStream, web.lib.AsyncByteStream):
        def __iter__(self):
            yield from (b"1", b"2")

        async def __aiter__(self):
            for chunk in self:
                yield chunk

    class Replayable(Numbers):
        replayable = True

    async def body():
        with RawServer(reply(503), reply(503), reply(200)) as server:
            async with web.client(retrying()) as client:
                for stream in (Numbers(), Replayable()):
                    headers = {"Content-Length": "2", "Host": "here"}
                    request = web.lib.Request("PUT", server.url, stream=stream, headers=headers)
                    await client.send(request)
            assert [seen.body for seen in server.seen] == [b"12"] * 3

    web.runtime.run(body)


def test_h1_a_generator_that_nobody_has_begun_to_read_is_tried_again(web) -> None:
    async def body():
        retry = retrying()
        async with web.client(retry) as client:
            with pytest.raises(web.lib.ConnectError):
                await client.request("POST", f"http://127.0.0.1:{closed_port()}", content=web.body([b"a"]))
        assert retry.retries == 2

    web.runtime.run(body)


def test_h2_no_test_here_uses_a_mock_transport() -> None:
    folder = Path(__file__).parent
    assert not [path.name for path in folder.glob("*http*.py") if "Mock" + "Transport" in path.read_text()]


def test_h3_a_discarded_response_leaves_its_connection_to_the_next_attempt(web) -> None:
    async def body():
        limits = web.lib.Limits(max_connections=1)
        chunked = reply(503, b"3\r\nabc\r\n0\r\n\r\n", Transfer_Encoding="chunked")
        with RawServer(reply(503, b"a" * 60_000), chunked, reply(200)) as server:
            patient = {"drain_seconds": 30.0}
            async with web.client(retrying(), limits=limits, timeout=30.0, settings=patient) as client:
                assert (await client.get(server.url)).status_code == 200
                assert (len(client.pool), client.busy) == (1, 0)
            assert server.connections == 1

    web.runtime.run(body)


@pytest.mark.parametrize(
    "answer",
    [
        reply(503, b"a" * 300_000),
        then(reply(503, b"a", Content_Length="60000")),
        then(reply(503, b"", Transfer_Encoding="chunked"), *[b"1\r\na\r\n", 0.04] * 1000, close=True),
        then(reply(503, b"", Transfer_Encoding="chunked"), b"20000\r\n" + b"a" * 131_072 + b"\r\n0\r\n\r\n"),
        then(reply(503, b"a", Content_Length="9"), 0.02, reset),
        then(reply(503, b"zz\r\n", Transfer_Encoding="chunked")),
    ],
    ids=["large", "stalled", "dripping", "large in chunks", "reset", "garbage"],
)
def test_h3_a_discarded_response_is_drained_within_bounds(web, answer) -> None:
    async def body():
        limits = web.lib.Limits(max_connections=1)
        with RawServer(answer, reply(200)) as server:
            async with web.client(retrying(), limits=limits, timeout=40.0) as client:
                assert (await client.get(server.url)).status_code == 200
                assert (len(client.pool), client.busy) == (1, 0)
            first, second = server.seen
            assert second.at - first.at < 15.0  # without a bound it would be forty
            assert server.connections == 2

    web.runtime.run(body)


def test_h3_nothing_is_drained_if_nothing_may_be(web) -> None:
    async def body():
        with RawServer(reply(503, b"abc"), reply(200)) as server:
            async with web.client(retrying(), settings={"drain_seconds": 0}) as client:
                assert (await client.get(server.url)).status_code == 200
            assert server.connections == 2

    web.runtime.run(body)


def test_h4_a_body_that_breaks_reaches_the_policies(web) -> None:
    async def body():
        slots = Slots(limit=1)
        with RawServer(then(reply(200, b"ab", Content_Length="9"), 0.05, reset)) as server:
            async with web.client(Pipeline("h", retrying(), slots)) as client:
                async with client.stream("GET", server.url) as response:
                    assert slots.used == 1
                    with pytest.raises(web.lib.ReadError):
                        await web.read(response)
                assert (slots.used, slots.verdicts, client.busy) == (0, [Verdict.BAD], 0)
            assert len(server.seen) == 1  # what was handed over is not asked for again

    web.runtime.run(body)


def test_h4_a_function_that_reads_the_body_may_be_retried_as_a_whole(web) -> None:
    async def body():
        retry = retrying(classify=http_verdict)
        broken = then(reply(200, b"ab", Content_Length="9"), 0.02, reset)
        with RawServer(broken, reply(200, b"whole")) as server:
            async with web.client(Slots()) as client:
                fetch = web.runtime.wrap(retry, lambda: client.get(server.url))
                assert (await fetch()).content == b"whole"
            assert len(server.seen) == 2

    web.runtime.run(body)


@pytest.mark.parametrize("first", ["alias", "integration"])
def test_h5_httpx2_may_go_by_the_name_of_httpx(first) -> None:
    steps = {
        "alias": "import httpx2; httpx2.alias_httpx()",
        "integration": "from resilience.integrations.httpx import ResilientTransport, http_verdict, resilient",
    }
    script = "\n".join(
        [
            *sorted(steps.values(), key=lambda step: step != steps[first]),
            "import httpx",
            "from resilience import Retry, Outcome, CallContext",
            "assert httpx.Client is httpx2.Client",
            "outcome = Outcome(error=httpx.ConnectError('a'))",
            "http_verdict(outcome, CallContext())",
            "assert outcome.unsent",
            "with resilient(httpx.Client(), Retry(attempts=1)) as client:",
            "    try: client.get('http://127.0.0.1:1')",
            "    except httpx2.ConnectError: print('right')",
        ]
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "right", result.stderr


def test_h5_both_libraries_are_judged_side_by_side() -> None:
    for lib in (httpx, httpx2):
        outcome = Outcome(error=lib.ConnectTimeout("slow"))
        assert (http_verdict(outcome, CallContext()), outcome.unsent) == (Verdict.TIMED_OUT, True)


def test_h6_an_upgraded_connection_is_handed_over_untouched(web) -> None:
    async def body():
        limiter = ConcurrencyLimiter(limit=1)
        switch = then(reply(101, Upgrade="chat", Connection="Upgrade"), b"hello", 0.2, close=True)
        with RawServer(switch) as server:
            async with web.client(Pipeline("h", retrying(), limiter)) as client:
                headers = {"Upgrade": "chat", "Connection": "Upgrade"}
                async with client.stream("GET", server.url, headers=headers) as response:
                    assert (response.status_code, limiter.inflight) == (101, 1)
                    network = response.extensions["network_stream"]
                    assert await web.do(network, "read", "read", 5) == b"hello"
                assert (limiter.inflight, client.busy) == (0, 0)
            assert len(server.seen) == 1

    web.runtime.run(body)


def test_h7_a_body_that_drips_ends_with_the_callers_deadline(web) -> None:
    async def body():
        drip = then(reply(200, b"", Content_Length="100"), *[b"a", 0.05] * 40)
        slots = Slots(limit=1)
        with RawServer(drip) as server:
            async with web.client(slots) as client:
                with deadline(0.3), pytest.raises(DeadlineExceededError):
                    await client.get(server.url)
                assert (slots.used, slots.verdicts, client.busy) == (0, [Verdict.TIMED_OUT], 0)

    web.runtime.run(body)


def test_h7_a_server_that_says_nothing_costs_no_more_than_the_deadline(web) -> None:
    async def body():
        with RawServer(then(1.0, close=True)) as server:
            async with web.client(retrying(), timeout=30.0) as client:
                began = time.monotonic()
                with deadline(0.2), pytest.raises(DeadlineExceededError):
                    await client.get(server.url)
                assert time.monotonic() - began < 0.8
                assert client.busy == 0

    web.runtime.run(body)


def test_h7_the_timeouts_of_the_request_itself_stay_as_they_are(web) -> None:
    async def body():
        with RawServer(reply(503), reply(200)) as server:
            async with web.client(Pipeline("h", retrying(), Timeout(0.5))) as client:
                request = client.inner.build_request("GET", server.url, timeout=7.0)
                given = request.extensions["timeout"]
                await client.send(request)
                assert given == dict.fromkeys(("connect", "read", "write", "pool"), 7.0)
                assert request.extensions["timeout"] is given
                assert "x-request-timeout" not in request.headers

    web.runtime.run(body)


def test_h7_the_timeout_of_an_attempt_does_not_shorten_the_reads_of_the_body(web) -> None:
    async def body():
        with RawServer(then(reply(200, b"a", Content_Length="2"), 0.5, b"b")) as server:
            async with web.client(Timeout(0.25)) as client:
                assert (await client.get(server.url)).content == b"ab"

    web.runtime.run(body)


def test_h8_each_hop_is_a_call_of_its_own_with_the_callers_key_and_its_own_headers(web) -> None:
    async def body():
        retry = retrying(3)
        answers = [reply(307, Location="/next"), reply(503), reply(503), reply(200)]
        with RawServer(*answers) as server, deadline(5.0):
            async with web.client(retry, follow_redirects=True) as client:
                headers = {"Idempotency-Key": "k"}
                response = await client.request("POST", server.url, content=b"abc", headers=headers)
            assert (response.status_code, len(response.history)) == (200, 1)
            assert [seen.path for seen in server.seen] == ["/", "/next", "/next", "/next"]
            assert {(seen.body, seen.headers["idempotency-key"]) for seen in server.seen} == {(b"abc", "k")}
            left = [decode_timeout(seen.headers["x-request-timeout"]) for seen in server.seen]
            assert left == sorted(left, reverse=True)
            assert len(set(left)) == 4
        assert (retry.calls, retry.retries) == (2, 2)

    web.runtime.run(body)


def test_h8_hops_pay_from_one_budget(web) -> None:
    async def body():
        budget = RetryBudget.ratio(0.01, min_per_second=0.1)
        answers = [reply(503), reply(307, Location="/next"), reply(503)]
        with RawServer(*answers) as server:
            retry = Retry(attempts=20, backoff=constant(0.0), budget=budget)
            async with web.client(retry, follow_redirects=True) as client:
                assert (await client.get(server.url)).status_code == 503
            assert 4 <= len(server.seen) < 8
        assert retry.stops["budget_exhausted"] == 1

    web.runtime.run(body)


def test_h8_both_legs_of_an_authentication_pass(web) -> None:
    async def body():
        slots = Slots()
        challenge = 'Digest realm="a", nonce="b", qop="auth", algorithm=MD5'
        with RawServer(reply(401, b"no", WWW_Authenticate=challenge), reply(503), reply(200)) as server:
            async with web.client(Pipeline("h", retrying(), slots)) as client:
                auth = web.lib.DigestAuth("me", "secret")
                headers = {"Idempotency-Key": "k"}
                response = await client.request("POST", server.url, content=b"a", auth=auth, headers=headers)
                assert (response.status_code, client.busy) == (200, 0)
            assert ["authorization" in seen.headers for seen in server.seen] == [False, True, True]
            assert {(seen.body, seen.headers["idempotency-key"]) for seen in server.seen} == {(b"a", "k")}
        assert slots.verdicts == [Verdict.GOOD, Verdict.BAD, Verdict.GOOD]

    web.runtime.run(body)


def test_h9_a_transport_that_retries_inside_a_retry_is_warned_of(web) -> None:
    kind = AsyncResilientTransport if web.is_async else ResilientTransport
    with pytest.warns(ConfigWarning, match="connects up to 3 times in every attempt"):
        kind(retrying(), wrapped=web.transport(retries=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(Timeout(1.0), wrapped=web.transport(retries=2))
        kind(retrying(), wrapped=web.transport())


def test_h9_the_warning_points_at_the_line_that_wraps(web) -> None:
    kind = AsyncResilientTransport if web.is_async else ResilientTransport
    client = (web.lib.AsyncClient if web.is_async else web.lib.Client)(transport=web.transport(retries=2))
    with pytest.warns(ConfigWarning) as around_a_transport:
        kind(retrying(), wrapped=web.transport(retries=2))
    with pytest.warns(ConfigWarning) as around_a_client:
        resilient(client, retrying())
    assert {warning.filename for warning in (*around_a_transport, *around_a_client)} == {__file__}


def test_h10_proxies_of_the_environment_and_mounts_stay_and_are_guarded(web, monkeypatch) -> None:
    async def body():
        with RawServer(reply(503), reply(200, b"proxy")) as proxy, RawServer(reply(503), reply(200)) as other:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.delenv("NO_PROXY", raising=False)
            monkeypatch.delenv("no_proxy", raising=False)
            mounts = {"http://127.0.0.1": web.transport(), "http://none": None}
            async with web.client(retrying(), trust_env=True, mounts=mounts) as client:
                assert (await client.get("http://inventory.test/a")).content == b"proxy"
                assert (await client.get(other.url)).status_code == 200
            assert [seen.path for seen in proxy.seen] == ["http://inventory.test/a"] * 2
            assert len(other.seen) == 2

    web.runtime.run(body)


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h11_a_transport_of_the_other_colour_is_refused(lib) -> None:
    with pytest.raises(ConfigError, match="must be a sync transport"):
        ResilientTransport(retrying(), wrapped=lib.AsyncHTTPTransport())
    with pytest.raises(ConfigError, match="must be an async transport"):
        AsyncResilientTransport(retrying(), wrapped=lib.HTTPTransport())
    with pytest.raises(ConfigError, match="must be a sync transport"):
        ResilientTransport(retrying(), wrapped=ResilientTransport(retrying(), wrapped=lib.HTTPTransport()))


def test_h11_a_client_of_the_other_colour_says_which_to_use(web) -> None:
    async def body():
        other, rule = (
            (ResilientTransport(retrying(), wrapped=web.lib.HTTPTransport()), "use AsyncResilientTransport")
            if web.is_async
            else (
                AsyncResilientTransport(retrying(), wrapped=web.lib.AsyncHTTPTransport()),
                "use ResilientTransport",
            )
        )
        client = web.bare(transport=other)
        with pytest.raises(TypeError, match=rule):
            await web.do(client, "get", "get", "http://127.0.0.1")
        with pytest.raises(TypeError, match=rule):
            await web.do(web.bare(transport=other), "__aenter__", "__enter__")

    web.runtime.run(body)


def test_h12_a_delay_between_attempts_is_slept_in_every_runtime(web) -> None:
    async def body():
        retry = Retry(attempts=2, backoff=constant(0.1), budget=None)
        with RawServer(reply(503), reply(200)) as server:
            async with web.client(retry) as client:
                assert (await client.get(server.url)).status_code == 200
            first, second = server.seen
            assert second.at - first.at >= 0.1

    web.runtime.run(body)


def test_h13_a_retry_after_beyond_the_deadline_is_not_waited_for_and_nothing_is_sent_early(web) -> None:
    async def body():
        retry = retrying(retry_after_window=None)
        with RawServer(reply(503, b"later", Retry_After="3600"), reply(200)) as server:
            async with web.client(retry) as client:
                with deadline(5.0):
                    response = await client.get(server.url)
            assert (response.status_code, response.content) == (503, b"later")
            assert len(server.seen) == 1
        assert retry.stops["deadline_exceeded"] == 1

    web.runtime.run(body)


def test_h13_a_retry_after_beyond_the_window_is_not_cut_short_and_nothing_is_sent_early(web) -> None:
    async def body():
        retry = retrying()
        with RawServer(reply(503, b"later", Retry_After="3600"), reply(200)) as server:
            async with web.client(retry) as client:
                response = await client.get(server.url)
            assert (response.status_code, response.content) == (503, b"later")
            assert len(server.seen) == 1

    web.runtime.run(body)


def test_h13_a_retry_after_within_the_deadline_is_waited_for(web) -> None:
    async def body():
        with RawServer(reply(429, Retry_After="0.3"), reply(200)) as server:
            async with web.client(retrying()) as client:
                with deadline(5.0):
                    assert (await client.get(server.url)).status_code == 200
            first, second = server.seen
            assert second.at - first.at >= 0.3

    web.runtime.run(body)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("-1", None),
        ("1e9", None),
        ("soon", None),
        ("", None),
        ("\u0661\u0662", None),
        ("Sun, 06 Nov 1994 08:49:40 GMT", 3.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:40", None),
    ],
)
@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h14_retry_after_is_read_strictly_and_by_the_servers_own_clock(lib, text, seconds) -> None:
    headers = [(b"Date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"Retry-After", text.encode())]
    outcome = Outcome(lib.Response(429, headers=headers))
    assert http_verdict(outcome, CallContext()) is Verdict.THROTTLED
    assert outcome.retry_after == seconds


def test_h15_cancelled_at_any_await_it_leaves_no_connection_and_no_slot_behind(web) -> None:
    if not web.runtime.cancels:
        pytest.skip("threads cannot be cancelled")

    def is_cancelled(error):
        # Where a connection is made, anyio's task group is around it.
        if isinstance(error, BaseExceptionGroup):
            return error.split(web.runtime.cancelled)[1] is None
        return isinstance(error, web.runtime.cancelled)

    # httpcore 1.0 itself leaves a connection behind if an asyncio task is cancelled at the wrong moment.
    loses_some = web.lib is httpx and web.runtime.name == "asyncio"

    async def body():
        slots = Slots(limit=5)
        pipeline = Pipeline("h", Timeout(5.0), Retry(attempts=3, backoff=constant(0.002), budget=None), slots)
        answers = [reply(503, b"a" * 1000), then(reply(200, b"ab", Content_Length="4"), 0.002, b"cd")]
        ended = 0
        with RawServer(*answers * 500) as server:
            async with web.client(pipeline, limits=web.lib.Limits(max_connections=70)) as client:
                for steps in range(60):
                    job = web.runtime.spawn(client.get, server.url)
                    for _ in range(steps):
                        await web.runtime.sleep(0 if steps % 2 else 0.0005)
                    web.runtime.cancel(job)
                    await job.join()
                    ended += job.error is None
                    assert job.error is None or is_cancelled(job.error)
                    assert slots.used == 0, steps
                    assert client.busy == 0 or loses_some, steps
                assert (await client.get(server.url)).status_code in {200, 503}
        assert ended < 60
        assert Verdict.TIMED_OUT not in slots.verdicts

    web.runtime.run(body)


def test_h15_cancelled_while_the_body_is_read_it_leaves_no_connection_and_no_slot_behind(web) -> None:
    if not web.runtime.cancels:
        pytest.skip("threads cannot be cancelled")

    async def body():
        slots = Slots(limit=1)
        with RawServer(then(reply(200, b"ab", Content_Length="4"), 1.0)) as server:
            async with web.client(slots) as client:
                job = web.runtime.spawn(client.get, server.url)
                await web.runtime.until(lambda: slots.used == 1 and len(server.seen) == 1)
                await web.runtime.sleep(0.05)
                web.runtime.cancel(job)
                await job.join()
                assert (slots.used, slots.verdicts, slots.released, client.busy) == (0, [], 1, 0)

    web.runtime.run(body)


def test_h16_closing_the_client_closes_the_transport_inside_also_twice(web) -> None:
    async def body():
        with RawServer(reply(200, b"a")) as server:
            client = web.client(retrying())
            async with client:
                await client.get(server.url)
                assert len(client.pool) == 1
            assert client.pool == []
            await web.do(client.inner._transport, "aclose", "close")
            assert client.pool == []

    web.runtime.run(body)


def test_h17_the_response_is_as_without_policies(web) -> None:
    async def body():
        with RawServer(
            reply(302, Location="/b", Set_Cookie="a=1"), reply(503), reply(200, b"body")
        ) as server:
            async with web.client(retrying(), follow_redirects=True) as client:
                response = await client.get(server.url)
                assert response.request.url.path == "/b"
                assert [str(each.request.url.path) for each in response.history] == ["/"]
                assert (response.content, response.http_version) == (b"body", "HTTP/1.1")
                assert response.elapsed.total_seconds() > 0
                assert (response.is_closed, response.is_stream_consumed) == (True, True)
                assert client.inner.cookies["a"] == "1"
                assert response.num_bytes_downloaded == 4

    web.runtime.run(body)


def test_h18_the_hedge_of_a_slow_request_wins_and_the_loser_leaves_nothing_behind(web) -> None:
    async def body():
        slots, answered = Slots(), threading.Event()
        with RawServer(when(answered.is_set, reply(200, b"slow")), reply(200, b"fast")) as server:
            async with web.client(Pipeline("h", hedging(), slots), timeout=30.0) as client:
                assert (await client.request("PUT", server.url, content=b"abc")).content == b"fast"
                answered.set()
                await web.runtime.until(lambda: slots.used == 0 and client.busy == 0)
            assert [seen.body for seen in server.seen] == [b"abc", b"abc"]

    web.runtime.run(body)


def test_h18_a_conflict_answered_to_the_second_is_not_the_answer(web) -> None:
    async def attempt(seconds):
        slots = Slots()

        def is_later():
            return len(server.seen) > 1 and time.monotonic() > server.seen[1].at + seconds

        with RawServer(when(is_later, reply(201, b"made")), reply(409, Retry_After="1")) as server:
            async with web.client(Pipeline("h", hedging(), slots), timeout=30.0) as client:
                headers = {"Idempotency-Key": "k"}
                response = await client.request("POST", server.url, content=b"a", headers=headers)
                assert (response.status_code, response.content) == (201, b"made")
                await web.runtime.until(lambda: slots.used == 0 and client.busy == 0)
            assert [seen.headers["idempotency-key"] for seen in server.seen] == ["k", "k"]
        assert sorted(verdict.value for verdict in slots.verdicts) == ["good", "throttled"]

    web.runtime.run(lambda: at_some_pace(attempt))


def test_h18_a_retry_that_meets_its_own_first_attempt_waits_and_asks_again(web) -> None:
    async def attempt(seconds):
        answers = [then(30.0, close=True), reply(409, Retry_After="0"), reply(201, b"made")]
        with RawServer(*answers) as server:
            async with web.client(retrying(), timeout=seconds) as client:
                headers = {"Idempotency-Key": "k"}
                response = await client.request("POST", server.url, content=b"a", headers=headers)
            assert (response.status_code, len(server.seen)) == (201, 3)

    web.runtime.run(lambda: at_some_pace(attempt))


def test_h18_what_must_not_be_repeated_or_cannot_be_is_not_hedged(web) -> None:
    async def body():
        with RawServer(then(0.15, reply(200))) as server:
            async with web.client(hedging()) as client:
                await client.request("POST", server.url, content=b"a")
                await client.request("PUT", server.url, content=web.body([b"a"]))
            assert len(server.seen) == 2

    web.runtime.run(body)


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_h18_a_file_is_never_read_by_two_attempts_at_once(lib) -> None:
    with (
        RawServer(then(0.15, reply(200))) as server,
        resilient(lib.Client(), hedging(after=0.05)) as client,
    ):
        assert client.put(server.url, files={"f": io.BytesIO(b"abc")}).status_code == 200
        assert len(server.seen) == 1


# The library leaves the generator suspended when sending fails, and trio complains of that.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
def test_h19_a_generator_is_not_cut_off_when_an_idle_connection_turns_out_to_be_closed(web) -> None:
    async def body():
        with RawServer(then(reply(200), close=True), reset, reply(200)) as server:
            async with web.client(retrying()) as client:
                await client.get(server.url)
                with pytest.raises(web.lib.TransportError):
                    await client.request("POST", server.url, content=web.body([b"a", b"b"]))
            # Whether the request came as far as the server depends on when the end of the connection did.
            assert [seen.body for seen in server.seen[1:]] in ([], [b"ab"])

    web.runtime.run(body)


# --- HTTP/2 ---


def http2(web, policy):
    return web.client(policy, transport=web.transport(http1=False, http2=True))


def test_http_2_works_as_http_1_does(web) -> None:
    async def body():
        slots = Slots()
        with H2Server(503, 200) as server:
            async with http2(web, Pipeline("h", retrying(), slots)) as client:
                response = await client.request("PUT", server.url, content=b"abc")
                assert (response.status_code, response.http_version) == (200, "HTTP/2")
            assert server.seen == [("PUT", b"abc")] * 2
            assert server.connections == 1
        assert slots.verdicts == [Verdict.BAD, Verdict.GOOD]

    web.runtime.run(body)


@pytest.mark.parametrize("answer", ["refuse", "goaway"])
def test_a_post_that_an_http_2_server_has_not_looked_at_is_sent_again(web, answer) -> None:
    async def body():
        with H2Server(answer, 200) as server:
            async with http2(web, retrying()) as client:
                assert (await client.request("POST", server.url, content=b"abc")).status_code == 200
            assert server.seen == [("POST", b"abc")] * 2

    web.runtime.run(body)


def test_a_generator_that_an_http_2_server_refused_is_gone(web) -> None:
    async def body():
        with H2Server("refuse", 200) as server:
            async with http2(web, retrying()) as client:
                with pytest.raises(web.lib.RemoteProtocolError):
                    await client.request("POST", server.url, content=web.body([b"abc"]))
            assert len(server.seen) == 1

    web.runtime.run(body)


def test_an_http_2_stream_that_is_reset_in_the_body_counts_as_bad(web) -> None:
    async def body():
        slots = Slots()
        with H2Server("break") as server:
            async with http2(web, Pipeline("h", retrying(), slots)) as client:
                with pytest.raises(web.lib.RemoteProtocolError):
                    await client.get(server.url)
            assert len(server.seen) == 1
        assert (slots.used, slots.verdicts) == (0, [Verdict.BAD])

    web.runtime.run(body)


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=lambda lib: lib.__name__)
def test_a_body_that_cannot_be_sent_again_yet_is_a_refusal_that_nobody_sees(lib) -> None:
    with RawServer(then(0.1, reply(200))) as server:
        hedge = Hedge(after=0.02, idempotent=lambda context: True, budget=RetryBudget.ratio(1.0))
        with resilient(lib.Client(), hedge) as client:
            assert client.put(server.url, content=(part for part in [b"a"])).status_code == 200
        assert len(server.seen) == 1
        assert hedge.hedges == 1
