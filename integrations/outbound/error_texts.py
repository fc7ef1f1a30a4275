"""Sentences for the operator: why a connection could not be made."""

from __future__ import annotations

import errno
import ssl

import httpx

from integrations.outbound.exchange import ResolveTimeout, Timeouts, TLSTimeout


def connect_error_text(error: OSError, peer: str) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return f"connection refused by {peer}"
        case errno.EMFILE | errno.ENFILE:
            return "this machine has no free file descriptor for a connection: raise its limit of open files"
        case _:
            return f"{(error.strerror or 'connection failed').lower()}: {peer}"


def connect_timeout_text(phase: type[httpx.ConnectTimeout], host: str, peer: str, timeouts: Timeouts) -> str:
    limit = f"within {timeouts.connect:g} s"
    if phase is ResolveTimeout:
        return f"{host} was not resolved {limit}"
    if phase is TLSTimeout:
        return f"no TLS handshake with {peer} {limit}"
    return f"no connection to {peer} {limit}"


def tls_error_text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE_TEXTS.get(error.verify_code, f"the certificate was rejected: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
        return TLS_TEXTS.get(error.reason, f"the TLS handshake failed: {reason}")
    return "the server closed the connection during the TLS handshake"


# By OpenSSL's verification result, X509_V_ERR_….
CERTIFICATE_TEXTS = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate is from an authority that this machine does not trust",
    20: "the certificate is from an authority that this machine does not trust",
    21: "the certificate is from an authority that this machine does not trust",
    23: "the certificate was revoked",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}
TLS_TEXTS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "HTTP_REQUEST": "the server does not speak TLS on this port",
    "PACKET_LENGTH_TOO_LONG": "the server does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the server only speaks an old version of TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server only speaks another version of TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server requires a client certificate",
}
