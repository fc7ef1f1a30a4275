"""What Switchboard itself listens on is no target; the same port number elsewhere is one."""

from __future__ import annotations

import pytest

from integrations.outbound.own_listeners import Listener, OwnListeners, machine_addresses, own_listeners, parse_listener

CONSOLE = own_listeners([Listener("console", 8000, is_here=True)])
DATABASE = own_listeners([Listener("database", 5432, "db.internal", ("10.0.0.7", "fd00::7"))])
HERE = ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "64:ff9b::7f00:1"]


@pytest.mark.parametrize("address", HERE)
def test_the_consoles_own_port_is_never_a_target(address: str) -> None:
    assert "own console" in (CONSOLE.refusal("console.example", 8000, [address]) or "")
    assert CONSOLE.refusal("console.example", 8001, [address]) is None


def test_the_consoles_port_number_elsewhere_is_a_target() -> None:
    assert CONSOLE.refusal("other.example", 8000, ["93.184.216.34"]) is None


@pytest.mark.parametrize("address", ["10.0.0.7", "::ffff:10.0.0.7", "fd00::7", "64:ff9b::a00:7", "2002:a00:7::1"])
def test_the_database_on_another_machine_is_no_target(address: str) -> None:
    assert "own database" in (DATABASE.refusal("elsewhere.example", 5432, ["93.184.216.34", address]) or "")
    assert DATABASE.refusal("elsewhere.example", 80, [address]) is None


def test_the_same_port_of_a_neighbour_of_the_database_is_a_target() -> None:
    assert DATABASE.refusal("10.0.0.8", 5432, ["10.0.0.8"]) is None
    assert DATABASE.refusal("127.0.0.1", 5432, ["127.0.0.1"]) is None


@pytest.mark.parametrize("host", ["db.internal", "DB.internal."])
def test_the_databases_name_is_no_target_whichever_of_its_addresses_comes_first(host: str) -> None:
    assert "own database" in (DATABASE.refusal(host, 5432, ["10.0.0.99"]) or "")


def test_a_database_at_a_loopback_address_is_no_target_at_any_address_of_this_machine() -> None:
    here = own_listeners([Listener("database", 5432, "127.0.0.1", ("127.0.0.1",))])
    for address in HERE:
        assert here.refusal("some.example", 5432, [address])


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [
        ("http://127.0.0.1:8000/metrics", True),
        ("http://localhost:8000/metrics", True),
        ("http://2130706433:8000/", True),
        ("https://[::1]:8000/", True),
        ("http://127.0.0.1/", False),
        ("http://127.0.0.1:80001/", False),  # not a URL: another check has the reason
        ("http://console.example:8000/", False),  # judged at the call
    ],
)
def test_a_url_is_judged_by_its_text(url: str, is_refused: bool) -> None:
    assert bool(CONSOLE.refusal_of_url(url)) == is_refused


def test_equal_listeners_compare_equal_in_any_order() -> None:
    one, other = Listener("console", 1, is_here=True), Listener("Redis", 2, "cache", ("10.0.0.9",))
    assert own_listeners([one, other]) == own_listeners([other, one]) != OwnListeners()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8443", ("", 8443)),
        ("proxy.internal:443", ("proxy.internal", 443)),
        ("[::1]:443", ("::1", 443)),
    ],
)
def test_a_listener_is_a_port_or_a_host_with_a_port(text: str, found: tuple[str, int]) -> None:
    assert parse_listener(text) == found


@pytest.mark.parametrize("text", ["", "0", "70000", "https", "http://proxy:443", "proxy", "a b:443", "²"])
def test_a_text_that_is_no_listener_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        parse_listener(text)


def test_a_machines_addresses_are_what_other_machines_may_call() -> None:
    assert "127.0.0.1" not in machine_addresses()
    assert "::1" not in machine_addresses()
