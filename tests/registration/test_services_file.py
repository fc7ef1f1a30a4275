"""`manage.py services`: a file applied as a whole or not at all, and exported so that applying it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from integrations.models import AuditEntry, Draft, Endpoint, Event, Message, Service, Source
from integrations.registration import endpoints, registry, services_file
from integrations.registration.services_file import InvalidFile, PlannedChange
from integrations.schemas.service import EndpointIn, ServiceIn

pytestmark = pytest.mark.django_db

CANARY = "canary-5f1e0c"
ENVIRONMENT = {"TOKEN": CANARY, "SWITCHBOARD_SERVICE_INNER_URL": "https://inner.example.com"}
TWO = """
services:
  - name: billing
    base_url: https://billing.example.com
    auth: {type: bearer, token: {env: TOKEN}}
    retry: {max_attempts: 5}
    endpoints:
      - {name: pay, path: /pay}
  - name: crm
    base_url: https://crm.example.com
"""


def apply(text: str, **options: Any) -> list[PlannedChange]:
    return services_file.apply(text, ENVIRONMENT, actor="command line", **options)


def verbs(changes: list[PlannedChange]) -> dict[str, str]:
    return {change.name: change.verb for change in changes}


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidFile) as refused:
        apply(text)
    return list(refused.value.problems)


# ---- applying -----------------------------------------------------------------------------------------------------
def test_a_file_registers_services_with_endpoints_and_secrets_from_the_environment() -> None:
    assert verbs(apply(TWO)) == {"billing": "registered", "crm": "registered"}
    billing = Service.objects.get(name="billing")
    assert (billing.source, billing.secret("auth.token"), billing.retry_policy.max_attempts) == ("file", CANARY, 5)
    assert Endpoint.objects.get().path == "/pay"
    assert AuditEntry.objects.get(action="service.created", target="crm").actor == "command line"


def test_applied_again_it_changes_nothing_at_all() -> None:
    apply(TWO)
    before = everything()
    assert verbs(apply(TWO)) == {"billing": "unchanged", "crm": "unchanged"}
    assert everything() == before


def test_what_changed_is_said_line_by_line_without_secrets() -> None:
    apply(TWO)
    billing = Service.objects.get(name="billing")
    data = ServiceIn(name="billing", base_url=billing.base_url, owner="ada")
    registry.change(billing, data, {"owner"}, actor="test")
    later = TWO.replace("max_attempts: 5", "max_attempts: 7").replace("path: /pay", "path: /v2/pay")
    changes = services_file.apply(later, {**ENVIRONMENT, "TOKEN": "another-secret"}, actor="command line")
    assert changes[0].details == (
        "owner: ada → none",  # an omitted field has its default
        "auth.token: value changed",
        "retry.max_attempts: 5 → 7",
        "endpoint pay: path: /pay → /v2/pay",
    )
    assert Service.objects.get(name="billing").secret("auth.token") == "another-secret"


def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    before = everything()
    assert verbs(apply(TWO, dry_run=True)) == {"billing": "registered", "crm": "registered"}
    assert everything() == before
    apply(TWO)
    later = TWO.replace("max_attempts: 5", "max_attempts: 7").replace("pay, path: /pay", "bill, path: /bill")
    before = everything()
    foreseen = apply(later, dry_run=True, prune=True)
    assert everything() == before
    assert apply(later, prune=True) == foreseen


def test_one_bad_service_keeps_all_others_from_being_applied() -> None:
    before = everything()
    # A rule that only the registry knows, found while the others are applied already.
    assert problems(f"{TWO}  - name: inner\n    base_url: http://169.254.169.254/\n")[0].startswith(
        "line 12: inner.base_url: "
    )
    assert everything() == before


def test_a_service_that_was_registered_otherwise_keeps_its_source() -> None:
    registry.register(ServiceIn(name="crm", base_url="https://crm.example.com"), actor="person ada", source=Source.FORM)
    assert verbs(apply(TWO))["crm"] == "unchanged"
    assert Service.objects.get(name="crm").source == "form"


def test_another_host_needs_its_secret_again() -> None:
    apply(TWO)
    moved = TWO.replace("billing.example.com", "elsewhere.example.com")
    assert problems(moved.replace("{env: TOKEN}", "{set: true}")) == [
        "line 5: billing.auth.token: bearer authentication needs token"
    ]
    assert verbs(apply(moved))["billing"] == "changed"


# ---- pruning ------------------------------------------------------------------------------------------------------
ONE = TWO.partition("  - name: crm")[0]


def test_nothing_is_deleted_unless_pruning_is_asked_for() -> None:
    apply(TWO)
    assert verbs(apply(ONE.replace("- {name: pay, path: /pay}", "[]"))) == {"billing": "unchanged"}
    assert Service.objects.filter(name="crm").exists()
    assert Endpoint.objects.filter(name="pay").exists()


def test_pruning_deletes_what_a_file_registered_and_no_longer_names() -> None:
    apply(TWO)
    registry.register(ServiceIn(name="own", base_url="https://own.example.com"), actor="a", source=Source.API)
    changes = apply(ONE.replace("- {name: pay, path: /pay}", "[]"), prune=True)
    assert verbs(changes) == {"billing": "changed", "crm": "deleted"}
    assert changes[0].details == ("endpoint pay: deleted",)
    assert set(Service.objects.values_list("name", flat=True)) == {"billing", "own"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_pruning_keeps_a_service_with_unfinished_messages_and_says_so(dry_run: bool) -> None:
    apply(TWO)
    crm = Service.objects.get(name="crm")
    Message.objects.accept([Draft(service=crm, method="POST", path="/", body=b"", content_type="")])
    (change,) = [change for change in apply(ONE, prune=True, dry_run=dry_run) if change.name == "crm"]
    assert change.verb == "kept"
    assert "unfinished" in change.details[0]
    assert Service.objects.filter(name="crm").exists()


# ---- exporting ----------------------------------------------------------------------------------------------------
EVERY_KIND: list[dict[str, Any]] = [
    {"base_url": "https://a.example.com/v1?version=2"},
    {"url_env": "SWITCHBOARD_SERVICE_INNER_URL"},
    {"auth": {"type": "basic", "username": "ada", "password": CANARY}},
    {"auth": {"type": "bearer", "token": CANARY}},
    {"auth": {"type": "header", "name": "X-Key", "value": CANARY}},
    {"auth": {"type": "hmac", "header": "X-Sum", "secret": CANARY}},
    {"auth": {"type": "oauth2", "token_url": "https://id.example.com/t", "client_id": "c", "client_secret": CANARY}},
    {"headers": {"X-Api-Key": CANARY, "Authorization": f"Bearer {CANARY}", "Accept": "text/plain", "X-Set": "set"}},
    {"signing": {"enabled": True}},
    {"description": "Two\nlines – “quoted”: yes\n", "tags": ["yes", "1", "a: b"], "owner": "null"},
    {"retry": {"schedule": [1, 2.5], "retry_on": ["5xx", 418], "deadline": 60, "on_gone": "pause"}, "ordering": "key"},
    {"breaker": {"window": {"type": "time", "size": 60}, "failure_rate": 0.1}, "limits": {"rate": 3, "per": 2}},
    {"breaker": {"window": {"size": 40}}, "timeout": {"total": 5}, "response_cap": 0, "cache": {"ttl": 9}},
    {"network": {"allow_private": ["10.0.0.0/8"], "reason": "on site", "until": "2099-01-31T10:00:00Z"}, "base_url": "http://10.1.2.3:8080"},
]  # fmt: skip
ENDPOINTS: list[dict[str, Any]] = [
    {"name": "plain"},
    {"name": "full", "method": "PUT", "path": "/a%20b", "query": {"v": 1, "x": ["a", "b"], "ok": True, "q": "ü &=+"},
     "headers": {"X-A": "1"}, "content_type": "text/csv", "body": "a;b\n1;2\n\ttab \n", "description": "It: #1"},
    {"name": "secret", "query": {"api_key": CANARY, "page": 2}, "headers": {"X-Token": CANARY}, "body": '{"a": 1}'},
]  # fmt: skip


@pytest.fixture
def every_kind(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    services = []
    for number, fields in enumerate(EVERY_KIND):
        address = {} if "url_env" in fields else {"base_url": "https://a.example.com"}
        data = ServiceIn.model_validate({"name": f"s-{number}", **address, **fields})
        service = registry.register(data, actor="test", source=Source.FILE, may_allow_private=True)
        for endpoint in ENDPOINTS[: number % 4]:
            endpoints.save(service, EndpointIn.model_validate(endpoint), actor="test")
        services.append(service)
    Service.objects.create(name="by-hand", base_url="https://b.example.com", retry={"max_attempts": 2})
    return services


def test_an_export_applies_as_no_change_and_holds_no_secret(every_kind: list[Service]) -> None:
    text = services_file.export()
    assert CANARY not in text
    assert "whsec_" not in text
    assert "whpk_" not in text
    before = everything()
    assert set(verbs(apply(text, prune=True)).values()) == {"unchanged"}
    assert everything() == before


def test_an_export_registers_the_same_elsewhere_once_its_secrets_are_named(every_kind: list[Service]) -> None:
    before = {service.name: as_registered(service) for service in Service.objects.all()}
    text = services_file.export().replace("Authorization: {set: true}", f"Authorization: Bearer {CANARY}")
    Service.objects.all().delete()
    assert set(verbs(apply(text.replace("{set: true}", "{env: TOKEN}"))).values()) == {"registered"}
    assert {service.name: as_registered(service) for service in Service.objects.all()} == before


def test_an_export_of_a_secret_that_was_lost_applies_as_no_change() -> None:
    apply(TWO)
    billing = Service.objects.get(name="billing")
    data = ServiceIn(name="billing", base_url="https://moved.example.com")
    registry.change(billing, data, {"base_url"}, actor="test")
    text = services_file.export(["billing"])
    assert "{set: false}" in text
    assert verbs(apply(text)) == {"billing": "unchanged"}


def test_only_the_named_services_are_exported() -> None:
    apply(TWO)
    assert "billing" not in services_file.export(["crm"])
    with pytest.raises(InvalidFile, match="no service is named unknown"):
        services_file.export(["crm", "unknown"])


# ---- problems of a file --------------------------------------------------------------------------------------------
def test_every_fault_is_said_with_its_line_and_its_path() -> None:
    text = """\
