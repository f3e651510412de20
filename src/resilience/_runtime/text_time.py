"""The lines of a generated function about time: limits of its policies, and the caller's deadline."""

import sys

from resilience._runtime.hot import ELSE
from resilience._runtime.locked import INDENT, indented
from resilience._runtime.signature import Signature
from resilience._runtime.text_part import Part


class Times:
    """
    What the lines of one function say about time.

    Args:
        signature: That of the function.
        parts: The policies, the first the outermost.
        for_deadline: Whether a deadline may be in force.
        for_trio: Whether a task of trio may call.
        is_inner: Whether somebody else keeps the deadline.

    Attributes:
        timed: The policies that bound the time of a call.
        tells: Whether what runs inside is told of one of them: it becomes the deadline in force.
        cuts: Whether the function cuts calls short when the deadline comes.

    """

    def __init__(
        self, signature: Signature, parts: list[Part], *, for_deadline: bool, for_trio: bool, is_inner: bool
    ) -> None:
        self._signature = signature
        self._for_deadline, self._for_trio = for_deadline, for_trio
        self.timed = [part for part in parts if part.hot.limit is not None]
        last = max((place for place, part in enumerate(self.timed, 1) if part.hot.tells), default=0)
        # The innermost that tells what is inside knows those around it, which may end sooner.
        self._told = self.timed[:last]
        self.tells = bool(self._told)
        self.cuts = for_deadline and signature.is_async and not is_inner
        self._outer = "outer" if for_deadline and self.tells else "None"

    @property
    def has_queues(self) -> bool:
        """Whether limits are kept by queues, and not by the policies' own checks between steps."""
        return bool(self.timed) and self._signature.is_async

    def look_for_deadline(self) -> list[str]:
        """Find the deadline in force; the slow way has the error for one that is over."""
        outer = "outer = " if self.tells else ""
        return [
            f"{outer}deadline = block()",
            "if deadline is not None:",
            f"{INDENT}if type(deadline) is not float: deadline = deadline.until",
            f"{INDENT}if deadline is not None and deadline <= (began := monotonic()):",
            f"{INDENT}{INDENT}{self._signature.slow}",
        ]

    def begin(self, *, reads_began: bool) -> list[str]:
        """
        Say when the call begins and must end, by the deadline in force or without one.

        Args:
            reads_began: Whether a statement reads ``began``.

        """
        alone: list[str] = []
        within: list[str] = []
        if self.cuts:
            alone.append("key = cuts = None" if self.timed else "key = cuts = cancels = None")
            within += self._find_cuts()
        if reads_began:
            alone.append("began = monotonic()")  # with a deadline it is read already
        if self.has_queues:
            within += self._outlasted()
        if self.tells:
            nearest = min(reversed(self._told), key=lambda part: part.hot.seconds or 0.0)
            end = nearest.text("began + $settings.duration")
            alone.append(f"until = {end}")
            within.append(f"if deadline < (until := {end}): until = deadline")
        if not self._for_deadline:
            return alone
        lines = [f"if deadline is None: {alone[0]}"] if len(alone) == 1 else []
        if len(alone) > 1:
            lines = ["if deadline is None:", *indented(alone)]
        return [*lines, f"{ELSE}:", *indented(within)] if within else lines

    def _find_cuts(self) -> list[str]:
        """Find where the deadline is kept, unless the call that makes this one keeps it already."""
        if self.timed:
            loop = self.timed[0].text("$queue.loop")
            unknown = f"(cuts := loops.cuts).loop is not {loop} and (cuts := loops.of({loop})) is None"
            found = [
                f"if {unknown} or task in cuts.at and cuts.at[task] > deadline:",
                *indented(["del task", self._signature.slow]),
                "key = None if task in cuts.at else task",
            ]
        else:
            key = "(key := task_of(cuts.loop)) is None"
            found = ["if in_trio_task():", INDENT + self._signature.slow] if self._for_trio else []
            found += [
                f"if {_elsewhere('(cuts := loops.cuts)')} or {key}:",
                f"{INDENT}if (cuts := loops.of(running_loop())) is None or {key}:",
                *indented(indented([self._signature.slow])),
                "cancels = key.cancelling()",
                "if key in cuts.at: key = None if cuts.at[key] <= deadline else Nearer(key)",
            ]
        return [*found, "if deadline < cuts.next: cuts.arm(deadline)"]

    def _outlasted(self) -> list[str]:
        """Find the places of a call whose deadline comes first."""
        lines: list[str] = []
        for part in self.timed:
            lines += [
                part.text("if deadline <= began + $settings.duration:"),
                part.text(f"{INDENT}if task in ($queue := $queue.outlasted).began:"),
                *indented(indented([*self.forget_task, self._signature.slow])),
            ]
        return lines

    def find_queues(self) -> list[str]:
        """Find the queues of this event loop, and the task that calls."""
        first, *others = self.timed
        task = "(task := task_of($queue.loop)) is None"
        lines = ["if in_trio_task():", INDENT + self._signature.slow] if self._for_trio else []
        lines += [
            first.text(f"if {_elsewhere('($queue := $limit.queue)')} or {task}:"),
            INDENT + first.text(f"if ($queue := $limit.queue_of(running_loop())) is None or {task}:"),
            *indented(indented([self._signature.slow])),
        ]
        loop = first.text("$queue.loop")
        for part in others:
            lines += [
                part.text(
                    f"if ($queue := $limit.queue).loop is not {loop}"
                    f" and ($queue := $limit.queue_of({loop})) is None:"
                ),
                *indented(["del task", self._signature.slow]),
            ]
        present = " or ".join(part.text("task in $queue.began") for part in self.timed)
        lines += [f"if {present}:", *indented(["del task", self._signature.slow])]
        lines += [part.text("if not $queue.is_armed: $queue.arm()") for part in self.timed]
        lines.append("cancels = task.cancelling()")
        return lines

    @property
    def set_back(self) -> str:
        """What puts the caller's deadline in place of the function's own."""
        return f"set_block({self._outer})"

    @property
    def forget_task(self) -> list[str]:
        """What comes before anything that leaves the function."""
        # Before anything is raised: no cycle task -> error -> traceback -> frame -> task.
        names = [*(["task"] if self.timed else []), *(["key"] if self.cuts else [])]
        return [f"del {', '.join(names)}"] if names and self._signature.is_async else []

    @property
    def unless_late(self) -> list[str]:
        """What goes on with a call only if the deadline has cut it short."""
        return [
            "is_late = key is not None and cuts.ended(key, cancels, error)",
            "key = None",
            "if not is_late: raise",
        ]

    @property
    def how_it_failed(self) -> str:
        """What finds out whether a limit has cut the call short, and which."""
        entries = ", ".join(part.text("($limit, $queue)") for part in reversed(self.timed))
        told = f", until, {self._outer}" if self.tells else ""
        return f"failure, at = end_of_time(task, cancels, error, [{entries}]{told})"

    def not_late(self) -> list[str]:
        """Leave the queues; whom one has cut short meanwhile was in time after all."""
        lines: list[str] = []
        for part in reversed(self.timed):
            lines += [
                part.text("try: del $queue.began[task]"),
                "except KeyError: task.uncancel()",
            ]
        return lines

    @property
    def uncut(self) -> list[str]:
        """What leaves the place where the deadline is kept."""
        if not self.cuts:
            return []
        return [
            "if key is not None:",
            f"{INDENT}try: del cuts.at[key]",
            f"{INDENT}except KeyError: key.uncancel()",
        ]


def _elsewhere(kept: str) -> str:
    """Return what says that the event loop which *kept* is about does not run this thread."""
    if sys.version_info >= (3, 12):
        return f"{kept}.loop is not running_loop()"
    return f"{kept}.runner._thread_id != thread()"  # there to look for the loop asks the system first
