"""What every test shares: fixtures, and how hard Hypothesis tries."""

import os
import signal

from hypothesis import HealthCheck, settings

# Whether the installed package's own plugin brought them or not.
from resilience._pytest_plugin import fake_clock as fake_clock
from resilience._pytest_plugin import recorded_events as recorded_events

from .runtimes import async_runtime as async_runtime
from .runtimes import runtime as runtime

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a script, a process ignores Ctrl-C, which some tests send to themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes any example slow now and then, so no example has a time limit of its own.
settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,  # a change is not refused by luck; `make fuzz` is where luck is looked for
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    max_examples=2_000,
    stateful_step_count=100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
