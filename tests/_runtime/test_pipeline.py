"""Several policies as one: order, names, judges, checks and reloads."""

import warnings

import pytest

from resilience._runtime.describe import explained
from resilience._runtime.pipeline import Pipeline
from resilience._runtime.policy import Traits
from resilience.errors import ConfigError, ConfigWarning
from resilience.outcome import CallContext, Outcome, Verdict
from resilience.testing import RecordedEvents, fail_times

from .dummies import Around, Tap, Turnstile, TurnstileSettings, again, through


def noting(log: list[str], word: str) -> Around:
    def flow(call, inner):
        log.append(f"{word} in")
        outcome = yield from inner(call)
        log.append(f"{word} out")
        return outcome

    return Around(flow)


def always(verdict: Verdict):
    return lambda outcome, context: verdict


# --- one after the other ---


def test_the_first_policy_is_the_outermost(runtime) -> None:
    log: list[str] = []
    pipeline = Pipeline("p", noting(log, "outer"), noting(log, "inner"))

    async def body() -> None:
        assert await runtime.call(pipeline, lambda: log.append("call") or "done") == "done"

    runtime.run(body)
    assert log == ["outer in", "inner in", "call", "inner out", "outer out"]


def test_a_pipeline_without_policies_is_just_the_call(runtime) -> None:
    async def body() -> None:
        assert await runtime.call(Pipeline("p"), lambda: 7) == 7

    runtime.run(body)


def test_an_inner_refusal_teaches_the_outer_gate_nothing(runtime) -> None:
    outer, inner = Turnstile("outer"), Turnstile("inner", limit=1)
    inner.try_acquire()

    async def body() -> None:
        with pytest.raises(inner.error):
            await runtime.call(Pipeline("p", Around(through), outer, Around(through), inner), int)

    runtime.run(body)
    assert outer.ended == ["released"]
    assert outer.inside == 0


def test_gates_are_asked_in_order_of_admission_in_every_mode(runtime) -> None:
    slot = Turnstile("slot", traits=Traits(rank=9))
    breaker = Turnstile("breaker", traits=Traits(rank=0))
    breaker.try_acquire()

    async def body() -> None:
        with pytest.raises(breaker.error):
            await runtime.call(Pipeline("p", slot, breaker), int)

    runtime.run(body)
    assert slot.changes == 0, "it was never asked"


def test_every_attempt_passes_what_is_inside(runtime, fake_clock) -> None:
    gate = Turnstile()

    async def body() -> None:
        ask = fail_times(1, ConnectionError, then="up")
        assert await runtime.call(Pipeline("p", Around(again), gate), ask) == "up"

    runtime.run(body)
    assert gate.ended == [Verdict.BAD, Verdict.GOOD]


def test_pipelines_nest(runtime) -> None:
    log: list[str] = []
    inner = Pipeline("inner", noting(log, "b"), noting(log, "c"))
    outer = Pipeline("outer", noting(log, "a"), inner, noting(log, "d"))

    async def body() -> None:
        await runtime.call(outer, lambda: log.append("call"))
        log.append("again")
        await runtime.call(outer, lambda: log.append("call"))

    runtime.run(body)
    once = ["a in", "b in", "c in", "d in", "call", "d out", "c out", "b out", "a out"]
    assert log == [*once, "again", *once]
    assert len(outer.parts) == 4


# --- names ---


def test_policies_without_a_name_take_the_pipelines() -> None:
    own, without = Turnstile("own"), Turnstile()
    Pipeline("stock", own, without)
    assert (own.name, without.name) == ("own", "stock")


def test_a_pipeline_without_a_name_takes_that_of_the_first_function() -> None:
    gate = Turnstile()
    pipeline = Pipeline(gate, Around(through))
    pipeline(test_pipelines_nest)
    assert pipeline.name == gate.name == f"{__name__}.test_pipelines_nest"


def test_an_inner_pipeline_keeps_its_name_and_hands_down_the_outer_one_if_it_has_none() -> None:
    deep, deeper = Turnstile(), Turnstile()
    Pipeline("outer", Pipeline(deep), Pipeline("own", deeper))
    assert (deep.name, deeper.name) == ("outer", "own")


# --- judges ---


