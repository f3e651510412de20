"""The setting that is taken from where the policy is used."""

from resilience._core.inherited import INHERITED


def test_an_inherited_setting_is_shown_as_what_it_means() -> None:
    assert repr(INHERITED) == "by name"
