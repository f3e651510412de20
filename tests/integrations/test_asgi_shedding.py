"""Who is let in, who is refused, how long a place is held, and what a limit learns."""

import json

import pytest

from resilience import ConcurrencyLimiter, ConfigError, Priority, current_priority
from resilience.integrations.asgi import LoadSheddingMiddleware
from resilience.rates import parse_ratelimit

from .asgi_server import Exchange, answer, answering, begin, end


class Recorder:
    """A limit that never changes, and remembers what it is told."""

    limit, window, quantile = 1, 0.0, None

    def __init__(self):
        self.samples = []

    def on_sample(self, sample):
        self.samples.append(sample)
        return self.limit


def busy(runtime, inside, limiter=None, afterwards=None, **settings):
    """Run *inside* with a layer whose only place is taken by a request that waits for its end."""
    limiter = limiter or ConcurrencyLimiter("requests", limit=1)

    async def body():
        gate, begun = runtime.event(), []

        async def app(scope, receive, send):
            begun.append(scope["path"])
            if scope["path"] == "/slow":
                await gate.wait()
            await answer(send)

        layer = LoadSheddingMiddleware(app, limiter, **settings)
        slow = runtime.spawn(lambda: Exchange(runtime, "/slow").run(layer))
        await runtime.until(lambda: begun)
        await inside(layer, begun)
        gate.set()
        assert (await slow).status == 200
        if afterwards is not None:
            await afterwards()
        assert limiter.is_idle

    runtime.run(body)


def test_a_request_over_the_limit_is_told_when_to_come_back(async_runtime):
    async def inside(layer, begun):
        exchange = await Exchange(async_runtime).run(layer)
        assert begun == ["/slow"]
        assert exchange.status == 503
        assert exchange.headers["content-type"] == "application/problem+json"
        problem = json.loads(exchange.body)
        assert (problem["type"], problem["status"]) == ("https://example.com/busy", 503)
        fields = parse_ratelimit(exchange.headers)
        assert fields.retry_after == 3
        (limit,), (policy,) = fields.limits, fields.policies
        assert (limit.name, limit.remaining, limit.reset_after) == ("requests", 0, 3)
        assert (policy.name, policy.quota, policy.unit) == ("requests", 1, "concurrent-requests")

    busy(async_runtime, inside, retry_after=2.1, problem_type="https://example.com/busy")


def test_a_name_that_no_header_could_hold_is_made_fit(async_runtime):
    async def inside(layer, begun):
        exchange = await Exchange(async_runtime).run(layer)
        assert exchange.headers["ratelimit"] == '"a\\"b\\\\c__";r=0;t=1'

    busy(async_runtime, inside, ConcurrencyLimiter('a"b\\cé\n', limit=1))


def test_an_exempt_path_is_always_let_in(async_runtime):
    async def inside(layer, begun):
        assert (await Exchange(async_runtime, "/healthz").run(layer)).status == 200
        assert (await Exchange(async_runtime, "/healthz/deep").run(layer)).status == 503

    busy(async_runtime, inside, exempt=["/healthz"])


def test_a_limiter_with_a_queue_lets_requests_wait(async_runtime):
    limiter = ConcurrencyLimiter("requests", limit=1, max_queue=1, max_wait=20.0)
    waiting = []

    async def inside(layer, begun):
        waiting.append(async_runtime.spawn(lambda: Exchange(async_runtime, "/waits").run(layer)))
        await async_runtime.until(lambda: limiter.queued == 1)
        assert (await Exchange(async_runtime).run(layer)).status == 503
        assert begun == ["/slow"]

    async def afterwards():
        assert (await waiting[0]).status == 200

    busy(async_runtime, inside, limiter, afterwards)


def test_a_cancelled_request_in_the_queue_leaves_nothing(async_runtime):
    limiter = ConcurrencyLimiter("requests", limit=1, max_queue=1, max_wait=20.0)

    async def inside(layer, begun):
        job = async_runtime.spawn(lambda: Exchange(async_runtime, "/waits").run(layer))
        await async_runtime.until(lambda: limiter.queued == 1)
        job.cancel()
        await job.join()
        assert limiter.queued == 0

    busy(async_runtime, inside, limiter)


