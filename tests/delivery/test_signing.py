"""Signatures by Standard Webhooks, checked with the receivers' own libraries."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import connection

from integrations.delivery import lab_call
from integrations.errors import Conflict
from integrations.models import Attempt, Event, Message, Service, Source
from integrations.outbound.signing import MAX_KEYS, Signer, SigningKeys, rotated
from integrations.registration import registry
from integrations.schemas.service import ServiceIn
from tests.support.receiver import Call, Receiver

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

# Made with the openssl command alone, from the seed 00…1f and the secret 64…83 (hex), over the content as the
# specification has it: id, time and body with a dot between them.
IDENTIFIER, BODY = "msg_1_0000002a", '{"order":42,"note":"grüße"}'.encode()
VECTOR = SigningKeys(
    secret="whsec_ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=",
    private_key="whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA==",
    made_at=NOW,
)
V1 = "v1,ugJn7U9z4i09OP9yRlvapATaSXfykjJ41cdU7nWchSU="
V1A = "v1a,3Cshzn7i4Yfz71VeSKix2xtayiyA7ryAkQa4fiCyySlBKLUYP5kqoUPQ3Q78LgeBYNu1Sgvn1IGCdtzhJQwNCQ=="


# ---- signed content and keys --------------------------------------------------------------------------------------
def test_a_call_is_signed_as_the_vector_says() -> None:
    assert Signer([VECTOR]).headers(IDENTIFIER, NOW, BODY) == [("webhook-signature", f"{V1} {V1A}")]
    assert VECTOR.public_key == "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    assert is_signed_with(VECTOR.public_key, V1A, f"{IDENTIFIER}.1767225600.".encode() + BODY)


def test_a_call_is_signed_as_the_specifications_example() -> None:
    keys = SigningKeys(
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        private_key="whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        made_at=NOW,
    )
    at = datetime.fromtimestamp(1614265330, UTC)
    assert Signer([keys]).headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}') == [
        (
            "webhook-signature",
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= "
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        )
    ]


def test_without_keys_nothing_is_signed() -> None:
    assert Signer().headers(IDENTIFIER, NOW, BODY) == []


def test_keys_are_of_the_specified_form_and_never_the_same() -> None:
    first, second = SigningKeys.make(NOW), SigningKeys.make(NOW)
    assert first.secret != second.secret
    assert first.private_key != second.private_key
    assert 24 <= len(base64.b64decode(first.secret.removeprefix("whsec_"))) <= 64
    assert len(base64.b64decode(first.public_key.removeprefix("whpk_"))) == 32
    assert first.secret not in repr(first)
    assert first.private_key not in repr(first)


def test_earlier_keys_sign_until_the_overlap_has_passed() -> None:
    new, old = rotated([VECTOR], NOW, DAY)
    signer = Signer([new, old])
    assert old.valid_until == NOW + DAY
    (_, during) = signer.headers(IDENTIFIER, NOW + timedelta(hours=23), BODY)[0]
    (_, after) = signer.headers(IDENTIFIER, NOW + DAY, BODY)[0]
    assert [signature.partition(",")[0] for signature in during.split(" ")] == ["v1", "v1a", "v1", "v1a"]
    assert [signature.partition(",")[0] for signature in after.split(" ")] == ["v1", "v1a"]


def test_a_rotation_never_postpones_the_end_of_an_earlier_key() -> None:
    first = rotated([VECTOR], NOW, timedelta(hours=1))
    assert [keys.valid_until for keys in rotated(first, NOW, DAY)] == [None, NOW + DAY, NOW + timedelta(hours=1)]
    assert len(rotated(first, NOW + timedelta(hours=2), DAY)) == 2  # the pair that has ended is gone
    assert len(rotated(first, NOW, timedelta(0))) == 1


# ---- on the wire --------------------------------------------------------------------------------------------------
@pytest.fixture
def signed(register: Callable[..., Service], sink: Receiver) -> Service:
    service = register(base_url=sink.url, signing={"enabled": True})
    registry.rotate_signing(service, DAY, actor="test")
    return service


Send = Callable[..., list[Message]]
Deliver = Callable[..., None]


def test_receivers_verify_a_delivery_with_the_old_secret_and_the_new(
    signed: Service, sink: Receiver, send: Send, deliver: Deliver
) -> None:
    new, old = registry.rotate_signing(signed, DAY, actor="test")
    (message,) = send(signed, body='{"name": "grüße"}'.encode())
    deliver()
    assert sink.last.header("webhook-id") == message.wire_id
    for keys in (new, old):
        assert standardwebhooks.Webhook(keys.secret).verify(sink.last.body, headers(sink.last)) == {"name": "grüße"}
        svix.Webhook(keys.secret).verify(sink.last.body, headers(sink.last))  # raises if the signature is not ours
        assert is_signed_with_public_key(keys.public_key, sink.last)
    stranger = SigningKeys.make(NOW)
    for library in (standardwebhooks.Webhook, svix.Webhook):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            library(stranger.secret).verify(sink.last.body, headers(sink.last))
    assert not is_signed_with_public_key(stranger.public_key, sink.last)


def test_an_ended_secret_signs_no_more(signed: Service, sink: Receiver, send: Send, deliver: Deliver) -> None:
    (old,) = signed.signing_keys
    (new,) = registry.rotate_signing(signed, timedelta(0), actor="test")
    send(signed)
    deliver()
    standardwebhooks.Webhook(new.secret).verify(sink.last.body, headers(sink.last))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(old.secret).verify(sink.last.body, headers(sink.last))


def test_each_try_is_signed_with_its_own_time(signed: Service, sink: Receiver, send: Send, deliver: Deliver) -> None:
    (keys,) = signed.signing_keys
    signed.retry["initial"] = 1  # the smallest difference in a time of whole seconds
    signed.save()
    sink.script(503)
    send(signed)
    deliver(until=lambda: len(sink.calls) == 2)
    first, second = sink.calls
    assert first.header("webhook-id") == second.header("webhook-id")
    assert int(first.header("webhook-timestamp") or 0) < int(second.header("webhook-timestamp") or 0)
    for call in (first, second):
        standardwebhooks.Webhook(keys.secret).verify(call.body, headers(call))


@pytest.mark.parametrize("body", [b"", b"\x00\xff\xfe", b"x" * 300_000])
def test_a_body_of_any_bytes_is_signed_as_it_goes_out(
    signed: Service, sink: Receiver, send: Send, deliver: Deliver, body: bytes
) -> None:
    send(signed, body=body)
    deliver()
    assert sink.last.body == body
    assert is_signed_with_public_key(signed.signing_keys[0].public_key, sink.last)


def test_a_call_of_the_lab_is_signed_and_kept_without_its_signature(signed: Service, sink: Receiver) -> None:
    attempt = lab_call.run(lab_call.LabRequest(signed, "POST", body=b'{"n":1}'), actor="a")
    assert standardwebhooks.Webhook(signed.signing_keys[0].secret).verify(sink.last.body, headers(sink.last))
    assert sink.last.header("webhook-id") == attempt.public_id
    assert "v1," not in str(Attempt.objects.get().request_headers)


def test_a_header_of_the_message_cannot_stand_in_for_the_signature(
    signed: Service, sink: Receiver, send: Send, deliver: Deliver
) -> None:
    send(signed, headers={"Webhook-Signature": "v1,forged"})
    deliver()
    assert [name.lower() for name, _ in sink.last.headers].count("webhook-signature") == 1
    assert is_signed_with_public_key(signed.signing_keys[0].public_key, sink.last)


def test_a_service_that_does_not_sign_sends_no_signature(
    signed: Service, sink: Receiver, send: Send, deliver: Deliver
) -> None:
    registry.change(signed, wanted(signed, signing={"enabled": False}), {"signing"}, actor="test")
    send(signed)
    deliver()
    assert sink.last.header("webhook-signature") is None
    assert sink.last.header("webhook-timestamp")


@pytest.mark.long
@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed")
def test_receivers_in_javascript_verify_a_delivery_with_the_old_secret_and_the_new(
    signed: Service, sink: Receiver, send: Send, deliver: Deliver, tmp_path: Path
) -> None:
    new, old = registry.rotate_signing(signed, DAY, actor="test")
    send(signed, body='{"name": "grüße"}'.encode())
    deliver()
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "standardwebhooks@1", "svix@2"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=120)
    (tmp_path / "verify.js").write_text(VERIFY)
    facts = {
        "body": sink.last.body.decode(),
        "headers": headers(sink.last),
        "pairs": [[keys.secret, keys.public_key] for keys in (new, old)],
        "stranger": [SigningKeys.make(NOW).secret, SigningKeys.make(NOW).public_key],
        "vector": {
            "content": f"{IDENTIFIER}.1767225600.{BODY.decode()}",
            "public": VECTOR.public_key,
            "signature": V1A,
        },
    }
    ran = subprocess.run(
        ["node", "verify.js"],
        cwd=tmp_path,
        input=json.dumps(facts),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "standardwebhooks": [True, True, False],
        "svix": [True, True, False],
        "ed25519": [True, True, False],
        "vector": True,
    }


VERIFY = """
const crypto = require("node:crypto");
const facts = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const id = facts.headers["webhook-id"], time = facts.headers["webhook-timestamp"];

