"""The client's check of signatures, against the keys and the signer of the product."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from integrations.outbound.signing import Signer, SigningKeys, rotated
from switchboard_client import InvalidSignature, verify

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = '{"order":42,"note":"grüße"}'.encode()
OLD = SigningKeys.make(NOW)
NEW = SigningKeys.make(NOW)


def signed(*pairs: SigningKeys) -> dict[str, str]:
    moment = str(int(NOW.timestamp()))
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": moment, **dict(Signer(pairs).headers("msg_1", NOW, BODY))}


def check(headers: dict[str, str], *keys: str, body: bytes = BODY, late: float = 0) -> str:
    return verify(body, headers, keys, now=NOW.timestamp() + late)


def test_a_call_is_accepted_by_its_secret_and_by_its_public_key() -> None:
    assert check(signed(NEW), NEW.secret) == "msg_1"
    assert check(signed(NEW), NEW.public_key) == "msg_1"
    assert verify(BODY, signed(NEW), NEW.secret, now=NOW.timestamp()) == "msg_1"


def test_a_rotation_needs_no_common_moment() -> None:
    during = rotated([OLD], NOW, timedelta(days=1))
    assert check(signed(*during), OLD.secret)  # the receiver has not changed yet
    assert check(signed(OLD), NEW.secret, OLD.secret)  # the receiver changed first
    assert check(signed(*during), during[0].secret)
    with pytest.raises(InvalidSignature, match="no signature matches"):
        check(signed(NEW), OLD.secret, OLD.public_key)


@pytest.mark.parametrize("key", [NEW.secret, NEW.public_key], ids=["secret", "public key"])
def test_a_changed_call_is_refused(key: str) -> None:
    for changed in ({"Webhook-Id": "msg_2"}, {"Webhook-Timestamp": "1767225601"}, {"Webhook-Signature": "v1,AAAA x"}):
        headers = {name.lower(): value for name, value in {**signed(NEW)}.items()}
        with pytest.raises(InvalidSignature):
            check(headers | {name.lower(): value for name, value in changed.items()}, key)
    with pytest.raises(InvalidSignature):
        check(signed(NEW), key, body=BODY + b" ")


def test_an_old_call_cannot_be_sent_again_by_a_listener() -> None:
    for late in (301, -301):
        with pytest.raises(InvalidSignature, match="differs from the clock"):
            check(signed(NEW), NEW.secret, late=late)
    for moment in ("", "soon", "-1", "１", "9" * 5000):
        with pytest.raises(InvalidSignature, match="number of seconds"):
            check({**signed(NEW), "Webhook-Timestamp": moment}, NEW.secret)


def test_a_call_without_a_signature_is_refused() -> None:
    with pytest.raises(InvalidSignature, match="webhook-signature is missing"):
        check(signed(), NEW.secret)


def test_a_key_of_another_kind_is_an_error_of_the_receiver() -> None:
    with pytest.raises(ValueError, match="whsec_ or whpk_"):
        check(signed(NEW), NEW.private_key)
