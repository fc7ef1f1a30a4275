"""The keys of an installation as a file of a backup, encrypted with a passphrase.

As the documentation of `cryptography` recommends for Fernet with passwords: a key derived by Scrypt, and a random salt.
https://cryptography.io/en/latest/fernet/#using-passwords-with-fernet
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from integrations.backups.errors import BackupError

NAME = "keys.encrypted.json"
SHORTEST = 12  # characters of a passphrase
# 128 MiB and a third of a second for each guess, as OWASP's cheat sheet on password storage recommends for Scrypt.
COST = {"n": 2**17, "r": 8, "p": 1}


@dataclass(frozen=True, slots=True)
class Keys:
    """What `keys.json` holds."""

    secret_key: str
    encryption_keys: list[str]

    def as_json(self) -> str:
        return json.dumps({"secret_key": self.secret_key, "encryption_keys": self.encryption_keys})


def encrypt(keys: Keys, passphrase: str) -> bytes:
    """Raises BackupError for a short passphrase."""
    if len(passphrase) < SHORTEST:
        raise BackupError(f"The passphrase must have at least {SHORTEST} characters.")
    salt = os.urandom(16)
    token = _cipher(passphrase, salt, COST).encrypt(keys.as_json().encode())
    facts = {"kdf": "scrypt", **COST, "salt": b64encode(salt).decode(), "token": token.decode()}
    return json.dumps(facts, indent=2).encode()


def decrypt(stored: bytes, passphrase: str) -> Keys:
    """Raises BackupError for a wrong passphrase."""
    try:
        facts: dict[str, Any] = json.loads(stored)
        cost = {name: int(facts[name]) for name in COST}
        keys = json.loads(_cipher(passphrase, b64decode(facts["salt"]), cost).decrypt(facts["token"].encode()))
        return Keys(keys["secret_key"], keys["encryption_keys"])
    except InvalidToken:
        raise BackupError("The passphrase is not that of this backup.") from None


def _cipher(passphrase: str, salt: bytes, cost: dict[str, int]) -> Fernet:
    return Fernet(urlsafe_b64encode(Scrypt(salt=salt, length=32, **cost).derive(passphrase.encode())))
