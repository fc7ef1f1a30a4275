"""The Django outbox: a project that dies at each bad moment, in front of a running installation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from switchboard_client import Client
from tests.support.backends import ROOT, Servers
from tests.support.installation import Installation, clean_environment
from tests.support.receiver import Receiver
from tests.support.waiting import until

ENDS_WITHIN = 60  # seconds


class Shop:
    """The project in tests/clients/shop, with a database of its own."""

    def __init__(self, database: str, switchboard: str, token: str) -> None:
        self.environment = clean_environment() | {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}",
            "DJANGO_SETTINGS_MODULE": "tests.clients.shop.settings",
            "SHOP_DATABASE": database,
            "SHOP_SWITCHBOARD": switchboard,
            "SHOP_TOKEN": token,
        }

    def run(self, *steps: str | int) -> dict[str, Any]:
        """Do the steps and return its orders and its outbox."""
        process = self._start("tests.clients.shop", *steps)
        printed, log = process.communicate(timeout=ENDS_WITHIN)
        assert process.returncode == 0, log
        result: dict[str, Any] = json.loads(printed)
        return result

    def is_killed_at(self, *steps: str | int) -> None:
        process = self._start("tests.clients.shop", *steps)
        process.communicate(timeout=ENDS_WITHIN)
        assert process.returncode == -signal.SIGKILL

    def outbox(self, *options: str) -> subprocess.Popen[str]:
        return self._start("django", "switchboard_outbox", *options)

    def sells(self, numbers: range) -> subprocess.Popen[str]:
        return self._start("tests.clients.shop", "sell", *numbers)

    def _start(self, module: str, *arguments: str | int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def shop(installation: Installation, token: str, database: str, servers: Servers, tmp_path: Path) -> Shop:
    url = servers.new_postgres_database() if database == "postgres" else f"sqlite:///{tmp_path}/shop.sqlite3"
    return Shop(url, installation.url, token)


def test_every_committed_message_is_stored_once_and_in_order_whenever_the_project_dies(
    shop: Shop, switchboard: Client, register: Callable[..., None], sink: Receiver
) -> None:
    register("shop", ordering="key")
    refused = "sell-what-switchboard-refuses"
    shop.is_killed_at("migrate", "sell", 1, "roll-back", 2, refused, 3, "sell", 4, "die-before-sending", 5)
    shop.is_killed_at("sell", *range(6, 20), refused, 20, "sell", *range(21, 26), "die-before-writing-the-answer", 26)
    both = [shop.outbox("--once"), shop.outbox("--once")]
    assert [process.wait(ENDS_WITHIN) for process in both] == [0, 0]

    stored = shop.run()
    sold = [1, 4, *range(5, 20), *range(21, 27)]
    assert stored["orders"] == [1, *range(3, 27)]
    assert [number for number, state, _, _ in stored["outbox"] if state == "handed_over"] == sold
    why = {number: error for number, state, _, error in stored["outbox"] if state == "refused"}
    assert why.keys() == {3, 20}
    assert all("no-such-service" in error for error in why.values())
    found = list(switchboard.search("service:shop"))
    assert [message["id"] for message in reversed(found)] == [row[2] for row in stored["outbox"] if row[2]]
    calls = sink.wait_for(len(sold))
    assert [call.json()["order"] for call in calls] == sold


def test_a_project_without_an_address_or_a_token_does_not_start(settings: Any) -> None:
    from switchboard_client.django.apps import check_settings

    for given, problems in (
        (None, 1),
        ({"url": "http://127.0.0.1"}, 1),
        ({"url": "http://127.0.0.1", "token": "t"}, 0),
    ):
        settings.SWITCHBOARD = given
        assert len(check_settings()) == problems


def test_an_outage_delays_one_caller_and_the_command_delivers_afterwards(
    shop: Shop, register: Callable[..., None], sink: Receiver, start_receiver: Callable[..., Receiver]
) -> None:
    register("outage", ordering="key")
    away = start_receiver()
    away.answer(503)
    switchboard, shop.environment["SHOP_SWITCHBOARD"] = shop.environment["SHOP_SWITCHBOARD"], away.url
    too_deep = "sell-what-no-batch-may-hold"
    waiting = shop.run("migrate", "sell-to-outage", 1, 2, too_deep, 3, "sell-to-outage", 4)
    assert [state for _, state, _, _ in waiting["outbox"]] == ["waiting"] * 4
    assert len(away.calls) == 1
    once = shop.outbox("--once")
    _, log = once.communicate(timeout=ENDS_WITHIN)
    assert (once.returncode, "4 messages still wait" in log) == (1, True)

    shop.environment["SHOP_SWITCHBOARD"] = switchboard
    command = shop.outbox("--interval", "0.1")
    try:
        calls = sink.wait_for(3)
        assert [call.json()["order"] for call in calls] == [1, 2, 4]
        until(lambda: "waiting" not in states(shop))
        assert states(shop) == ["handed_over", "handed_over", "refused", "handed_over"]
    finally:
        command.terminate()
    assert command.wait(ENDS_WITHIN) == 0


def states(shop: Shop) -> list[str]:
    return [state for _, state, _, _ in shop.run()["outbox"]]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_nothing_is_lost_doubled_or_overtaken_while_all_sides_are_killed(
    start_installation: Callable[..., Installation], database: str, servers: Servers, tmp_path: Path, sink: Receiver
) -> None:
    installation = start_installation()
    token = installation.token("operator", "client")
    with installation.api(token) as api:
        service = {"name": "shop", "base_url": sink.url, "ordering": "key"}
        api.post("services", json=service).raise_for_status()
    url = servers.new_postgres_database() if database == "postgres" else f"sqlite:///{tmp_path}/shop.sqlite3"
    shop = Shop(url, installation.url, token)
    shop.run("migrate")
    for round_ in range(6):  # each seller and each command dies in the middle, and in every second round Switchboard
        seen = len(sink.calls)
        first = round_ * 1000
        sellers = [shop.sells(range(first + start, first + start + 80)) for start in (0, 500)]
        commands = [shop.outbox("--interval", "0.05") for _ in range(2)]
        sink.wait_for(seen + 40, timeout=30)
        if round_ % 2:
            installation.kill()
        for process in (*sellers, *commands):
            process.kill()
            process.communicate(timeout=ENDS_WITHIN)
        if round_ % 2:
            installation.wait_until_gone()
            installation.start()
    assert shop.outbox("--once").wait(ENDS_WITHIN) == 0

    committed = shop.run()
    assert len(committed["orders"]) > 200
    assert [state for _, state, _, _ in committed["outbox"]] == ["handed_over"] * len(committed["orders"])
    with Client(installation.url, token) as switchboard:
        until(lambda: not list(switchboard.search("-status:delivered")), within=60)
        stored = [switchboard.get(found["id"])["body"]["order"] for found in switchboard.search()]
    assert sorted(stored) == sorted(committed["orders"])
    for seller in (0, 500):  # each is a process, and sells one order after the other
        sold = [order for order in reversed(stored) if order % 1000 // 500 == seller // 500]
        assert sold == sorted(sold)