def held(runtime, app, limiter=None, error=None, cancel=False):
    """Run one request; return how many places were taken at each look of the application."""
    limiter = limiter or ConcurrencyLimiter("requests", limit=5)
    seen = []

    async def looking(scope, receive, send):
        await app(send, lambda: seen.append(limiter.inflight))

    async def body():
        exchange = Exchange(runtime)
        job = runtime.spawn(lambda: exchange.run(LoadSheddingMiddleware(looking, limiter)))
        if cancel:
            await runtime.until(lambda: seen)
            job.cancel()
        await job.join()
        if error is not None:
            assert isinstance(job.error, error)
        elif not cancel:
            assert job.error is None
        assert limiter.is_idle
        assert len([message for message in exchange.sent if message["type"] == "http.response.start"]) <= 1

    runtime.run(body)
    return seen


def test_a_place_is_held_until_the_answer_ends_and_not_for_the_background(async_runtime):
    async def app(send, look):
        look()
        await begin(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        look()
        await end(send)
        look()

    assert held(async_runtime, app) == [1, 1, 0]


@pytest.mark.parametrize("begins", [False, True])
def test_an_error_gives_the_place_back(async_runtime, begins):
    async def app(send, look):
        if begins:
            await begin(send)
        look()
        raise KeyError

    assert held(async_runtime, app, error=KeyError) == [1]


@pytest.mark.parametrize("stage", ["before", "between", "after"])
def test_a_cancellation_gives_the_place_back(async_runtime, stage):
    async def app(send, look):
        if stage != "before":
            await begin(send)
        if stage == "after":
            await end(send)
        look()
        await async_runtime.sleep(60)

    assert held(async_runtime, app, cancel=True) == [0 if stage == "after" else 1]


def samples(runtime, app, error=None):
    limit = Recorder()
    limiter = ConcurrencyLimiter("requests", limit=limit)
    held(runtime, lambda send, look: app(send), limiter, error=error)
    return limit.samples


@pytest.mark.parametrize(
    ("status", "counts"), [(200, (1, 0, 0)), (404, (1, 0, 0)), (503, (0, 1, 0)), (504, (0, 0, 1))]
)
def test_answers_that_tell_of_the_load_teach_the_limit(async_runtime, status, counts):
    (sample,) = samples(async_runtime, lambda send: answer(send, status))
    assert (sample.good, sample.throttled, sample.timed_out, sample.bad) == (*counts, 0)


async def streamed(send):
    await begin(send)
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    await end(send)


async def broken(send):
    raise KeyError


@pytest.mark.parametrize(
    ("app", "error"), [(lambda send: answer(send, 500), None), (streamed, None), (broken, KeyError)]
)
def test_answers_that_tell_nothing_of_the_load_teach_nothing(async_runtime, app, error):
    assert samples(async_runtime, app, error) == []


def test_a_limit_that_fails_to_learn_does_not_break_the_request(async_runtime):
    class Broken(Recorder):
        def on_sample(self, sample):
            raise ArithmeticError

    limiter = ConcurrencyLimiter("requests", limit=Broken())
    seen = held(async_runtime, lambda send, look: answer(send), limiter)
    assert seen == []
    assert limiter.is_idle


def test_a_refusal_is_no_sample(async_runtime):
    limit = Recorder()

    async def inside(layer, begun):
        for _ in range(5):
            assert (await Exchange(async_runtime).run(layer)).status == 503
        assert limit.samples == []

    busy(async_runtime, inside, ConcurrencyLimiter("requests", limit=limit))


@pytest.mark.parametrize(
    ("said", "highest", "got"),
    [
        (None, Priority.NORMAL, Priority.NORMAL),
        ("sheddable", Priority.NORMAL, Priority.SHEDDABLE),
        ("LOW", Priority.NORMAL, Priority.LOW),
        ("critical", Priority.NORMAL, Priority.NORMAL),
        ("critical", Priority.HIGH, Priority.HIGH),
        ("critical", Priority.CRITICAL, Priority.CRITICAL),
        ("urgent", Priority.CRITICAL, Priority.NORMAL),
    ],
)
def test_a_request_is_as_important_as_it_says_up_to_what_is_granted(async_runtime, said, highest, got):
    seen = []

    async def app(scope, receive, send):
        seen.append(current_priority())
        await answer(send)

    async def body():
        layer = LoadSheddingMiddleware(app, ConcurrencyLimiter("requests", limit=1), highest=highest)
        await Exchange(async_runtime, headers={} if said is None else {"X-Request-Priority": said}).run(layer)
        assert current_priority() is Priority.NORMAL

    async_runtime.run(body)
    assert seen == [got]


@pytest.mark.parametrize(
    ("said", "got"),
    [
        ([b"critical", b"low"], Priority.LOW),
        ([b"low", b"critical"], Priority.LOW),
        ([b"critical", b"junk"], Priority.CRITICAL),
        ([b"junk", b"high"], Priority.HIGH),
        ([b"", b"\xff"], Priority.NORMAL),
    ],
)
def test_of_several_words_the_one_that_says_least_counts(async_runtime, said, got):
    seen = []

    async def app(scope, receive, send):
        seen.append(current_priority())

    async def body():
        limiter = ConcurrencyLimiter("requests", limit=1)
        scope = {"type": "http", "path": "/", "headers": [(b"x-request-priority", word) for word in said]}
        await LoadSheddingMiddleware(app, limiter, highest=Priority.CRITICAL)(scope, None, None)

    async_runtime.run(body)
    assert seen == [got]


def test_nobody_is_asked_without_a_header(async_runtime):
    seen = []

    async def app(scope, receive, send):
        seen.append(current_priority())

    async def body():
        layer = LoadSheddingMiddleware(app, ConcurrencyLimiter("requests", limit=1), priority_header=None)
        await Exchange(async_runtime, headers={"X-Request-Priority": "low"}).run(layer)

    async_runtime.run(body)
    assert seen == [Priority.NORMAL]


def test_shares_are_kept_for_the_more_important(async_runtime):
    limiter = ConcurrencyLimiter("requests", limit=2, shares={Priority.HIGH: 0.5})

    async def body():
        gate, begun = async_runtime.event(), []

        async def app(scope, receive, send):
            begun.append(current_priority())
            await gate.wait()
            await answer(send)

        layer = LoadSheddingMiddleware(app, limiter, highest=Priority.HIGH)

        def ask(said):
            return async_runtime.spawn(
                lambda: Exchange(async_runtime, headers={"X-Request-Priority": said}).run(layer)
            )

        jobs = [ask("low"), ask("low")]
        await async_runtime.until(lambda: len(begun) == 2)
        assert (await ask("low")).status == 503
        jobs.append(ask("high"))
        await async_runtime.until(lambda: len(begun) == 3)
        gate.set()
        assert [(await job).status for job in jobs] == [200, 200, 200]

    async_runtime.run(body)
    assert limiter.is_idle


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "other"])
def test_what_is_no_request_passes_through_untouched(async_runtime, kind):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send, limiter.inflight))

    limiter = ConcurrencyLimiter("requests", limit=1)

    async def body():
        given = ({"type": kind}, object(), object())
        await LoadSheddingMiddleware(app, limiter)(*given)
        assert all(one is other for one, other in zip(seen[0], (*given, 0), strict=True))

    async_runtime.run(body)


def test_all_that_is_wrong_is_said_at_once():
    wrong = {
        "limiter": 20, "exempt": "/healthz", "priority_header": "", "highest": "low", "retry_after": 0, "problem_type": 3,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        LoadSheddingMiddleware(answering(), **wrong)
    assert [problem.setting for problem in caught.value.problems] == list(wrong)


@pytest.mark.parametrize("exempt", [None, 5, [b"/healthz"]])
def test_what_is_no_collection_of_paths_is_refused(exempt):
    with pytest.raises(ConfigError, match="exempt must be"):
        LoadSheddingMiddleware(answering(), ConcurrencyLimiter("requests", limit=1), exempt=exempt)


def test_paths_may_come_from_anything_that_can_be_gone_through_once():
    limiter = ConcurrencyLimiter("requests", limit=1)
    layer = LoadSheddingMiddleware(answering(), limiter, exempt=(path for path in ["/healthz"]))
    assert layer._exempt == {"/healthz"}


def test_a_limiter_that_wants_arguments_is_refused():
    limiter = ConcurrencyLimiter("requests", limit=1, shares={"a": 0.5}, share_of=lambda who: who)
    with pytest.raises(ConfigError, match="share_of"):
        LoadSheddingMiddleware(answering(), limiter)
