"""Pages: the cost of each page and search with millions of messages.

5 million messages on PostgreSQL and a million on SQLite, with the other rows of a month (bench/history.py). Every page
and fragment of the console, found by its route, searches of each kind, and the lists of the API: queries, and the
server's time through the whole of Django, in one process and without the network. A page may take 150 ms at p95 and
12 queries, and weigh 120 KB; a search may take 300 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import django

from bench.scenarios import Options, quiet

MESSAGES = {"postgres": 5_000_000, "sqlite": 1_000_000}
PARTS = 5
TIMES = 20
PAGE_WITHIN, SEARCH_WITHIN = 150, 300  # ms at p95
QUERIES, WEIGHT = 12, 120 * 1024
# These take a POST only, stream a file of any size, are no pages, or need a change that no seeded service has.
LEFT_OUT = {"logout", "login", "setup", "message-export", "service-restore", "docs-picture", "_start"}
NOT_SHOWN = (302, 303, 405)  # these routes take a POST, or lead to another page
NOTICE = b"Searched the newest"
# The API refuses a qualifier that does not exist; the page offers the searches that it may have meant.
REFUSED = ("typo", "q=customer%3Ac42", "q=order.id%3A4242")
SEARCHES = (
    "",
    "status:dead",
    "service:seeded-01",
    "service:seeded-19 status:dead",
    "-status:delivered",
    "code:503 older:1d",
    "body.order.id:4242",
    "body.order.id:>999000",
    "tag:customer=c42",
    "/orders/7",
    "order.created",
    "c42",
    "4242",
    "4242 status:dead",
    "customer:c42",
    "order.id:4242",
    "nothing-like-this-anywhere",
    "service:seeded-01 nothing-like-this",
    "attempts:>4 newer:12h",
    "fault:timeout",
    "status:pending",
    "reason:attempts service:seeded-02",
    "sevice:typo",
)


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    for on in options.databases:
        database, messages = options.site.fresh(on), options.scaled(MESSAGES[on], least=2000)
        try:
            began = time.monotonic()
            for _ in range(PARTS):  # so that no other measurement waits long for the machine
                with quiet():
                    database.run("-m", "bench.seed", "--messages", str(messages // PARTS))
            database.run("-m", "bench.history")
            options.say(
                f"{on:10}{messages:,} messages with their history were made in {time.monotonic() - began:.0f} s"
            )
            with quiet():
                rows = json.loads(database.run("-m", __name__).splitlines()[-1])
        finally:
            database.close()
        found[on] = rows
        options.say(f"{'':10}{'':64}{'status':>8}{'queries':>8}{'p50':>8}{'p95 ms':>8}{'KB':>7}")
        for row in sorted(rows, key=lambda row: -row["p95"]):
            cells = f"{row['status']:8}{row['queries']:8}{row['p50']:8.1f}{row['p95']:8.1f}{row['bytes'] / 1024:7.0f}"
            options.say(f"{on:10}{row['address'][:62]:64}{cells}")
            found["missed"] += [f"{on}: {words}" for words in _missed(row)]
    return found


def _missed(row: dict[str, Any]) -> Iterator[str]:
    within = SEARCH_WITHIN if row["is_search"] else PAGE_WITHIN
    if row["status"] >= 400 and (row["status"] >= 500 or not row["address"].endswith(REFUSED)):
        yield f"{row['address']} answers {row['status']}"
    if row["p95"] > within and not row["is_bounded"]:
        yield f"{row['address']} takes {row['p95']:.0f} ms, at most {within}"
    if row["queries"] > QUERIES:
        yield f"{row['address']} asks {row['queries']} questions, at most {QUERIES}"
    if row["bytes"] > WEIGHT:
        yield f"{row['address']} weighs {row['bytes'] / 1024:.0f} KB"


# ---- in a process of its own, because settings are read once --------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=TIMES)
    options = parser.parse_args()
    django.setup()
    from django.test.utils import setup_test_environment

    setup_test_environment()
    print(json.dumps(_measure(options.times)))


def _measure(times: int) -> list[dict[str, Any]]:
    from django.db import connection
    from django.test import Client

    from integrations.models import Account, Role, Token
    from integrations.workers.pump import freeze_startup_objects

    freeze_startup_objects()  # as the web server does
    client = Client(headers={"Host": "localhost"})
    client.force_login(Account.objects.get(username="ada"), "django.contrib.auth.backends.ModelBackend")
    _, secret = Token.objects.issue("bench", Role.ADMIN, None)
    rows = []
    for address, is_search in _addresses():
        headers = {"Authorization": f"Bearer {secret}"} if address.startswith("/api/") else {}
        client.get(address, headers=headers)  # templates are read, plans are made
        asked.clear()
        with connection.execute_wrapper(_counting):
            answer = client.get(address, headers=headers)
        if answer.status_code in NOT_SHOWN:
            continue
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            client.get(address, headers=headers)
            spent.append((time.perf_counter() - began) * 1000)
        spent.sort()
        rows.append(
            {
                "address": address,
                "is_search": is_search,
                "is_bounded": NOTICE in answer.content,
                "status": answer.status_code,
                "queries": len(asked),
                "p50": spent[len(spent) // 2],
                "p95": spent[int(len(spent) * 0.95)],
                "bytes": len(answer.content),
            }
        )
    return rows


asked: list[str] = []


def _counting(execute: Any, sql: str, *rest: Any) -> Any:
    asked.append(sql)
    return execute(sql, *rest)


def _addresses() -> Iterator[tuple[str, bool]]:
    """Every page by its route, the searches, and the lists of the API; and whether it is a search."""
    from urllib.parse import quote

    from django.urls import NoReverseMatch, URLPattern, get_resolver, reverse

    from dashboard.presenters.pagination import cursor_of
    from integrations.models import Message

    for pattern in get_resolver().url_patterns:
        if isinstance(pattern, URLPattern) and pattern.name and pattern.name not in LEFT_OUT:
            for values in _examples(pattern.name):
                with suppress(NoReverseMatch):
                    yield reverse(pattern.name, kwargs=values), False
                    break
            else:
                raise RuntimeError(f"give {pattern.name} an example")
    for span in ("day", "month"):
        yield f"/?span={span}", False
        yield f"/services/seeded-01/?span={span}", False
    for search in SEARCHES:
        yield f"/messages/?q={quote(search)}", True
        yield f"/api/v1/messages?limit=50&q={quote(search)}", True
    newest = Message.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    for direction in ("older", "newer"):  # from the middle of all that there is
        for search in ("", "service:seeded-01", "status:dead"):
            yield f"/messages/?q={quote(search)}&cursor={quote(cursor_of(direction, newest // 2))}", True
    for query in ("sort=traffic", "sort=-name&page=2", "state=up&sort=backlog", "tag=money&q=e"):
        yield f"/services/?{query}", False
    yield "/breakers/?page=2", False
    for search in (
        "",
        "service:seeded-01",
        "service:seeded-01 status:dead",
        "tag:customer=c42",
        "body.order.id:>999000",
    ):
        yield f"/messages/breakdown/?q={quote(search)}", True
    for name in ("services", "failures", "operations", "events", "audit"):
        if name != "events":  # it streams
            yield f"/api/v1/{name}", False
    yield "/failures/?state=open", False
    for typed in ("", "service:se", "c4", "4242", "tag:", "tag:customer=c4", "body.order.id:42"):
        yield f"/_p/messages/words/?q={quote(typed)}", False


def _examples(route: str) -> Iterator[dict[str, Any]]:
    """Keywords of a route, tried one after the other."""
    from integrations.models import Attempt, Failure, Message, Operation, SavedView, Token
    from integrations.models.account import Account

    public: dict[str, Any] = {
        "failure": Failure.objects.filter(service__name="seeded-01").first(),
        "operation": Operation.objects.order_by("pk").first(),
        "lab": Attempt.objects.filter(trigger="lab").first(),
        "attempt": Attempt.objects.order_by("pk").first(),
        "service-call": Attempt.objects.filter(trigger="health", service__name="seeded-01").first(),
    }
    dead = Message.objects.filter(status="dead").order_by("-pk").first()
    one = next((row for name, row in public.items() if route.lstrip("_").startswith(name)), dead)
    public_id = one.public_id if one else "msg_0_00000000"
    yield {}
    yield {"name": "operating" if route == "document" else "seeded-01"}
    yield {"public_id": public_id}
    yield {"name": "seeded-01", "public_id": public_id}
    key: Any = SavedView.objects.first() if route.startswith("view") else Account.objects.first()
    if route.startswith("token"):
        key = Token.objects.first()
    yield {"pk": key.pk if key else 0}
    yield {"name": "seeded-01", "endpoint": "seeded"}
    yield {"group": "retries"}
    yield {"name": "seeded-01", "group": "retries"}


if __name__ == "__main__":
    main()
