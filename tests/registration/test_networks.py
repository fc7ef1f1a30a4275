"""A private network is allowed with a reason, by an admin, and for as long as the admin says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from integrations.delivery import lab_call
from integrations.delivery.request import build_call
from integrations.delivery.target import target_of
from integrations.errors import Invalid
from integrations.models import AuditEntry, Message, Service, Source
from integrations.outbound.addresses import parse_networks
from integrations.registration import registry, services_file
from integrations.schemas.service import ServiceIn
from tests.support.receiver import Receiver

TEN, LOOPBACK = "10.0.0.0/8", "127.0.0.0/8"


def registered(base_url: str = "http://10.1.2.3", **network: Any) -> Service:
    data = ServiceIn.model_validate({"name": "inner", "base_url": base_url, "network": network})
    return registry.register(data, actor="person ada", source=Source.FORM, may_allow_private=True)


def changed(*, actor: str = "person ada", may: bool = True, **network: Any) -> Service:
    service = Service.objects.get()
    data = ServiceIn.model_validate({"name": "inner", "base_url": service.base_url, "network": network})
    return registry.change(service, data, {"network"}, actor=actor, may_allow_private=may)


@pytest.mark.django_db
@pytest.mark.parametrize("reason", ["", "   "])
def test_a_network_without_a_reason_is_refused(reason: str) -> None:
    with pytest.raises(Invalid) as refusal:
        registered(allow_private=[TEN], reason=reason)
    assert refusal.value.errors[0][0] == ("network", "reason")


@pytest.mark.django_db
def test_the_audit_has_who_allowed_a_network_and_why() -> None:
    registered(allow_private=[TEN], reason="on site")
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.reason) == ("person ada", "on site")
    changed(actor="person bob", allow_private=[TEN, "fd00::/8"], reason="on site, both families")
    entry = AuditEntry.objects.latest("id")
    assert (entry.actor, entry.reason) == ("person bob", "on site, both families")
    assert entry.before["network"]["allowed_by"] == "person ada"
    assert entry.after["network"]["allowed_by"] == "person bob"


@pytest.mark.django_db
def test_a_new_network_or_another_end_needs_a_reason_and_fewer_networks_need_none() -> None:
    registered(allow_private=[TEN, "fd00::/8"], reason="on site")
    for network in ({"allow_private": [TEN, "fe80::/10"]}, {"allow_private": [TEN], "until": "2099-01-01T00:00:00Z"}):
        with pytest.raises(Invalid, match="say why"):
            changed(**network)
    assert changed(allow_private=[TEN]).network["reason"] == "on site"
    service = registered_without_reason = Service.objects.get()
    service.network = {"allow_private": [TEN, "fd00::/8"]}
    registered_without_reason.save()
    assert changed(allow_private=[TEN]).network["reason"] == ""


@pytest.mark.django_db
def test_an_end_in_the_past_is_refused() -> None:
    with pytest.raises(Invalid) as refusal:
        registered(allow_private=[TEN], reason="on site", until="2026-01-01T00:00:00Z")
    assert refusal.value.errors[0][0] == ("network", "until")


@pytest.mark.django_db
def test_only_an_admin_changes_the_reason_or_the_end() -> None:
    registered(allow_private=[TEN], reason="on site")
    for network in ({"reason": "another"}, {"reason": "on site", "until": "2099-01-01T00:00:00Z"}):
        with pytest.raises(Invalid, match="only an admin"):
            changed(may=False, allow_private=[TEN], **network)
    before = Service.objects.get().network
    assert changed(may=False, allow_private=[TEN], reason="on site").network == before


@pytest.mark.django_db
def test_a_services_file_without_a_reason_changes_no_network_and_allows_no_new_one() -> None:
    registered(allow_private=[TEN], reason="on site")
    before = Service.objects.get().network
    text = "services: [{name: inner, base_url: 'http://10.1.2.3', network: {allow_private: [%s]}}]"
    services_file.apply(text % "10.0.0.0/8", {}, actor="command line")
    assert Service.objects.get().network == before
    with pytest.raises(services_file.InvalidFile, match=r"inner\.network\.reason: say why"):
        services_file.apply(text % "10.0.0.0/8, 'fd00::/8'", {}, actor="command line")


# ---- the end --------------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_a_call_is_built_with_the_networks_of_its_own_time() -> None:
    service = registered(allow_private=[TEN], reason="on site", until="2099-01-31T10:00:59Z")
    target, end = target_of(service), datetime(2099, 1, 31, 10, 0, tzinfo=UTC)
    assert service.networks_until == end, "to the minute"
    for moment, allowed in ((end - timedelta(seconds=1), TEN), (end, "")):
        call = build_call(service, lab_call.LabRequest(service), identifier="x", now=moment, target=target)
        assert call.allowed == parse_networks(allowed)


@pytest.mark.django_db(transaction=True)
def test_a_message_after_the_end_of_its_network_is_refused_and_says_why(
    sink: Receiver, send: Callable[..., list[Message]], deliver: Callable[..., None]
) -> None:
    service = registered(sink.url, allow_private=[LOOPBACK], reason="on site", until="2099-01-31T10:00:00Z")
    send(service)
    deliver()
    assert Message.objects.get().status == "delivered"
    ended = timezone.now().replace(second=0, microsecond=0)
    service.network = {**service.network, "until": ended.isoformat()}
    service.save()
    [message] = send(service)
    deliver()
    message = Message.objects.get(pk=message.pk)
    assert (message.status, message.last_fault) == ("dead", "blocked")
    assert f"its networks were allowed until {ended:%Y-%m-%d %H:%M} UTC" in message.last_detail
    assert len(sink.calls) == 1