function withLibrary(Webhook, secret) {
  try { new Webhook(secret).verify(facts.body, facts.headers); return true; } catch { return false; }
}
function withKey(whpk, content, signature) {
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(whpk.slice(5), "base64")]);
  const key = crypto.createPublicKey({ key: der, format: "der", type: "spki" });
  return crypto.verify(null, Buffer.from(content), key, Buffer.from(signature.slice(4), "base64"));
}
const signed = facts.headers["webhook-signature"].split(" ").filter((one) => one.startsWith("v1a,"));
const all = [...facts.pairs, facts.stranger];
console.log(JSON.stringify({
  standardwebhooks: all.map(([secret]) => withLibrary(require("standardwebhooks").Webhook, secret)),
  svix: all.map(([secret]) => withLibrary(require("svix").Webhook, secret)),
  ed25519: all.map(([, whpk]) => signed.some((one) => withKey(whpk, `${id}.${time}.${facts.body}`, one))),
  vector: withKey(facts.vector.public, facts.vector.content, facts.vector.signature),
}));
"""


# ---- the registration ---------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_turning_it_on_makes_keys_once_so_that_no_call_goes_out_unsigned() -> None:
    service = registry.register(wanted(signing={"enabled": True}), actor="test", source=Source.FORM)
    (made,) = service.signing_keys
    for enabled in (False, True):
        registry.change(service, wanted(service, signing={"enabled": enabled}), {"signing"}, actor="test")
    assert Service.objects.get().signing_keys == [made]


@pytest.mark.django_db
def test_keys_outlive_another_host_which_never_receives_them() -> None:
    service = registry.register(
        wanted(signing={"enabled": True}, auth={"type": "bearer", "token": "entered"}), actor="test", source=Source.FORM
    )
    before = service.signing_keys
    registry.change(service, wanted(service, base_url="https://other.example.com"), {"base_url"}, actor="test")
    assert Service.objects.get().signing_keys == before
    assert Service.objects.get().secret("auth.token") is None


@pytest.mark.django_db
def test_a_form_that_was_opened_before_a_rotation_does_not_undo_it() -> None:
    service = registry.register(wanted(signing={"enabled": True}), actor="test", source=Source.FORM)
    stale = Service.objects.get()
    keys = registry.rotate_signing(service, DAY, actor="test")
    registry.change(stale, wanted(service, owner="ada"), {"owner"}, actor="test")
    assert Service.objects.get().signing_keys == keys


@pytest.mark.django_db
def test_secrets_are_encrypted_in_the_database() -> None:
    service = registry.register(wanted(signing={"enabled": True}), actor="test", source=Source.FORM)
    with connection.cursor() as cursor:
        cursor.execute("SELECT secrets FROM integrations_service")
        stored = cursor.fetchone()[0]
    keys = service.signing_keys[0]
    assert keys.secret not in stored
    assert keys.private_key not in stored
    assert "whsec_" not in str(list(Event.objects.values()))


@pytest.mark.django_db
def test_only_so_many_secrets_sign_at_once() -> None:
    service = registry.register(wanted(signing={"enabled": True}), actor="test", source=Source.FORM)
    for _ in range(MAX_KEYS - 1):
        registry.rotate_signing(service, DAY, actor="test")
    with pytest.raises(Conflict, match="overlap of 0"):
        registry.rotate_signing(service, DAY, actor="test")
    assert len(Service.objects.get().signing_keys) == MAX_KEYS
    assert len(registry.rotate_signing(service, timedelta(0), actor="test")) == 1


# ---- helpers ------------------------------------------------------------------------------------------------------
def wanted(service: Service | None = None, **fields: Any) -> ServiceIn:
    name = service.name if service else "billing"
    base_url = service.base_url if service else "https://billing.example.com"
    return ServiceIn.model_validate({"name": name, "base_url": base_url, **fields})


def headers(call: Call) -> dict[str, str]:
    return {name.lower(): value for name, value in call.headers}


def is_signed_with_public_key(public_key: str, call: Call) -> bool:
    content = f"{call.header('webhook-id')}.{call.header('webhook-timestamp')}.".encode() + call.body
    signatures = (call.header("webhook-signature") or "").split(" ")
    return any(is_signed_with(public_key, one, content) for one in signatures if one.startswith("v1a,"))


def is_signed_with(public_key: str, signature: str, content: bytes) -> bool:
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_")))
    try:
        key.verify(base64.b64decode(signature.removeprefix("v1a,")), content)
    except InvalidSignature:
        return False
    return True
