"""docs/verifying-signatures.md: each of its programs checks calls as our signer signs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from integrations.outbound.signing import Signer, SigningKeys
from tests.support.backends import ROOT

GUIDE = ROOT / "docs/verifying-signatures.md"
BODY = '{"order":42,"note":"grüße"}'


@dataclass(frozen=True)
class Language:
    """How a program of the guide is run. ``ending`` prints what its `verify` returns for the environment's values."""

    file: str
    command: Sequence[str]
    ending: str
    beginning: str = ""


LANGUAGES = {
    "python": Language(
        "verify.py",
        [sys.executable],
        "import os\nE = os.environ\nprint(verify(E['KEY'], E['ID'], E['TIME'], E['SIGNED'], E['BODY'].encode()))",
    ),
    "js": Language(
        "verify.js",
        ["node"],
        "const E = process.env; console.log(verify(E.KEY, E.ID, E.TIME, E.SIGNED, E.BODY));",
    ),
    "php": Language(
        "verify.php",
        ["php"],
        "[$k, $i, $t, $s, $b] = array_map('getenv', ['KEY', 'ID', 'TIME', 'SIGNED', 'BODY']);\n"
        "echo json_encode(verify($k, $i, $t, $s, $b));",
        beginning="<?php\n",
    ),
    "ruby": Language("verify.rb", ["ruby"], "puts verify(*ENV.values_at('KEY', 'ID', 'TIME', 'SIGNED', 'BODY'))"),
    "java": Language(
        "Signatures.java",
        ["java"],
        "    public static void main(String[] none) throws Exception {\n"
        "        var e = System.getenv();\n"
        '        byte[] body = e.get("BODY").getBytes(StandardCharsets.UTF_8);\n'
        '        System.out.println(verify(e.get("KEY"), e.get("ID"), e.get("TIME"), e.get("SIGNED"), body));\n'
        "    }\n}\n",
    ),
}
AT_ONCE = ("python",)  # the interpreters of the others are not everywhere


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in AT_ONCE else pytest.mark.long) for name in LANGUAGES]
)
def test_a_program_of_the_guide_tells_our_calls_from_others(name: str, tmp_path: Path) -> None:
    language = LANGUAGES[name]
    assert shutil.which(language.command[0]), f"{language.command[0]} is missing; CONTRIBUTING.md has the packages"
    now = datetime.now(UTC)
    key, other = SigningKeys.make(now), SigningKeys.make(now)
    calls = {
        "ours": (signed([key], now), True),
        "in a rotation": (signed([other, key], now), True),
        "another's": (signed([other], now), False),
        "without a signature": ({**signed([key], now), "SIGNED": ""}, False),
        "changed": ({**signed([key], now), "BODY": BODY + " "}, False),
        "of another message": ({**signed([key], now), "ID": "msg_2"}, False),
        "without a time": ({**signed([key], now), "TIME": "soon"}, False),
        "old": (signed([key], now - timedelta(seconds=400)), False),
    }
    program = tmp_path / language.file
    program.write_text(
        language.beginning + written(name).removesuffix("}\n" if name == "java" else "") + language.ending
    )
    verdicts = {
        case: run([*language.command, str(program)], {**call, "KEY": key.secret}) for case, (call, _) in calls.items()
    }
    assert verdicts == {case: is_ours for case, (_, is_ours) in calls.items()}


def written(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    text: str = block
    return text


def signed(pairs: Sequence[SigningKeys], at: datetime) -> dict[str, str]:
    ((_, signatures),) = Signer(pairs).headers("msg_1", at, BODY.encode())
    return {"ID": "msg_1", "TIME": str(int(at.timestamp())), "SIGNED": signatures, "BODY": BODY}


def run(command: list[str], call: dict[str, str]) -> bool:
    environment = os.environ | {"LC_ALL": "C.UTF-8"} | call
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return {"true": True, "false": False}[ran.stdout.strip().lower()]
