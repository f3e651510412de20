"""Who stands around calls: counts them, times them with exemplars, makes spans. Each only if asked for."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode, Tracer

from resilience import _clock
from resilience._runtime.census import labels
from resilience._runtime.flow import Call, Flow, Inner, leaf
from resilience._runtime.hot import Hot
from resilience._runtime.watch import Judge, Nested
from resilience.outcome import Outcome
from resilience.telemetry._calls import CallCounts, ending_of
from resilience.telemetry._errors import error_types
from resilience.telemetry._registry import ERROR, NAME, RESEND
from resilience.typing import Seconds

OUTCOME: Final = "resilience.outcome"


class Observer(Protocol):
    """One call as somebody sees it: made when it begins."""

    def leave(self) -> None:
        """Take note that its flow is over; a stream goes on without it."""
        ...

    def end(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:
        """Take note that it ended with *outcome*, or was cut short by *error*."""
        ...


def observed(run: Inner, begin: Callable[[Call], Observer]) -> Inner:
    """Return a flow around *run* that tells an observer of each call, once."""

    def flow(call: Call) -> Flow:
        observer: Observer | None = begin(call)

        def end(outcome: Outcome[Any] | None, error: BaseException | None = None) -> None:
            nonlocal observer
            if observer is not None:
                told, observer = observer, None
                told.end(outcome, error)

        try:
            outcome = yield from run(call)
            if observer is not None:
                observer.leave()
            if call.held is not None and outcome.error is None:
                call.held.append(end)  # a stream: it ends when it was read
            else:
                end(outcome)
        except BaseException as error:
            if observer is not None:
                observer.leave()
            end(None, error)
            raise
        return outcome

    return flow


class Watcher:
    """
    What is asked for, around calls.

    Args:
        counts: Where calls are counted, by label; None if they are not.
        record: Records a duration with its attributes, or None.
        tracer: Makes spans, or None.

    """

    __slots__ = ("_counts", "_record", "_tracer")

    def __init__(
        self,
        counts: dict[str, CallCounts] | None,
        record: Callable[[Seconds, Mapping[str, str]], None] | None,
        tracer: Tracer | None,
    ) -> None:
        self._counts = counts
        self._record = record
        self._tracer = tracer

    def around(self, name: str, judge: Judge, nested: Nested) -> Inner:
        """Return the flow of calls to the policy called *name*: spans outermost, then times, then counts."""
        label = labels.label(name)
        tracer, record = self._tracer, self._record
        run = nested(leaf if tracer is None else attempts(label, tracer))
        if self._counts is not None:
            counts = counts_of(self._counts, label)
            run = observed(run, lambda call: _Counting(counts, judge, call))
        if record is not None:
            run = observed(run, lambda call: _Timing(record, label, call))
        if tracer is not None:
            run = observed(run, lambda call: _Tracing(label, tracer, judge, call))
        return run

    def hots(self, name: str, judge: Judge) -> list[tuple[Any, Hot]]:
        """Return what generated code counts. Where spans or times are made, all calls go the slow way."""
        found: list[tuple[Any, Hot]] = []
        if self._tracer is not None or self._record is not None:
            found.append((self, Hot(unless=("True",))))
        if self._counts is not None:
            counts = counts_of(self._counts, labels.label(name))
            found.append((counts, counts.hot(judge)))
        return found


def counts_of(known: dict[str, CallCounts], label: str) -> CallCounts:
    """Return where calls under *label* are counted. It stays, and the number of labels is bounded."""
    counts = known.get(label)
    return known.setdefault(label, CallCounts(label)) if counts is None else counts


class _Counting:
    __slots__ = ("_began", "_counts", "_judge")

    def __init__(self, counts: CallCounts, judge: Judge, call: Call) -> None:
        replay = call.replay
        began = None if replay is None else replay.began
        if replay is not None:
            replay.take(counts)  # it is counted here
        self._counts, self._judge = counts, judge
        self._began = _clock.monotonic() if began is None else began

    def leave(self) -> None:
        pass

    def end(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:  # noqa: ARG002  # of every observer
        ending = "cancelled" if outcome is None else ending_of(outcome, self._judge)
        self._counts.count(ending, _clock.monotonic() - self._began)


class _Timing:
    __slots__ = ("_began", "_label", "_record")

    def __init__(self, record: Callable[[Seconds, Mapping[str, str]], None], label: str, call: Call) -> None:
        began = None if call.replay is None else call.replay.began
        self._record, self._label = record, label
        self._began = _clock.monotonic() if began is None else began

    def leave(self) -> None:
        pass

    def end(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:
        problem = error if outcome is None else outcome.error
        attributes = {NAME: self._label}
        if problem is not None:
            attributes[ERROR] = error_types.of(problem)
        try:
            self._record(_clock.monotonic() - self._began, attributes)
        except Exception:  # noqa: BLE001, S110  # a meter that fails breaks no call
            pass


class _Current:
    """A span that is the current one until it is left, wherever its flow is closed."""

    __slots__ = ("_span", "_token")

    def __init__(self, tracer: Tracer, name: str, attributes: Mapping[str, str | int]) -> None:
        self._span: Span = trace.INVALID_SPAN
        self._token: Any = None
        try:
            self._span = tracer.start_span(name, attributes=attributes)
            self._token = otel_context.attach(trace.set_span_in_context(self._span))
        except Exception:  # noqa: BLE001, S110  # a tracer that fails breaks no call
            pass

    def leave(self) -> None:
        token, self._token = self._token, None
        # A flow may be closed in another context, which never saw this span as the current one.
        if token is not None and trace.get_current_span() is self._span:
            otel_context.detach(token)

    def finish(self, problem: BaseException | None, **attributes: str) -> None:
        try:
            for key, value in attributes.items():
                self._span.set_attribute(key, value)
            if problem is not None:
                self._span.set_attribute(ERROR, error_types.of(problem))
                self._span.set_status(StatusCode.ERROR)
            self._span.end()
        except Exception:  # noqa: BLE001, S110  # see above
            pass


class _Tracing(_Current):
    __slots__ = ("_judge", "_label")

    def __init__(self, label: str, tracer: Tracer, judge: Judge, call: Call) -> None:  # noqa: ARG002  # of every observer
        super().__init__(tracer, label, {NAME: label})
        self._judge, self._label = judge, label

    def end(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:
        ending = "cancelled" if outcome is None else ending_of(outcome, self._judge)
        problem = error if outcome is None else outcome.error
        self.finish(problem, **{NAME: self._label, OUTCOME: ending})  # not those of what refused it


class _Attempting(_Current):
    __slots__ = ()

    def end(self, outcome: Outcome[Any] | None, error: BaseException | None) -> None:
        self.finish(error if outcome is None else outcome.error)


def attempts(label: str, tracer: Tracer) -> Inner:
    """Return the innermost flow, with a span for each attempt."""

    def begin(call: Call) -> Observer:
        told: dict[str, str | int] = {NAME: label}
        if call.context.attempt > 1:
            told[RESEND] = call.context.attempt - 1
        return _Attempting(tracer, f"{label} attempt", told)

    spanned = observed(leaf, begin)

    def attempt(call: Call) -> Flow:
        replay = call.replay
        if replay is not None and replay.is_at(None):  # it ran before anybody asked for spans
            return leaf(call)
        return spanned(call)

    return attempt


def note(policy: str, details: Callable[[], Mapping[str, str]]) -> None:
    """Tell the span in progress, if it is recording, what went wrong at *policy*; else ask no *details*."""
    try:
        if not otel_context.get_current():  # sooner than to ask for the span: refusals come here
            return
        span = trace.get_current_span()
        if span.is_recording():
            span.set_attribute(NAME, labels.label(policy))
            for key, value in details().items():
                span.set_attribute(key, value)
    except Exception:  # noqa: BLE001, S110  # see above
        pass
