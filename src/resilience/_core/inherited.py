"""A setting that is taken from where the policy is used."""

from typing import Final


class Inherited:
    """The budget named after the pipeline, else after the policy or the function itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "by name"


INHERITED: Final = Inherited()