def test_policies_without_a_judge_take_the_pipelines(runtime) -> None:
    own, without = Turnstile(classify=always(Verdict.TIMED_OUT)), Turnstile()
    pipeline = Pipeline("p", own, without, classify=always(Verdict.THROTTLED))
    runtime.run(lambda: runtime.call(pipeline, int))
    assert (own.ended, without.ended) == ([Verdict.TIMED_OUT], [Verdict.THROTTLED])


def test_a_pipeline_takes_on_for_all_its_policies(runtime) -> None:
    gate = Turnstile()
    pipeline = Pipeline("p", gate, on=ConnectionError)

    async def body() -> None:
        for error in (ConnectionError, KeyError):
            with pytest.raises(error):
                await runtime.call(pipeline, fail_times(1, error))

    runtime.run(body)
    assert gate.ended == [Verdict.BAD, Verdict.GOOD]


def test_an_inner_pipelines_judge_comes_before_the_outer_ones() -> None:
    inner, plain = Turnstile(), Turnstile()
    pipeline = Pipeline(
        "outer",
        Pipeline("inner", inner, classify=always(Verdict.TIMED_OUT)),
        Pipeline("plain", plain),
        classify=always(Verdict.THROTTLED),
    )
    pipeline.call(int)
    assert (inner.ended, plain.ended) == ([Verdict.TIMED_OUT], [Verdict.THROTTLED])


def test_bind_judges_in_place_of_the_pipeline() -> None:
    own, without = Turnstile(classify=always(Verdict.TIMED_OUT)), Turnstile()
    pipeline = Pipeline("p", own, without, classify=always(Verdict.BAD))
    bound = pipeline.bind(lambda: 7, classify=always(Verdict.THROTTLED))
    assert bound() == pipeline.call(int) + 7
    assert own.ended == [Verdict.TIMED_OUT] * 2
    assert without.ended == [Verdict.THROTTLED, Verdict.BAD]


def test_bind_hands_the_context_to_the_judge() -> None:
    seen = []

    def classify(outcome: Outcome, context: CallContext) -> Verdict:
        seen.append(context.operation)
        return Verdict.GOOD

    pipeline = Pipeline("p", Turnstile(), classify=classify)
    pipeline.bind(lambda n: n, context=lambda n: CallContext(operation=f"GET /{n}"))(7)
    assert seen == ["GET /7"]


# --- checks ---


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"Pipeline 'p': policies must be policies such as Retry\(\.\.\.\), got 7"
    ):
        Pipeline("p", Turnstile(), 7)


def test_every_problem_is_listed_at_once() -> None:
    gate = Turnstile()
    with pytest.raises(ConfigError) as caught:
        Pipeline("", gate, gate, Around(through, traits=Traits(races=True, budgeted=False)))
    assert [problem.setting for problem in caught.value.problems] == ["name", "policies", "budget"]


def test_the_policies_of_inner_pipelines_are_checked_with_the_others() -> None:
    retry = lambda: Around(again, traits=Traits(repeats=True))
    with pytest.raises(ConfigError, match="a retry inside a retry"):
        Pipeline("p", retry(), Pipeline("inner", retry()))


def test_a_wrong_judge_is_refused() -> None:
    with pytest.raises(ConfigError, match="on must be"):
        Pipeline("p", on=7)


def test_what_is_only_unwise_warns_where_it_is_built() -> None:
    with pytest.warns(ConfigWarning, match="p: a around inside another policy hides failures") as caught:
        Pipeline("p", Turnstile(), Around(through, traits=Traits(replaces=True)))
    assert caught[0].filename == __file__
    with pytest.warns(ConfigWarning, match="pipeline: a retry inside a hedge"):
        Pipeline(Around(through, traits=Traits(races=True)), Around(again, traits=Traits(repeats=True)))


# --- reloads ---


def test_a_reload_changes_settings_and_keeps_the_state(runtime) -> None:
    gate = Turnstile("gate", limit=3)
    pipeline = Pipeline("p", gate)

    async def body() -> None:
        fetch = runtime.wrap(pipeline, lambda: 1)
        await fetch()
        pipeline.reload(Turnstile(limit=3, max_wait=9.0))
        await fetch()

    runtime.run(body)
    assert pipeline.policies == (gate,)
    assert gate.settings == TurnstileSettings(limit=3, max_wait=9.0)
    assert gate.ended == [Verdict.GOOD] * 2
    assert gate.name == "gate"


