"""Settings of pipelines from a file: what is made of them, and what is said of mistakes."""

import asyncio
import json
from pathlib import Path

import pytest

from resilience import ConfigError, Pipeline, limits
from resilience.backoff import full_jitter
from resilience.integrations.settings import Settings
from resilience.retry_budget import RetryBudget

TOML = """
[default]
total_timeout = 2.0

[default.circuit_breaker]
probes = 3

[pipelines.stock]
attempt_timeout = 0.5

[pipelines.stock.retry]
attempts = 2
backoff = { kind = "full_jitter", base = 0.05 }

[pipelines.stock.circuit_breaker]
break_duration = 7

[pipelines.prices]
total_timeout = false
retry = false
"""


def made(values, name="stock"):
    """The settings of each kind of policy of a pipeline; of two timeouts, those of the attempt."""
    pipeline = Settings(values).pipeline(name)
    return {policy.kind: policy.settings for policy in pipeline.policies}


def problems(values):
    with pytest.raises(ConfigError) as caught:
        Settings(values)
    assert caught.value.subject == "settings"
    return [str(problem) for problem in caught.value.problems]


def test_a_pipeline_has_its_own_settings_and_else_the_default_ones_and_else_those_of_the_golden_path(
    tmp_path: Path,
) -> None:
    path = tmp_path / "resilience.toml"
    path.write_text(TOML)
    settings = Settings.load(path)
    assert settings.names == ["stock", "prices"]
    total, retry, breaker, limiter, attempt = settings.pipeline("stock").policies
    assert (total.settings.duration, attempt.settings.duration) == (2.0, 0.5)
    assert (retry.settings.attempts, retry.settings.backoff) == (2, full_jitter(base=0.05))
    assert (breaker.settings.probes, breaker.settings.break_duration) == (3, 7)
    assert breaker.settings.failure_ratio == 0.9  # of the golden path, and not of a bare breaker
    assert isinstance(limiter.settings.limit, limits.Aimd)
    kinds = [policy.kind for policy in settings.pipeline("prices").policies]
    assert kinds == ["circuit_breaker", "concurrency_limiter", "timeout"]


def test_a_pipeline_that_is_not_in_the_file_is_the_default_one() -> None:
    settings = Settings({"default": {"total_timeout": 2.0, "retry": None}})
    pipeline = settings.pipeline("elsewhere")
    assert pipeline.name == "elsewhere"
    assert [policy.kind for policy in pipeline.policies][:2] == ["timeout", "circuit_breaker"]
    assert pipeline.policies[0].settings.duration == 2.0


def test_nothing_in_it_is_the_golden_path() -> None:
    assert Settings({}).pipeline("stock").describe().replace(" (set)", "") == Pipeline.standard(
        "stock"
    ).describe().replace(" (set)", "")


def test_the_same_may_be_written_in_json(tmp_path: Path) -> None:
    path = tmp_path / "resilience.JSON"
    path.write_text(json.dumps({"pipelines": {"stock": {"retry": {"attempts": 5, "max_duration": None}}}}))
    assert Settings.load(str(path)).pipeline("stock").policies[1].settings.attempts == 5


def test_every_pipeline_is_a_new_one_with_a_limit_of_its_own() -> None:
    settings = Settings({"default": {"concurrency_limiter": {"limit": {"kind": "vegas"}}}})
    first, second = (settings.pipeline("stock").policies[3].settings.limit for _ in range(2))
    assert isinstance(first, limits.Vegas)
    assert first is not second


def test_a_budget_is_a_table_with_its_kind_and_false_is_none() -> None:
    settings = made({"default": {"retry": {"budget": {"kind": "ratio", "ratio": 0.2}}}})
    assert isinstance(settings["retry"].budget, RetryBudget)
    assert made({"default": {"retry": {"budget": False}}})["retry"].budget is None


def test_false_stays_false_where_that_is_a_setting() -> None:
    values = {"default": {"circuit_breaker": {"open_on_throttle": True}}, "pipelines": {}}
    assert made(values)["circuit_breaker"].open_on_throttle is True
    values["pipelines"]["stock"] = {"circuit_breaker": {"open_on_throttle": False}}
    assert made(values)["circuit_breaker"].open_on_throttle is False


def test_true_takes_back_what_the_default_leaves_out() -> None:
    values = {"default": {"retry": False}, "pipelines": {"stock": {"retry": True}}}
    assert made(values)["retry"].attempts == 3
    assert "retry" not in made(values, "prices")


