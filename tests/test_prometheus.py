"""The alert rules and the dashboard know the metrics that there are, and a real Prometheus understands them.

The long forms need Debian's package `prometheus`, for `prometheus` and `promtool`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.backends import ROOT
from tests.support.installation import Installation, free_port
from tests.support.receiver import Receiver
from tests.support.waiting import until

FOLDER = ROOT / "deploy/prometheus"
RULES = yaml.safe_load((FOLDER / "switchboard.rules.yml").read_text())["groups"][0]["rules"]
PANELS = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
# tests/dashboard/test_metrics.py compares this table with the metrics themselves.
TABLE = re.findall(
    r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\|", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE
)
PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
SERIES = {
    name + part: {label.strip() for label in labels.split(",")} | ({"le"} if part == "_bucket" else set())
    for name, kind, labels in TABLE
    for part in PARTS.get(kind, ("",))
}


def queries() -> Iterator[Any]:
    for rule in RULES:
        yield pytest.param(rule["expr"], id=rule["alert"])
    for panel in PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']}: {target['legendFormat']}")


@pytest.mark.parametrize("query", list(queries()))
def test_a_query_names_metrics_and_labels_that_there_are(query: str) -> None:
    """A metric that was renamed would make its alert silent forever."""
    names = re.findall(r"\bswitchboard_\w+", query)
    assert set(names) <= SERIES.keys()
    assert names or "up{" in query or "process_" in query
    known = {"job"}.union(*(SERIES[name] for name in names))
    by = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    assert {label.strip() for labels in by for label in labels.split(",")} | set(matched) <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_has_a_runbook_and_a_test(rule: dict[str, Any]) -> None:
    _, anchor = rule["annotations"]["runbook_url"].split("/docs/operating/#")
    assert anchor == rule["alert"].lower()
    assert f"\n### {rule['alert']}\n" in (ROOT / "docs/operating.md").read_text()
    assert rule["labels"]["severity"] in ("page", "ticket")
    tested = yaml.safe_load((FOLDER / "switchboard.rules.test.yml").read_text())["tests"]
    silent = [each for test in tested for each in test.get("alert_rule_test", []) if not each.get("exp_alerts")]
    firing = [each for test in tested for each in test.get("alert_rule_test", []) if each.get("exp_alerts")]
    assert rule["alert"] in {each["alertname"] for each in silent}
    assert rule["alert"] in {each["alertname"] for each in firing} | {"SwitchboardAbsent"}  # by its own expression


@pytest.mark.long
@pytest.mark.faults
def test_prometheus_accepts_the_rules_and_their_tests_pass(tmp_path: Path) -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "switchboard.rules.test.yml")
    # Could this fail? A rule that is never true must make its test fail.
    shutil.copytree(FOLDER, tmp_path / "broken")
    rules = tmp_path / "broken/switchboard.rules.yml"
    rules.write_text(rules.read_text().replace("max(switchboard_workers) == 0", "max(switchboard_workers) < 0"))
    with pytest.raises(AssertionError, match="SwitchboardNoWorkers"):
        promtool("test", "rules", "switchboard.rules.test.yml", folder=tmp_path / "broken")


@pytest.mark.long
@pytest.mark.faults
def test_an_alert_fires_in_a_real_prometheus(
    start_installation: Callable[..., Installation], sink: Receiver, tmp_path: Path
) -> None:
    installation = start_installation()
    web = installation.api()
    retry = {"max_attempts": 1}
    web.post("/services", json={"name": "billing", "base_url": sink.url, "retry": retry}).raise_for_status()
    with Prometheus(tmp_path, installation.port) as prometheus:
        until(lambda: prometheus.query("up") == [1.0], within=20)
        send(web)
        until(lambda: prometheus.query("switchboard_delivered_total") == [1.0], within=20)
        until(lambda: prometheus.query("sum(switchboard_queue_wait_seconds_count)") == [1.0], within=20)
        until(lambda: prometheus.query("sum(switchboard_accepted_total{source='api'})") == [1.0], within=20)
        assert "SwitchboardDeadMessages" not in prometheus.firing()
        sink.answer(500)
        send(web)
        until(lambda: "SwitchboardDeadMessages" in prometheus.firing(), within=20)
        assert "SwitchboardAbsent" not in prometheus.firing()
        for panel in PANELS:
            for target in panel["targets"]:
                prometheus.query(target["expr"].replace("$service", ".*").replace("$__rate_interval", "1m"))
        # Wrong types and names that Prometheus tolerates are found by its own linter.
        text = httpx.get(f"{installation.url}/metrics").text
        promtool("check", "metrics", given=text)
    # A console that is restarted writes what it had summed.
    send(web)
    installation.stop()
    installation.start()
    text = httpx.get(f"{installation.url}/metrics").text
    assert 'switchboard_accepted_total{service="billing",source="api"} 3.0' in text


def send(web: httpx.Client) -> None:
    web.post("/messages", json={"service": "billing", "path": "/in", "body": {}}).raise_for_status()


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: install Debian's package prometheus"
    return found


def promtool(*arguments: str, folder: Path = FOLDER, given: str | None = None) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=folder, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A real one that scrapes an installation once a second, with the shipped rules."""

    def __init__(self, folder: Path, target: int) -> None:
        shutil.copytree(FOLDER, folder / "prometheus")
        self.folder, self.port = folder / "prometheus", free_port()
        configuration = self.folder / "prometheus.yml"
        shipped = configuration.read_text()
        assert shipped.count("15s") == 2
        configuration.write_text(shipped.replace("15s", "1s").replace(":8000", f":{target}"))

    def __enter__(self) -> Prometheus:
        command = [program("prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"]
        self.process = subprocess.Popen(command, cwd=self.folder)
        until(self._is_ready, within=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, query: str) -> list[float]:
        answer = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]

    def firing(self) -> set[str]:
        alerts = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
