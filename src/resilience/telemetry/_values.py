"""The values of attributes that have a fixed list of them, and what each means."""

from typing import Final

MOST_ERROR_TYPES: Final = 64
"""Distinct error types that are told apart in this process; the rest is ``_OTHER``. Source: own."""

Members = tuple[tuple[str, str], ...]

OUTCOMES: Final[Members] = (
    ("success", "The call completed and was classified as a success."),
    ("failure", "The call completed and was classified as a failure."),
    ("ignored", "The call completed and was excluded from the statistics."),
    ("rejected", "The call was not attempted."),
    ("cancelled", "The caller cancelled."),
)
ATTEMPTS: Final[Members] = (
    ("initial", "First attempt of a call."),
    ("retry", "Attempt after a failed attempt."),
    ("hedge", "Attempt racing an unfinished attempt."),
    ("probe", "Attempt that a half-open circuit breaker let pass to learn from it."),
)
STATES: Final[Members] = (
    ("closed", "Calls pass."),
    ("open", "Calls are rejected."),
    ("half_open", "A bounded number of probe calls pass."),
    ("forced_open", "Opened by an operator."),
    ("disabled", "Bypassed by an operator."),
)
REASONS: Final[Members] = (
    ("failure_ratio", "The share of bad results was reached."),
    ("slow_call_ratio", "The share of slow results was reached."),
    ("consecutive_failures", "Enough results in a row were bad."),
    ("throttled", "The dependency said when to return."),
    ("break_over", "The time of the break was over when a call came."),
    ("probes", "The results of the probes."),
    ("manual", "An operator ordered it."),
    ("restored", "A snapshot was restored."),
)
STOPS: Final[Members] = (
    ("success", "An attempt succeeded."),
    ("attempts_exhausted", "Attempt limit reached."),
    ("budget_exhausted", "The retry budget denied the attempt."),
    ("deadline_exceeded", "The next attempt would not fit the deadline."),
    ("not_retryable", "The outcome is not retryable."),
    ("rejected", "An inner policy rejected the call."),
    ("cancelled", "The caller cancelled."),
)
RESULTS: Final[Members] = (
    ("acquired", "Permit granted without waiting."),
    ("acquired_after_wait", "Permit granted after queueing."),
    ("rejected", "No permit and no room to wait."),
    ("wait_timeout", "Gave up waiting."),
    ("cancelled", "Cancelled while waiting."),
)
CHANGES: Final[Members] = (("increase", "Raised."), ("decrease", "Lowered."))
THROTTLE_STATES: Final[Members] = (
    ("passing", "Nothing was rejected lately."),
    ("shedding", "A share of the calls is rejected."),
)
PRIORITIES: Final[Members] = (
    ("critical", "Rejected last."),
    ("high", "Rejected after normal calls."),
    ("normal", "The default."),
    ("low", "Rejected before normal calls."),
    ("sheddable", "Rejected first."),
)
CACHE_RESULTS: Final[Members] = (
    ("hit", "A fresh result was kept."),
    ("miss", "The function ran."),
    ("shared", "Another call's result, waited for."),
)
DENIALS: Final[Members] = (
    ("budget_exhausted", "The retry budget did not pay."),
    ("too_many_abandoned", "Too many losing attempts were at work."),
)
IDEMPOTENCY_RESULTS: Final[Members] = (
    ("executed", "First use of the key; the operation ran."),
    ("replayed", "Stored response returned."),
    ("in_progress", "Same key still running."),
    ("mismatch", "Same key with another fingerprint."),
    ("not_replayable", "Done already, with a response that was not kept."),
    ("missing_key", "Key required but absent."),
    ("store_error", "The store failed."),
)
SLI_RESULTS: Final[Members] = (("good", "Good event."), ("bad", "Bad event."))