services:
  - name: billing
    base_url: https://billing.example.com
    auth: {type: bearer, token: in-the-clear-1}
    retry:
      max_attempts: 0
      retries: 3
    endpoints:
      - name: pay
        path: pay
      - name: pay
  - base_url: nonsense
  - name: crm
    base_url: https://crm.example.com
    tags: money
    auth: {type: bearer, token: {env: NOT_THERE}}
    headers: {X-Api-Key: {set: true}}
"""
    said = problems(text)
    assert [": ".join(line.split(": ")[:2]) for line in said] == [
        "line 4: billing.auth.token",
        "line 6: billing.retry.max_attempts",
        "line 7: billing.retry.retries",
        "line 10: billing.endpoints.pay.path",
        "line 12: 2.base_url",
        "line 12: 2.name",
        "line 15: crm.tags",
        "line 16: crm.auth.token",
        "line 17: crm.headers.X-Api-Key",
    ]
    assert "the file must not contain secrets" in said[0]
    assert said[1].endswith("must be at least 1")
    assert said[2].endswith("is not a known field")
    assert said[7].endswith("NOT_THERE is not set in the environment")
    assert "in-the-clear" not in "".join(said)
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("services:", "line 1: services: must be a list"),
        ("- a", "line 1: must be an object"),
        ("service: []", "line 1: services: is required"),
        ("services: [}", "line 1: invalid YAML"),
        ("services: []\nservices: []", "line 2: services appears twice"),
        ("services:\n- name: a\n  retry: {max: 1, max: 2}", "line 3: max appears twice"),
        ("services:\n- !!python/object:os.system {}", "line 2: invalid YAML: could not determine a constructor"),
        ("services: &all\n- *all", "line 1: this alias contains itself"),
        ("a: 2026-99-99", "invalid YAML: month must be in"),
        ("a: \x07", "invalid YAML"),
        ("[" * 5000, "the file is too deeply nested"),
        ("services:\n- {? [a]: b}", "line 2: invalid YAML: found unhashable key"),
        ("services: [3]", "line 1: 1: must be an object"),
        ("services: [{name: [a], base_url: x, headers: {A: {set: true}}}]", "line 1: "),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_said(text: str, problem: str) -> None:
    assert any(problem in line for line in problems(text)), problems(text)


def test_a_small_file_that_means_billions_of_values_is_refused() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 1,000,000 values" in problems("\n".join(["a0: &a0 [x]", *levels]))[0]


def test_names_stand_once() -> None:
    twice = TWO.replace("name: crm", "name: billing")
    assert problems(twice) == ["line 9: billing.name: another service in this file has this name"]
    assert problems(TWO.replace("/pay}", "/pay}\n      - {name: pay}")) == [
        "line 9: billing.endpoints.pay.name: another endpoint of this service has this name"
    ]


def test_aliases_and_merges_are_taken_also_where_they_hold_references() -> None:
    apply(
        """
