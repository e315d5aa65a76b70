"""Recording rules and alerts by promtool, and what people are told to do."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "dashboards/prometheus"
GROUPS = yaml.safe_load((FOLDER / "tokenstone.rules.yml").read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
HOW = {"cwd": FOLDER, "capture_output": True, "text": True, "check": False}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")


@needs_promtool
def test_promtool_accepts_the_rules():
    done = subprocess.run(["promtool", "check", "rules", "tokenstone.rules.yml"], **HOW)  # noqa: PLW1510
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.slow
def test_alerts_fire_when_they_should_and_not_else():
    done = subprocess.run(["promtool", "test", "rules", "tokenstone.tests.yml"], **HOW)  # noqa: PLW1510
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried():
    tried = (FOLDER / "tokenstone.tests.yml").read_text()
    for alert in ALERTS:
        assert f'alertname="{alert["alert"]}",alertstate="firing",' in tried, alert["alert"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert):
    notes = alert["annotations"]
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert "{{" in notes["summary"] + notes["description"]
    assert len(notes["runbook"]) > 60
    page, _, anchor = notes["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