def test_a_pipeline_cannot_become_a_part_of_itself() -> None:
    pipeline = Pipeline("p", Tap())
    for policies in ([pipeline], [Tap(), Pipeline("outer", pipeline)]):
        with pytest.raises(
            ConfigError, match=r"must not contain the pipeline itself.*reload\(\*other.policies\)"
        ):
            pipeline.reload(*policies)
    assert pipeline(lambda: 7)() == 7


def test_a_reload_adds_and_drops_policies_for_functions_guarded_before(runtime) -> None:
    log: list[str] = []
    pipeline = Pipeline("p", Turnstile("old"))

    async def body() -> None:
        fetch = runtime.wrap(pipeline, lambda: log.append("call"))
        await fetch()
        new = noting(log, "new")
        pipeline.reload(new)
        await fetch()
        assert pipeline.policies == (new,)
        assert new.name == "p"

    runtime.run(body)
    assert log == ["call", "new in", "call", "new out"]


def test_a_call_under_way_ends_as_it_began(runtime) -> None:
    gate = Turnstile()
    pipeline = Pipeline("p", gate)

    async def body() -> None:
        await runtime.call(pipeline, lambda: pipeline.reload(Tap()))
        await runtime.call(pipeline, lambda: None)

    runtime.run(body)
    assert [policy.kind for policy in pipeline.policies] == ["tap"]
    assert gate.ended == [Verdict.GOOD]
    assert gate.inside == 0


def test_policies_that_are_listed_again_stay_themselves_in_any_order() -> None:
    first, second = Turnstile("first", limit=1), Turnstile("second", limit=2)
    pipeline = Pipeline("p", first, second)
    pipeline.reload(second, first)
    assert pipeline.policies == (second, first)
    assert (first.settings.limit, second.settings.limit) == (1, 2)


def test_new_policies_are_matched_with_those_that_are_not_listed_again() -> None:
    first, second = Turnstile("first", limit=1), Turnstile("second", limit=2)
    pipeline = Pipeline("p", first, second)
    pipeline.reload(first, Turnstile(limit=5), Turnstile(limit=7))
    assert pipeline.policies[:2] == (first, second)
    assert [policy.settings.limit for policy in pipeline.policies] == [1, 5, 7]


def test_a_reload_may_change_the_judge() -> None:
    gate = Turnstile()
    pipeline = Pipeline("p", gate)
    guarded = pipeline(lambda: 1)
    guarded()
    pipeline.reload(gate, classify=always(Verdict.THROTTLED))
    guarded()
    pipeline.reload(gate)
    guarded()
    assert gate.ended == [Verdict.GOOD, Verdict.THROTTLED, Verdict.THROTTLED]


def test_a_reload_takes_the_judge_of_a_single_policy_too() -> None:
    gate = Turnstile()
    pipeline = Pipeline("p", gate)
    guarded = pipeline(lambda: 1)
    pipeline.reload(Turnstile(classify=always(Verdict.TIMED_OUT)))
    guarded()
    with gate.guard():
        pass
    assert gate.ended == [Verdict.TIMED_OUT] * 2


def test_an_inner_pipeline_can_be_reloaded_alone_or_with_the_outer_one() -> None:
    log: list[str] = []
    inner = Pipeline("inner", Tap())
    outer = Pipeline("outer", inner)
    guarded = outer(lambda: None)
    inner.reload(noting(log, "b"))
    guarded()
    outer.reload(Pipeline("new", Turnstile()))
    guarded()
    assert log == ["b in", "b out"]
    assert outer.policies == (inner,)
    assert inner.name == "inner"


def test_a_wrong_reload_changes_nothing_and_is_reported(recorded_events: RecordedEvents) -> None:
    gate = Turnstile("gate", limit=1)
    pipeline = Pipeline("p", gate)
    for wrong in ({"policies": [7]}, {"policies": [Turnstile(limit=9)], "on": 7}):
        with pytest.raises(ConfigError):
            pipeline.reload(*wrong.pop("policies"), **wrong)
    assert pipeline.policies == (gate,)
    assert gate.settings.limit == 1
    failed = recorded_events.named("resilience.pipeline.reload_failed")
    assert [(event.policy, event.attributes) for event in failed] == [
        ("p", {"error.type": "ConfigError"})
    ] * 2


