"""Failures that share a group, and failures that never do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from integrations.outbound.outcome import Fault
from integrations.policies.fingerprint import READ_OF_TEXT, TITLE, FailureDetails, fingerprint, fold, remainder

ANSWER = FailureDetails(service_id=1, endpoint_id=2, fault=Fault.STATUS, status_code=500, has_responded=True)

WORD = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)
QUOTABLE = st.text(st.characters(exclude_characters="\"'", exclude_categories=("Cs", "Cc")), max_size=20)
CHANGING = st.one_of(
    st.integers(min_value=0).map(str),
    st.floats(min_value=0, max_value=1e6).map(lambda number: f"{number:.3f}"),
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.dates().map(str),
    st.uuids().map(str),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=4).map(lambda address: f"{address}:8080"),
    st.ip_addresses(v=6).map(str),
    st.emails(domains=st.just("example.com")).filter(lambda email: not set(email) & set("'\"`!#$%&*/=?^{|}~")),
    WORD.map(lambda word: f"https://{word}.example/{word}?q=1"),
    st.from_regex(r"[0-9a-f]{3}[0-9][0-9a-f]{8}", fullmatch=True),
    QUOTABLE.map(lambda text: f'"{text}"'),
)


def said(body: bytes | dict[str, Any], **changes: Any) -> FailureDetails:
    return replace(ANSWER, body=body if isinstance(body, bytes) else json.dumps(body).encode(), **changes)


def same(one: FailureDetails, other: FailureDetails) -> bool:
    return fingerprint(one).key == fingerprint(other).key


@pytest.mark.slow
@given(st.one_of(st.text(), st.lists(st.one_of(CHANGING, WORD, st.sampled_from(list("'\":<>@./…- ")))).map("".join)))
@example("0:0.@A")  # a number that ends where an address could begin
def test_folding_twice_is_folding_once(text: str) -> None:
    once = fold(text)
    assert fold(once) == once


@given(WORD, CHANGING, CHANGING, WORD)
def test_what_changes_from_call_to_call_splits_no_group(before: str, one: str, other: str, after: str) -> None:
    quoted = one[0] == '"', other[0] == '"'
    if quoted[0] == quoted[1]:  # a quoted value keeps its marks
        assert fold(f"{before} {one} {after}") == fold(f"{before} {other} {after}")
        assert same(said(f"{before} {one} {after}".encode()), said(f"{before} {other} {after}".encode()))


@given(st.integers(100, 599), st.integers(100, 599), st.binary(max_size=200))
def test_different_status_codes_never_meet(one: int, other: int, body: bytes) -> None:
    assert same(said(body, status_code=one), said(body, status_code=other)) == (one == other)
    left = {remainder(said(body, status_code=code)).key for code in (one, other)}
    assert len(left) == len({one, other})


@pytest.mark.slow
@given(st.binary(max_size=2000), st.sampled_from(list(Fault)), st.text(max_size=200))
def test_any_bytes_survive(body: bytes, fault: Fault, detail: str) -> None:
    made = fingerprint(replace(ANSWER, body=body, fault=fault, detail=detail))
    assert len(made.key) == 32
    assert 0 < len(made.title) <= TITLE
    stored = json.dumps([made.title, made.because], ensure_ascii=False).encode()  # no half surrogates
    assert b"\\u0000" not in stored  # PostgreSQL rejects NUL


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=5)),
)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["code", "error", "errors", "type", "message", "\ud800", "\x00", "k1"]), JSON))
def test_any_json_survives(body: dict[str, Any]) -> None:
    made = fingerprint(said(body))
    stored = json.dumps([made.title, made.because], ensure_ascii=False).encode()
    assert b"\\u0000" not in stored


@pytest.mark.parametrize(
    "text", ["a" * 2**20, "1" * 2**20, "<" * 2**20, "a." * 2**19, "'" * 2**20, "a-" * 2**19, ":" * 2**20, "a@" * 2**19]
)
def test_only_the_beginning_of_a_megabyte_is_looked_at(text: str) -> None:
    changed = text[: 2 * READ_OF_TEXT] + "something else"
    assert same(said(text.encode()), said(changed.encode()))
    assert fold(text) == fold(changed)


def test_a_json_error_goes_by_its_code_and_its_names() -> None:
    first = said({"error": {"code": "no_stock", "message": "none of A is left"}, "at": "now"})
    assert same(first, said({"at": "then", "error": {"message": "B is gone", "code": "no_stock"}}))
    assert not same(first, said({"error": {"code": "no_credit", "message": "none of A is left"}, "at": "now"}))
    assert not same(first, said({"error": {"code": "no_stock", "message": "none"}, "at": "now", "hint": ""}))
    assert fingerprint(first).title == "500 Internal Server Error: no_stock"


def test_a_json_error_without_a_code_goes_by_its_words() -> None:
    first = said({"message": "order 41 was not found"})
    assert same(first, said({"message": "order 42 was not found"}))
    assert not same(first, said({"message": "the customer was not found"}))


def test_an_endpoint_a_fault_and_a_phase_tell_failures_apart() -> None:
    late = FailureDetails(1, 2, Fault.TIMEOUT, detail="no complete response within 10 s")
    others = [replace(late, endpoint_id=3), replace(late, service_id=3), replace(late, fault=Fault.RESET)]
    others.append(replace(late, has_responded=True))
    assert len({fingerprint(facts).key for facts in [late, *others]}) == 5
    assert same(late, replace(late, detail="no complete response within 30 s"))


def test_a_page_goes_by_its_title() -> None:
    page = b"<html><head><title>502 Bad Gateway</title></head><body>ray id <b>%s</b> is it</body></html>"
    assert same(said(page % b"abc"), said(page % b"xyz"))
    assert fingerprint(said(b"<h1>Sorry</h1> come back")).because["text"] == "Sorry come back"
