"""kill -9 of a web process while messages are accepted: after a 202 the message is on disk, and none is twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import httpx
import pytest

from tests.faults.traffic import tell
from tests.support.installation import Installation
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

SENDERS = 12
MESSAGES = 400  # a second of them
KILL_AT = 150


def test_what_was_answered_202_outlives_a_killed_web_process(
    start_installation: Callable[..., Installation],
) -> None:
    installation = start_installation("--web-workers", "2", "--no-workers", SWITCHBOARD_TOKEN_RATE="0")
    until(lambda: len(installation.processes()["web"]) == 2, 30, lambda: "no two web processes")
    with installation.api() as api:
        assert api.post("services", json={"name": "billing", "base_url": "http://127.0.0.1:9"}).status_code == 201
    accepted, kept = asyncio.run(send_until_accepted(installation, installation.token()))
    assert sorted(kept) == list(range(MESSAGES))
    assert len(set(accepted)) == MESSAGES
    assert set(tell(installation)) == set(accepted), "stored and acknowledged messages differ"
    until(lambda: len(installation.processes()["web"]) == 2, 30, lambda: "the killed one did not come back")


async def send_until_accepted(installation: Installation, token: str) -> tuple[list[str], list[int]]:
    """Sends each message under its own key until it is answered 202; kills a web process in the middle of it."""
    accepted: list[str] = []
    kept: list[int] = []
    numbers = iter(range(MESSAGES))

    async def sender() -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"{installation.url}/api/v1", headers=headers, timeout=20) as client:
            for number in numbers:
                while True:
                    body = {"service": "billing", "path": "/in", "body": {"n": number}}
                    try:
                        answer = await client.post("/messages", json=body, headers={"Idempotency-Key": f"n{number}"})
                    except httpx.HTTPError:
                        await asyncio.sleep(0.05)
                        continue
                    assert answer.status_code in (202, 503), answer.text
                    if answer.status_code == 202:
                        accepted.append(answer.json()["id"])
                        kept.append(answer.json()["body"]["n"])
                        break

    async def killer() -> None:
        while len(accepted) < KILL_AT:
            await asyncio.sleep(0.001)
        os.kill(installation.processes()["web"][0].pid, signal.SIGKILL)

    await asyncio.gather(killer(), *(sender() for _ in range(SENDERS)))
    return accepted, kept
