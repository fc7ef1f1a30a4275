"""Check the subject of a commit message: at most 72 characters, no full stop, then an empty line. For pre-commit."""

from __future__ import annotations

import sys
from pathlib import Path

LONGEST_SUBJECT = 72  # what `git log --oneline` and hosts show without cutting


def problems(message: str) -> list[str]:
    """Return one sentence for each rule that the message breaks."""
    lines = [line for line in message.partition("\n# ------------------------ >8")[0].splitlines() if line[:1] != "#"]
    subject, rest = (lines or [""])[0], lines[1:]
    if subject.startswith(("fixup! ", "squash! ", "Merge ", "Revert ")):
        return []
    found = []
    if not subject.strip():
        found.append("The subject is empty: say in the imperative what the commit changes.")
    if len(subject) > LONGEST_SUBJECT:
        found.append(f"The subject has {len(subject)} characters; {LONGEST_SUBJECT} fit. Move the reason to the body.")
    if subject.endswith("."):
        found.append("The subject ends with a full stop; leave it out.")
    if any(rest) and rest[0]:
        found.append("Leave an empty line between the subject and the body.")
    return found


def main() -> int:
    found = problems(Path(sys.argv[1]).read_text())
    for problem in found:
        print(problem)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