services:
  - &base
    name: a
    base_url: https://a.example.com
    auth: &token {type: bearer, token: {env: TOKEN}}
  - <<: *base
    name: b
  - {name: c, base_url: "https://c.example.com", auth: *token}
"""
    )
    assert [service.secret("auth.token") for service in Service.objects.all()] == [CANARY] * 3


# ---- the command --------------------------------------------------------------------------------------------------
@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOKEN", CANARY)
    path = tmp_path / "services.yaml"
    path.write_text(TWO)
    return path


@pytest.fixture
def command() -> Callable[..., str]:
    def run(*arguments: object) -> str:
        printed = StringIO()
        call_command("services", *map(str, arguments), stdout=printed)
        return printed.getvalue()

    return run


def test_the_command_applies_a_file_and_says_what_it_did(command: Callable[..., str], file: Path) -> None:
    dry = command("apply", file, "--dry-run")
    assert dry.startswith("+ billing: registered\n    base_url: https://billing.example.com\n")
    assert dry.endswith("2 registered. Dry run: nothing was changed.\n")
    assert command("apply", file).endswith("2 registered.\n")
    assert command("apply", file) == "2 unchanged.\n"
    file.write_text(command("export"))
    assert command("apply", file, "--prune") == "2 unchanged.\n"
    assert CANARY not in dry


def test_the_command_refuses_in_words(command: Callable[..., str], file: Path) -> None:
    file.write_text(TWO.replace("max_attempts: 5", "max_attempts: often"))
    with pytest.raises(CommandError, match=r"line 6: billing.retry.max_attempts: .*\nNothing was changed\.$"):
        command("apply", file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="is not UTF-8"):
        command("apply", file)
    with pytest.raises(CommandError, match="cannot be read"):
        command("apply", file.with_name("nothing.yaml"))


def test_a_secret_is_read_from_a_file_next_to_the_services_file(command: Callable[..., str], file: Path) -> None:
    file.write_text(TWO.replace("{env: TOKEN}", "{file: token.txt}"))
    file.with_name("token.txt").write_text(CANARY + "\n")
    assert CANARY not in command("apply", file)
    assert Service.objects.get(name="billing").secret("auth.token") == CANARY
    assert command("apply", file) == "2 unchanged.\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 70_000, "has more than 65,536 bytes"),
    ],
)
def test_a_file_without_a_secret_is_refused_in_words(
    command: Callable[..., str], file: Path, content: bytes | None, reason: str
) -> None:
    file.write_text(TWO.replace("{env: TOKEN}", "{file: token.txt}"))
    if content is not None:
        file.with_name("token.txt").write_bytes(content)
    with pytest.raises(CommandError, match=f"line 5: billing.auth.token: .*token.txt {reason}"):
        command("apply", file)
    assert not Service.objects.exists()


def test_the_file_in_the_guide_can_be_applied() -> None:
    guide = (Path(__file__).parents[2] / "docs/operating.md").read_text()
    example = guide.partition("```yaml\n")[2].partition("```")[0]
    changes = services_file.apply(example, {"BILLING_TOKEN": CANARY}, actor="command line")
    assert verbs(changes) == {"billing": "registered"}


# ---- helpers ------------------------------------------------------------------------------------------------------
def everything() -> list[Any]:
    """All that an apply could write."""
    return [list(model.objects.order_by("pk").values()) for model in (Service, Endpoint, Event, AuditEntry)]


def as_registered(service: Service) -> dict[str, Any]:
    """Return the settings without the times at which secrets were set, without keys, which differ each time, and
    without who allowed its networks."""
    readable = registry.configuration(service)
    auth = {name: value["set"] if isinstance(value, dict) else value for name, value in readable["auth"].items()}
    network = {name: value for name, value in readable["network"].items() if name not in registry.NETWORK_FACTS}
    of_service = [endpoints.configuration(endpoint) for endpoint in service.endpoints.all()]
    signing = service.signing.get("enabled", False)
    return {**readable, "auth": auth, "network": network, "signing": signing, "endpoints": of_service}