def test_a_reload_of_nothing_is_refused(recorded_events: RecordedEvents) -> None:
    pipeline = Pipeline("p", Turnstile())
    with pytest.raises(ConfigError, match="policies must be all policies from now on, at least one"):
        pipeline.reload(on=KeyError)
    assert len(pipeline.policies) == 1


def test_a_reload_that_fails_half_way_changes_nothing() -> None:
    class Stubborn(Turnstile):
        def take_settings(self, other):
            raise RuntimeError("not now")

    first, second = Turnstile(limit=1, on=KeyError), Stubborn(limit=1)
    pipeline = Pipeline("p", first, second)
    before = (first.settings, first._classify, pipeline.policies)
    with pytest.raises(RuntimeError, match="not now"):
        pipeline.reload(Turnstile(limit=5, on=OSError), Stubborn(limit=5), on=IndexError)
    assert (first.settings, first._classify, pipeline.policies) == before
    assert pipeline._classify is None


def test_a_reload_of_an_inner_pipeline_must_suit_the_outer_ones() -> None:
    inner = Pipeline("inner", Tap())
    middle = Pipeline("middle", inner)
    outer = Pipeline("outer", Turnstile(traits=Traits(repeats=True)), middle)
    with pytest.raises(ConfigError, match="must not be a retry inside a retry"):
        inner.reload(Turnstile(traits=Traits(repeats=True)))
    assert [policy.kind for policy in inner.policies] == ["tap"]
    outer.reload(Tap())
    inner.reload(Turnstile(traits=Traits(repeats=True)))  # nothing is around it any more but the middle one
    assert [policy.kind for policy in inner.policies] == ["turnstile"]


def test_everything_that_is_wrong_with_a_pipeline_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Pipeline("", 7, on=int, classify=7)
    settings = [problem.setting for problem in caught.value.problems]
    assert settings == ["name", "on", "classify", "classify", "policies"]


def test_a_reload_is_reported(recorded_events: RecordedEvents) -> None:
    pipeline = Pipeline("p", Turnstile())
    pipeline.reload(Turnstile(limit=2))
    assert [(event.name, event.policy) for event in recorded_events] == [("resilience.pipeline.reload", "p")]


def test_reconfigure_takes_policies_as_a_setting() -> None:
    pipeline = Pipeline("p", Turnstile())
    tap = Tap()
    pipeline.reconfigure(policies=(tap,))
    assert pipeline.settings.policies == pipeline.policies == (tap,)


# --- describing ---


def test_describe_shows_the_order_the_names_and_where_each_setting_comes_from() -> None:
    slot = Turnstile(limit=5, traits=Traits(rank=9))
    breaker = Turnstile("own", traits=Traits(rank=0))
    pipeline = Pipeline("stock", slot, breaker, Pipeline("inner", Around(through)))
    assert pipeline.describe() == (
        "pipeline 'stock'\n"
        "  1. turnstile 'own'\n"
        "       limit = 1 (default)\n"
        "       max_wait = 0.0 (default)\n"
        "       max_queue = None (default)\n"
        "  2. turnstile 'stock' (name from the pipeline)\n"
        "       limit = 5 (set)\n"
        "       max_wait = 0.0 (default)\n"
        "       max_queue = None (default)\n"
        "  3. pipeline 'inner'\n"
        "       1. around 'inner' (name from the pipeline)\n"
        "            limit = 1 (default)\n"
        "            max_wait = 0.0 (default)\n"
        "            max_queue = None (default)"
    )


def test_a_setting_made_by_a_factory_has_a_default_as_well() -> None:
    from dataclasses import dataclass, field

    @dataclass(frozen=True)
    class Settings:
        tags: list[str] = field(default_factory=list)
        needed: int = 3

    assert explained(Settings(needed=4)) == [("tags", "[]", "default"), ("needed", "4", "set")]


def test_building_a_pipeline_warns_of_nothing_by_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline("p", Turnstile(), Around(again, traits=Traits(repeats=True)), Tap())
