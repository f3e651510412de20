"""Default budgets by name."""

import pytest

from resilience._runtime import budgets


@pytest.fixture(autouse=True)
def _own_registry():
    former = budgets.replace({})
    yield
    budgets.replace(former)


def test_one_name_has_one_budget() -> None:
    assert budgets.named("a") is budgets.named("a")
    assert budgets.named("a") is not budgets.named("b")


def test_a_registry_in_charge_is_returned_when_another_takes_its_place() -> None:
    first = budgets.named("a")
    former = budgets.replace({})
    assert former == {"a": first}
    second = budgets.named("a")
    assert second is not first
    assert budgets.replace(former) == {"a": second}
    assert budgets.named("a") is first


def test_a_budget_that_is_made_while_the_registry_changes_lands_in_the_former_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, registry = budgets.make, {}
    former: list[object] = []

    def slow(name: str):
        former.append(budgets.replace(registry))
        return make(name)

    monkeypatch.setattr(budgets, "make", slow)
    made = budgets.named("a")
    assert former == [{"a": made}]
    assert registry == {}
