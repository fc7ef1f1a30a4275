"""The schedule of backups over the API."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import ANY

from integrations.models import AuditEntry, BackupSchedule, database_now
from tests.support.calling import Api, is_problem

HOUR = timedelta(hours=1)


def test_the_api_sets_the_schedule_and_tells_the_last_result(admin: Api, operator: Api) -> None:
    changed = admin.patch("/backups", {"every_hours": 6, "folder": "/backups"}).json()
    assert (changed["every_hours"], changed["folder"], changed["keep"]) == (6, "/backups", 7)
    assert admin.patch("/backups", {"keep": 2}).json() == {**changed, "keep": 2, "next_at": ANY}
    BackupSchedule.objects.update(taken_at=database_now() - 10 * HOUR, changed_at=database_now() - 20 * HOUR)
    told = admin.get("/backups").json()
    assert (told["trouble"], told["failed_at"]) == ("overdue", None)
    is_problem(admin.patch("/backups", {"every_hours": 0}), 422)
    is_problem(operator.get("/backups"), 403)
    assert AuditEntry.objects.filter(action="backups.changed", actor=f"token {admin.token.name}").count() == 2
