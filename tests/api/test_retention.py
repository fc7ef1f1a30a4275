"""How long history is kept: read and changed by admins."""

from __future__ import annotations

from datetime import timedelta

import pytest

from integrations.history import retention
from integrations.models import AuditEntry, Retention, database_now
from tests.support.calling import Api, is_problem

pytestmark = pytest.mark.django_db


def test_an_admin_reads_and_changes_how_long_history_is_kept(admin: Api) -> None:
    assert admin.get("/retention").json() == {"messages_days": 90, "audit_days": None}
    Retention.objects.update(walked_to=7, rests_until=database_now() + timedelta(minutes=5))
    assert admin.patch("/retention", {"audit_days": 400}).json() == {"messages_days": 90, "audit_days": 400}
    assert admin.patch("/retention", {"messages_days": None}).json() == {"messages_days": None, "audit_days": 400}
    kept = Retention.objects.get()
    assert kept.periods == {"messages_days": None, "audit_days": 400}
    assert kept.walked_to == 0
    assert kept.rests_until <= database_now(), "the workers begin at once"
    entry = AuditEntry.objects.latest("pk")
    assert (entry.action, entry.actor) == ("retention.changed", f"token {admin.token.name}")
    assert (entry.before["messages_days"], entry.after["messages_days"]) == (90, None)


def test_what_changes_nothing_leaves_no_entry(admin: Api) -> None:
    assert admin.patch("/retention", {}).status_code == 200
    assert admin.patch("/retention", {"messages_days": 90}).status_code == 200
    assert not AuditEntry.objects.filter(action="retention.changed").exists()


@pytest.mark.parametrize("days", [0, -1, 3651, 1.5, "ninety"])
def test_bounds_are_kept(admin: Api, days: object) -> None:
    problem = is_problem(admin.patch("/retention", {"messages_days": days}), 422)
    assert problem["errors"][0]["loc"] == ["body", "messages_days"]
    assert Retention.objects.current().messages_days == 90


def test_it_is_for_admins(operator: Api, viewer: Api) -> None:
    for api in (operator, viewer):
        is_problem(api.get("/retention"), 403)
        is_problem(api.patch("/retention", {"messages_days": 1}), 403)


def test_a_message_that_is_not_there_never_was_or_is_no_longer_kept(viewer: Api) -> None:
    detail = is_problem(viewer.get("/messages/msg_77_0000001"), 404)["detail"]
    assert detail.endswith("It never existed, or is no longer kept: finished messages are kept for 90 days.")
    retention.change({"messages_days": 1}, actor="person ada")
    assert is_problem(viewer.get("/messages/msg_77_0000001"), 404)["detail"].endswith("kept for 1 day.")
    retention.change({"messages_days": None}, actor="person ada")
    assert "kept forever" in is_problem(viewer.get("/messages/msg_77_0000001"), 404)["detail"]
