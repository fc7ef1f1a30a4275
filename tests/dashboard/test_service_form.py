"""The service form: presets, durations and shares as people write them, and earlier versions of the settings."""

from __future__ import annotations

import pytest
from django.test import Client

from dashboard.forms.fields import as_seconds, as_share
from dashboard.forms.presets import PRESETS
from dashboard.presenters.durations import typed_duration, typed_share
from integrations.models import AuditEntry, Role, Service
from tests.support.signed_in import a_service, browser, words

pytestmark = pytest.mark.django_db


# ---- durations and shares -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        ("6h", 21_600),
        ("1h30m", 5_400),
        ("1 h 30 min", 5_400),
        ("90", 90),
        ("200ms", 0.2),
        ("0.2", 0.2),
        ("2 days", 172_800),
    ],
)
def test_a_duration_is_read_as_people_write_it(typed: str, seconds: float) -> None:
    assert as_seconds(typed) == pytest.approx(seconds)


@pytest.mark.parametrize("typed", ["soon", "6x", "h6", "6h soon", "", "1h-30m"])
def test_what_is_no_duration_is_refused(typed: str) -> None:
    with pytest.raises(ValueError, match="such as 30s"):
        as_seconds(typed)


@pytest.mark.parametrize("seconds", [0, 0.2, 0.05, 1, 1.5, 59, 90, 3600, 5400, 21_600, 86_400, 100_000.25, 0.0015])
def test_a_duration_survives_the_form(seconds: float) -> None:
    assert as_seconds(typed_duration(seconds)) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("typed", "share"), [("20 %", 0.2), ("20%", 0.2), ("0.2", 0.2), ("20", 0.2), ("1", 1), ("1 %", 0.01), ("1.1", 1.1)]
)
def test_a_share_is_read_as_people_write_it(typed: str, share: float) -> None:
    assert as_share(typed) == share


@pytest.mark.parametrize("share", [0, 0.07, 0.2, 0.29, 0.333, 1])
def test_a_share_survives_the_form(share: float) -> None:
    assert as_share(typed_share(share)) == share


def test_the_form_shows_durations_and_shares_and_saves_them_unchanged() -> None:
    service = a_service(retry={"max": 21_600, "budget": 0.29, "schedule": [0.2, 30, 600]}, breaker={"open_for": 90})
    before = (service.retry_policy, service.breaker_policy, service.timeouts)
    client = browser()
    page = client.get("/services/billing/edit/?all")
    html, form = page.content.decode(), page.context["form"]
    for value in ("6h", "29 %", "200ms, 30s, 10m", "90s"):
        assert f'value="{value}"' in html
    given = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)}
    assert client.post("/services/billing/edit/", given).status_code == 303
    service.refresh_from_db()
    assert (service.retry_policy, service.breaker_policy, service.timeouts) == before
    assert not AuditEntry.objects.filter(action="service.changed").exists()


def test_a_wrong_duration_is_said_at_its_field() -> None:
    answer = browser().post(
        "/services/new/", {"name": "a", "base_url": "https://a.example", "retry.max": "soon", "retry.jitter": "much"}
    )
    assert answer.status_code == 422
    assert "Write a duration such as 30s, 5m, 6h or 2d." in words(answer)
    assert "Write a share such as 20 %." in words(answer)


# ---- presets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.key)
def test_a_preset_fills_in_what_closed_groups_keep(preset) -> None:
    client = browser()
    assert preset.summary in words(client.get("/services/new/"))
    page = words(client.get("/services/new/", {"preset": preset.key}))
    assert "changed: max attempts" in page
    sent = {"name": "new-one", "base_url": "https://a.example", "preset": preset.key}
    assert client.post("/services/new/", sent).status_code == 303
    service = Service.objects.get()
    for section, values in preset.settings.items():
        assert {name: getattr(service, section)[name] for name in values} == values


def test_a_preset_gives_way_to_what_is_typed() -> None:
    sent = {"name": "new-one", "base_url": "https://a.example", "preset": "batch", "timeout.total": "1m"}
    browser().post("/services/new/", sent)
    service = Service.objects.get()
    assert (service.timeout["total"], service.limits["concurrency"]) == (60, 2)


def test_an_unknown_preset_is_the_defaults() -> None:
    assert browser().get("/services/new/", {"preset": "nothing"}).status_code == 200


# ---- earlier versions ---------------------------------------------------------------------------------------------
def edit(client: Client, **fields: str) -> None:
    given = {name.replace("__", "."): value for name, value in fields.items()}
    assert client.post("/services/billing/edit/", given).status_code == 303


def entry(field: str) -> AuditEntry:
    return AuditEntry.objects.filter(action="service.changed", after__has_key=field).order_by("-pk")[0]


def test_an_earlier_version_is_shown_and_restored() -> None:
    a_service(owner="Ada")
    client = browser()
    edit(client, retry__max_attempts="3")
    good = entry("retry")
    edit(client, retry__max_attempts="50", owner="Bob")
    edit(client, description="Worse")
    history = words(client.get("/services/billing/history/"))
    assert "retry.max_attempts from 3 → to 50" in history
    page = words(client.get(f"/services/billing/history/{good.pk}/"))
    assert "retry.max_attempts from 50 → to 3" in page
    assert "owner from Bob → to Ada" in page
    assert client.post(f"/services/billing/history/{good.pk}/").status_code == 303
    service = Service.objects.get()
    assert (service.retry["max_attempts"], service.owner, service.description) == (3, "Ada", "")
    assert AuditEntry.objects.order_by("-pk")[0].actor == "person a-operator"


def test_a_secret_is_never_restored_and_the_page_says_so() -> None:
    a_service(auth={"type": "bearer", "token": "first"})
    client = browser()
    created = AuditEntry.objects.get(action="service.created")
    edit(client, auth__type="none", owner="Bob")
    page = words(client.get(f"/services/billing/history/{created.pk}/"))
    assert "Not restored: auth." in page
    client.post(f"/services/billing/history/{created.pk}/")
    service = Service.objects.get()
    assert (service.auth["type"], service.owner) == ("none", "")


def test_a_version_of_a_deleted_service_of_the_same_name_is_not_offered() -> None:
    old = a_service(owner="Old")
    old_entry = AuditEntry.objects.get(action="service.created")
    old.delete()
    a_service(owner="New")
    client = browser()
    assert client.get(f"/services/billing/history/{old_entry.pk}/").status_code == 404
    assert "Old" not in words(client.get("/services/billing/history/"))


def test_a_version_that_a_rule_refuses_is_not_restored() -> None:
    admin = browser(Role.ADMIN)
    admin.post(
        "/services/new/",
        {
            "name": "billing",
            "base_url": "http://10.0.0.5/",
            "network.allow_private": "10.0.0.0/8",
            "network.reason": "x",
        },
    )
    created = AuditEntry.objects.get(action="service.created")
    edit(admin, base_url="https://a.example", network__allow_private="", network__reason="")
    page = browser(Role.OPERATOR).post(f"/services/billing/history/{created.pk}/", follow=True)
    assert "Not restored: only an admin may allow private networks" in words(page)
    assert Service.objects.get().base_url == "https://a.example"


def test_a_viewer_restores_nothing() -> None:
    a_service()
    created = AuditEntry.objects.get(action="service.created")
    assert browser(Role.VIEWER).post(f"/services/billing/history/{created.pk}/").status_code == 403
