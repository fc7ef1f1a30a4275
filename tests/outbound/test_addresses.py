"""The addresses that calls may go to, as tables: every spelling of a forbidden address, and the permitted ones."""

from __future__ import annotations

import asyncio
import socket

import pytest

from integrations.outbound import resolve as resolving
from integrations.outbound.addresses import Refused, literal, parse_networks, refusal, vet
from integrations.outbound.resolve import resolve
from integrations.outbound.urls import check_url, static_refusal

EVERYTHING = parse_networks("0.0.0.0/0, ::/0")

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "2400:cb00::1",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
]
FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.1.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3ffe::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "8000::1",
    "e000::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]
METADATA = [
    "169.254.169.254",
    "100.100.100.200",
    "192.0.0.192",
    "169.254.170.2",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd00:0ec2:0:0:0:0:0:254",
    "fd00:c1::a9fe:a9fe",
    "fd00:a9fe:a9fe::1",
    "fd00:100::100:200",
    "fe80::a9fe:a9fe",
    "fe80::a9fe:a9fe%eth0",
    "169.254.169.252",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_a_target(address: str) -> None:
    assert refusal(address, ()) is None


@pytest.mark.parametrize("address", [*FORBIDDEN, *METADATA])
def test_anything_but_a_public_unicast_address_is_refused(address: str) -> None:
    assert refusal(address, ())


@pytest.mark.parametrize("address", METADATA)
def test_a_metadata_address_is_refused_whatever_is_allowed(address: str) -> None:
    assert "metadata" in (refusal(address, EVERYTHING) or "")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "::ffff:10.0.0.0/104"),
        ("127.0.0.1", "127.0.0.1"),
        ("64:ff9b::a00:1", "10.0.0.0/8"),
        ("fd12::1", "fd12::/16"),
        ("::1", "10.0.0.0/8, ::1"),
    ],
)
def test_an_allowed_network_opens_its_addresses(address: str, allowed: str) -> None:
    assert refusal(address, parse_networks(allowed)) is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("11.0.0.1", "10.0.0.0/8"),  # public anyway
        ("10.0.0.1", "10.0.0.0/32"),
        ("127.0.0.1", "10.0.0.0/8"),
        ("2002:a00:1::1", "2002::/16"),  # the tunnel is allowed, the address in it is not
        ("::1", "0.0.0.0/0"),
    ],
)
def test_an_allowed_network_opens_nothing_else(address: str, allowed: str) -> None:
    assert (refusal(address, parse_networks(allowed)) is None) == (address == "11.0.0.1")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "ten", "10.0.0.0/33", "fd00::/129", "10.0.0.0/8; ::1", "localhost"])
def test_text_that_is_no_network_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ValueError, match="“"):
        parse_networks(text)


def test_an_empty_list_of_networks_is_empty() -> None:
    assert parse_networks("") == parse_networks(" , ") == ()


SPELLINGS_OF_LOOPBACK = [
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f000001",
    "0177.1",
    "017700000001",
    "2130706433",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "127。0。0。1",
    "127.0.0.2",
]


@pytest.mark.parametrize("host", SPELLINGS_OF_LOOPBACK)
def test_every_spelling_of_loopback_is_refused_by_the_form(host: str) -> None:
    assert static_refusal(f"http://{host}/", ())


