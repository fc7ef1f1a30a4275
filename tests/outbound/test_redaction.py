"""No part of a secret survives redaction, and all other text stays readable."""

from __future__ import annotations

import json
import time
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest

from integrations.outbound.redaction import MASK, redacted_bytes, redacted_headers, redacted_text, redacted_url

CANARY = 'c4n/ry+"pä ss'
PLAIN = "canary-8f2e91"


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "x-auth-token", "X-Client-Secret",
        "Stripe-Signature", "webhook-signature", "X-Hub-Signature-256", "Ocp-Apim-Subscription-Key", "ApiKey", "token",
    ],
)  # fmt: skip
def test_a_header_that_carries_credentials_by_its_name_is_masked(name: str) -> None:
    assert redacted_headers([(name, "unknown-value")], []) == [[name, MASK]]


@pytest.mark.parametrize("value", ["Bearer abc.def", "Basic dTpw", "Token abc", "bearer x"])
def test_the_scheme_stays_as_a_hint(value: str) -> None:
    assert redacted_headers([("Authorization", value)], []) == [["Authorization", f"{value.split()[0]} {MASK}"]]


def test_an_unknown_first_word_is_not_taken_for_a_scheme() -> None:
    assert redacted_headers([("Authorization", "my-own-key and more")], []) == [["Authorization", MASK]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("Content-Type", "application/json"), ("webhook-id", "msg_1_00000001"), ("Idempotency-Key", "order-42")],
)
def test_an_ordinary_header_stays_readable(name: str, value: str) -> None:
    assert redacted_headers([(name, value)], [PLAIN]) == [[name, value]]


def test_a_secret_in_an_ordinary_header_is_masked() -> None:
    shown = redacted_headers([("X-Trace", f"caller={PLAIN}"), ("X-Short", "abc")], [PLAIN, "abc"])
    assert shown == [["X-Trace", MASK], ["X-Short", MASK]]


@pytest.mark.parametrize("secret", [CANARY, PLAIN, "geheim", "pass"])
@pytest.mark.parametrize(
    "spell",
    [
        str,
        lambda secret: quote(secret),
        lambda secret: quote(secret, safe="").lower() if "%" in quote(secret) else quote(secret, safe=""),
        quote_plus,
        lambda secret: json.dumps({"echo": secret}),
        lambda secret: json.dumps({"echo": secret}, ensure_ascii=False),
        lambda secret: b64encode(secret.encode()).decode(),
        lambda secret: b64encode(f"user:{secret}".encode()).decode(),
        lambda secret: b64encode(f"u:{secret}:more".encode()).decode(),
        lambda secret: "x/" + urlsafe_b64encode(f"us:{secret}".encode()).decode(),
    ],
)
def test_a_canary_is_found_in_every_spelling(secret: str, spell) -> None:
    spelled = spell(secret)
    shown = redacted_text(f"before {spelled} after", [secret])
    assert MASK in shown
    assert spelled not in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


def test_a_secret_that_contains_another_leaves_no_rest() -> None:
    assert redacted_text("key=abcdefgh", ["abcd", "abcdefgh"]) == f"key={MASK}"


def test_a_tiny_or_empty_secret_does_not_mask_the_whole_text() -> None:
    assert redacted_text("an answer", ["", "a", "an"]) == "an answer"


def test_an_address_keeps_its_shape_and_loses_its_credentials() -> None:
    url = "https://user:pw@api.example.com/v1/things?page=2&api_key=abc&X-Amz-Signature=ff&empty_token=&monkey=1"
    assert redacted_url(url) == (
        f"https://{MASK}@api.example.com/v1/things?page=2&api_key={MASK}&X-Amz-Signature={MASK}&empty_token=&monkey=1"
    )


def test_an_address_with_an_encoded_name_an_at_in_its_path_or_a_secret_in_it() -> None:
    assert redacted_url("https://a.example/@me?access%5Ftoken=1#id_token=2") == (
        f"https://a.example/@me?access%5Ftoken={MASK}#id_token={MASK}"
    )
    assert redacted_url(f"https://hooks.example/{PLAIN}/x", [PLAIN]) == f"https://hooks.example/{MASK}/x"
    assert PLAIN not in redacted_url(f"//u:{PLAIN}@host:80/")


def test_a_binary_body_that_echoes_a_secret_loses_only_the_secret() -> None:
    body = b"\x00\xff" + PLAIN.encode() + b"\xfe\x01"
    assert redacted_bytes(body, [PLAIN]) == b"\x00\xff" + MASK.encode() + b"\xfe\x01"


def test_a_megabyte_of_base64_is_searched_in_no_time() -> None:
    body = b64encode(b"z" * 700_000 + PLAIN.encode() + b"z" * 80_000)
    began = time.monotonic()
    assert redacted_bytes(body, [PLAIN]) == MASK.encode()
    assert time.monotonic() - began < 2