def test_who_asks_says_what_code_alone_can_say() -> None:
    pipeline = Settings({"default": {"circuit_breaker": {"consecutive_failures": 1}}}).pipeline(
        "stock", on=OSError
    )

    async def fails() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(pipeline.acall(fails))
    assert pipeline.policies[2].state.value == "closed"
    with pytest.raises(ConfigError, match="name"):
        Settings({}).pipeline("")


def test_a_new_file_changes_a_pipeline_that_runs_and_keeps_its_state() -> None:
    stock = Settings({"default": {"retry": {"attempts": 2}}}).pipeline("stock")
    breaker = stock.policies[2]
    stock.reload(*Settings({"default": {"retry": {"attempts": 5}}}).pipeline("stock").policies)
    assert stock.policies[1].settings.attempts == 5
    assert stock.policies[2] is breaker


def test_what_is_not_known_is_listed_by_its_path() -> None:
    values = {
        "defaults": {},
        "pipelines": {
            "a": {"retry": {"attemps": 3}, "retries": 2},
            "b": 7,
            "c": {"circuit_breaker": 3},
        },
    }
    settings = "attempts, backoff, budget, max_duration, stop, retry_after_window"
    parts = "total_timeout, attempt_timeout, retry, circuit_breaker, concurrency_limiter"
    assert problems(values) == [
        "defaults is not a setting: there are default, pipelines, got {}",
        f"pipelines.a.retries is not a setting: there are {parts}, got 2",
        f"pipelines.a.retry.attemps is not a setting: there are {settings}, got 3",
        "pipelines.b must be a table, got 7",
        "pipelines.c.circuit_breaker must be a table, or false to do without, got 3",
    ]
    assert problems([1]) == ["settings must be a table, got [1]"]
    assert problems({"pipelines": 1}) == ["pipelines must be a table, got 1"]


def test_what_cannot_work_is_listed_once_by_where_it_was_written() -> None:
    values = {
        "default": {"total_timeout": -1, "retry": {"attempts": 0}},
        "pipelines": {
            "a": {"retry": {"backoff": {"kind": "often"}}, "attempt_timeout": "x"},
            "b": {"concurrency_limiter": {"limit": {"kind": "aimd", "begin": 1}, "max_wait": -1}},
            "c": {"retry": {"backoff": {"kind": "constant", "delay": -1}}},
        },
    }
    found = problems(values)
    assert [each.partition(" ")[0] for each in found] == [
        "default.total_timeout",
        "default.retry.attempts",
        "pipelines.a.attempt_timeout",
        "pipelines.a.retry.backoff.kind",
        "pipelines.b.concurrency_limiter.limit",
        "pipelines.b.concurrency_limiter.max_wait",
        "pipelines.c.retry.backoff.delay",
    ]
    assert "default.retry.attempts must be a whole number >= 1 or None, got 0" in found


def test_what_is_not_known_hides_nothing_else() -> None:
    values = {
        "default": {"retry": {"attempts": 0, "attemps": 3}},
        "pipelines": {"a": {"total_timout": 2.0, "circuit_breaker": {"failure_ratio": 2}}, "b": {"retry": 3}},
    }
    assert [each.partition(" ")[0] for each in problems(values)] == [
        "default.retry.attemps",
        "pipelines.a.total_timout",
        "pipelines.b.retry",
        "default.retry.attempts",
        "pipelines.a.circuit_breaker.failure_ratio",
    ]


def test_parts_that_contradict_each_other_are_refused_in_the_words_of_the_file() -> None:
    assert problems({"pipelines": {"a": {"total_timeout": 1.0, "attempt_timeout": 2.0}}}) == [
        "pipelines.a.attempt_timeout must be > 0 and less than the total_timeout of 1 s, got 2.0"
    ]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("a.yaml", b"", "must end in .toml or .json"),
        ("a.toml", b"a = ", "must be a file of TOML: "),
        ("a.toml", b"\xff", "must be a file of TOML: "),
        ("a.json", b"{", "must be a file of JSON: "),
        ("a.json", b'{"a": NaN}', "must be a file of JSON: "),
    ],
)
def test_a_file_that_cannot_be_read_as_one_says_why(
    tmp_path: Path, name: str, text: bytes, rule: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load(path)
    assert caught.value.problems[0].value == str(path)
    assert caught.value.problems[0].rule.startswith(rule)


def test_problems_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"default": {"retry": 3}}')
    with pytest.raises(ConfigError, match=r"a\.json'?: default\.retry must be a table"):
        Settings.load(path)
    with pytest.raises(FileNotFoundError):
        Settings.load(tmp_path / "none.toml")
