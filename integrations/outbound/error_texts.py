"""Say in words why no connection could be made."""

from __future__ import annotations

import errno
import ssl

import httptools
import httpx

from integrations.outbound.exchange import Excess, ResolveTimeout, Timeouts, TLSTimeout

CERTIFICATE_WORDS = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate is from an authority that is not known here",
    20: "the certificate is from an authority that is not known here",
    21: "the certificate is from an authority that is not known here",
    23: "the certificate was revoked",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}
TLS_WORDS = {
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS on this port",
    "HTTP_REQUEST": "the other side does not speak TLS on this port",
    "PACKET_LENGTH_TOO_LONG": "the other side does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the other side does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the other side only speaks an old version of TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side only speaks another version of TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side asks for a client certificate",
}


def tls_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE_WORDS.get(error.verify_code, f"the certificate is not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
        return TLS_WORDS.get(error.reason, f"the TLS handshake failed: {reason}")
    return "the other side closed the connection during the TLS handshake"


def connect_words(error: OSError, peer: str) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return f"connection refused by {peer}"
        case errno.EMFILE | errno.ENFILE:
            return "this machine has no file descriptor left for a connection"
        case _:
            return f"{(error.strerror or 'connection failed').lower()}: {peer}"


def slow_words(phase: type[httpx.ConnectTimeout], host: str, peer: str, timeouts: Timeouts) -> str:
    limit = f"within {timeouts.connect:g} s"
    if phase is ResolveTimeout:
        return f"{host} was not resolved {limit}"
    if phase is TLSTimeout:
        return f"no TLS handshake with {peer} {limit}"
    return f"no connection to {peer} {limit}"


def first_words(error: Exception) -> str:
    if isinstance(error, httptools.HttpParserUpgrade):
        return "the other side switched to another protocol"
    if isinstance(error.__context__, Excess):
        return str(error.__context__)
    return f"the answer is not valid HTTP/1.1: {error}"
