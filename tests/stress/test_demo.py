"""The demo itself, once and short: real processes, real sockets, and the difference that it is there to show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.mark.timeout(150)
def test_after_a_dip_the_resilient_client_recovers_and_the_naive_one_does_not(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "resilience.cli", "demo", "--json", "--duration", "15"]
    result = subprocess.run(
        [*program, "--output", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == told
    assert told["problems"] == []
    dip = next(act for act in told["acts"] if act["key"] == "dip")
    assert dip["naive"]["recovery_seconds"] is None, dip
    assert dip["naive"]["success_after"] < 0.5, dip
    assert dip["resilient"]["recovery_seconds"] is not None, dip
    assert dip["resilient"]["success_after"] > 0.7, dip
    assert dip["resilient"]["attempts_per_call"] < 1.3 < dip["naive"]["attempts_per_call"], dip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<polyline") > 30
    for side in ("naive", "resilient"):
        exposed = (tmp_path / f"{side}.prom").read_text(encoding="utf-8")
        counted = {
            sample.labels["resilience_sli_result"]: sample.value
            for family in text_string_to_metric_families(exposed)
            for sample in family.samples
            if sample.name == "resilience_sli_events_total"
        }
        requests = sum(act[side]["requests"] for act in told["acts"])
        # A user who left is not counted by the service as one that it failed.
        assert 0.9 * requests <= counted["good"] + counted["bad"] <= requests
    assert "Traceback" not in result.stderr