@pytest.mark.parametrize("host", [spelling for spelling in SPELLINGS_OF_LOOPBACK if spelling.isascii()])
def test_every_spelling_of_loopback_is_refused_at_the_call(host: str) -> None:
    answers = asyncio.run(resolve(host, 80))
    with pytest.raises(Refused, match="loopback"):
        vet(host, answers, ())


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fd00:ec2::254%25eth0]",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
        "instance-data",
        "100.100.100.200",
        "192.0.0.192",
    ],
)
def test_every_spelling_of_a_metadata_service_is_refused_at_once(host: str) -> None:
    # httpx rejects dotted octal itself, so that spelling is refused as an invalid URL.
    assert check_url(f"http://{host}/latest")
    assert static_refusal(f"http://{host}/latest", EVERYTHING)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com/hooks",
        "http://api.example.com.:8080/hooks?a=b c",
        "https://bücher.example/ü",
        "https://xn--bcher-kva.example/",
        "http://redis:6379/",
        "http://a_b.example/",
        "HTTPS://EXAMPLE.COM",
        "http://10.0.0.1/",
        "http://[fd00::1]:80/",
    ],
)
def test_a_usable_url_passes_the_form(url: str) -> None:
    assert check_url(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with"),
        ("example.com", "must begin with"),
        ("//example.com", "must begin with"),
        ("ftp://example.com", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("gopher://example.com", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("http://", "needs a host"),
        ("http:///path", "needs a host"),
        ("http://user:secret@example.com/", "user name"),
        ("http://example.com@127.0.0.1/", "user name"),
        ("http://example.com/#f", "fragment"),
        ("http://example.com/#", "fragment"),
        ("http://example.com:0/", "port 0"),
        ("http://example.com:65558/", "port 65558"),
        ("http://example.com:x/", "not a valid"),
        ("http://exa mple.com/", "spaces"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://example.com/\r\nX: y", "control"),
        ("http://example.com/\x00", "control"),
        ("http://a..b/", "not a valid name"),
        ("http://-a.example/", "not a valid name"),
        ("http://ex%61mple.com/", "not a valid name"),
        ("http://" + "a" * 64 + ".example/", "not a valid name"),
        ("http://" + "a." * 130 + "example/", "at most 253"),
        ("http://example.com/" + "a" * 9000, "at most 8192"),
        ("http://[::1/", "not a valid"),
        ("http://[zz]/", "not a valid"),
        ("http://xn--a/", "not a valid"),
        ("http://１２７.0.0.1/", "not a valid"),
        ("http://0177.0.0.1/", "not a valid"),
    ],
)
def test_an_unusable_url_is_refused_with_a_reason(url: str, words: str) -> None:
    assert words in (check_url(url) or "")


def test_the_form_refuses_a_private_literal_until_its_network_is_allowed() -> None:
    assert static_refusal("http://10.0.0.5/", ())
    assert static_refusal("http://10.0.0.5/", parse_networks("10.0.0.0/8")) is None
    assert static_refusal("http://name.example/", ()) is None  # names are judged at the call


def test_one_forbidden_answer_refuses_the_name() -> None:
    with pytest.raises(Refused, match="private"):
        vet("api.example.com", ["93.184.216.34", "10.0.0.1"], ())


def test_vetted_answers_keep_their_order() -> None:
    answers = ["2606:4700:4700::1111", "1.1.1.1"]
    assert vet("one.example", answers, ()) == answers


@pytest.mark.parametrize("port", [0, -1, 65_536, 65_558])
def test_a_port_out_of_range_is_refused_before_anything_is_looked_up(port: int) -> None:
    with pytest.raises(ValueError, match=f"port {port} "):
        asyncio.run(resolve("127.0.0.1", port))


def test_localhost_is_found_without_a_trailing_dot() -> None:
    answers = asyncio.run(resolve("localhost", 80))
    assert {"127.0.0.1", "::1"} >= set(answers)


def test_a_name_that_does_not_exist_has_no_answer() -> None:
    with pytest.raises(socket.gaierror):
        asyncio.run(resolve("nothing.invalid", 80))


def test_search_domains_are_not_used_but_the_hosts_file_is(tmp_path, monkeypatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# 10.0.0.1 commented.example\n10.0.0.2 Db.Internal other.internal # note\n")
    monkeypatch.setattr(resolving, "HOSTS_FILE", hosts)
    assert resolving._absolute("api.example.com") == "api.example.com."
    assert resolving._absolute("api.example.com.") == "api.example.com."
    assert resolving._absolute("localhost") == "localhost"
    assert resolving._absolute("db.internal") == "db.internal"
    assert resolving._absolute("commented.example") == "commented.example."


@pytest.mark.parametrize(("host", "found"), [("127.1", "127.0.0.1"), ("[::1]", "::1"), ("1.2.3.4.", "1.2.3.4")])
def test_a_literal_is_read_as_the_dialler_would_read_it(host: str, found: str) -> None:
    assert literal(host) == found


@pytest.mark.parametrize("host", ["example.com", "1.2.3.4.5", "", "a" * 300, "\udcff", "x\x00"])
def test_a_name_is_no_literal(host: str) -> None:
    assert literal(host) is None
