"""Check that the documents point to files, sections, targets, commands and settings that exist.

Checked in every Markdown file: links and the sections that they name, paths in `backticks`, `make` targets,
`manage.py` and `switchboard` commands and SWITCHBOARD_ variables. Also: every `docs/….md` that a comment or docstring
names, and that docs/reference/configuration.md lists every variable that the code reads.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MADE_LATER = ("data/", ".venv/", "keys.json", "fixture")  # exist on a machine that runs Switchboard
EXAMPLES = re.compile(r"[…<>*{}]|_name\.|FILE\.|000N")  # not a path, but the form of one

PATH = re.compile(r"`([\w.-]+(?:/[\w.…<>*-]+)+/?|[\w-]+\.(?:py|md|js|html|toml|json|yaml|yml))`")
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
TARGET = re.compile(r"(?:^|`|&& )make ([a-z][a-z-]+)\b", re.MULTILINE)
COMMAND = re.compile(r"(\bmanage\.py|(?:(?<![^`\n])|(?<=&& )|(?<=\$\())switchboard) ([a-z][a-z_-]+)")
VARIABLE = re.compile(r"\bSWITCHBOARD_[A-Z_]+\b")
NAMED_IN_CODE = re.compile(r"(?<![\w./-])(?:[\w-]+/)*[\w-]+\.md\b")
READ_BY_CODE = re.compile(
    r"\b(?:text|flag|number|listed|choice)\(\"([A-Z_]+)\"|environ\b[^\n]*\"SWITCHBOARD_([A-Z_]+)\""
)


@cache
def tracked() -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())


@cache
def folders() -> frozenset[str]:
    return frozenset(str(parent) for name in tracked() for parent in Path(name).parents)


def problems_of_document(name: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the sentence for each reference that leads nowhere."""
    text = (ROOT / name).read_text()
    for number, line in enumerate(text.splitlines(), 1):
        for found in LINK.finditer(line):
            if problem := _problem_of_link(name, found[1], found[2]):
                yield number, problem
        for found in PATH.finditer(line):
            if not _exists(found[1]):
                yield number, f"`{found[1]}` does not exist"
    code = "\n".join(re.findall(r"`[^`\n]+`|^```.*?^```", text, re.DOTALL | re.MULTILINE))
    for target in sorted(set(TARGET.findall(code)) - _targets()):
        yield _line_of(text, f"make {target}"), f"there is no target `make {target}`"
    for program, command in sorted(set(COMMAND.findall(code))):
        if command not in _commands() and f"`{program} {command}`" not in _not_yet(text):
            yield _line_of(text, f"{program} {command}"), f"there is no command `{program} {command}`"


def _problem_of_link(name: str, target: str, section: str | None) -> str | None:
    if target.startswith(("http:", "https:", "mailto:")):
        return None
    path = (ROOT / name).parent / target if target else ROOT / name
    if not path.exists():
        return f"the link leads to {target}, which does not exist"
    if section and section not in _sections(path):
        return f"{path.name} has no section #{section}"
    return None


def _sections(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(path: str) -> bool:
    if EXAMPLES.search(path) or path.startswith(MADE_LATER):
        return True
    first = path.partition("/")[0]
    if "/" not in path:
        return any(name == path or name.endswith(f"/{path}") for name in tracked())
    if first not in {name.partition("/")[0] for name in tracked()}:
        return True  # not a path of this repository: a media type, a URL, a queue
    return path.rstrip("/") in folders() or path in tracked()


def _not_yet(text: str) -> str:
    """Return the section of things that are not built, in which a command may be named."""
    return text.partition("\n## Not yet\n")[2]


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _commands() -> frozenset[str]:
    ours = {Path(name).stem for name in tracked() if "/management/commands/" in name}
    return frozenset(ours | {"check", "migrate", "makemigrations", "shell"})


def _line_of(text: str, words: str) -> int:
    return text[: text.find(words)].count("\n") + 1


# ---- code and settings ----------------------------------------------------------------------------------------------
def problems_of_code(name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
        for document in NAMED_IN_CODE.findall(line):
            if document not in tracked():
                yield number, f"{document} does not exist"


def problems_of_configuration(name: str = "docs/reference/configuration.md") -> Iterator[tuple[int, str]]:
    described = set(VARIABLE.findall((ROOT / name).read_text()))
    known = "\n".join(
        (ROOT / path).read_text() for path in tracked() if path.startswith(("integrations/", "dashboard/"))
    )
    read = {f"SWITCHBOARD_{a or b}" for a, b in READ_BY_CODE.findall(known)}
    for variable in sorted(read - described):
        yield 1, f"{variable} is read by the code and not described"
    for variable in sorted(described - read):
        if variable != "SWITCHBOARD_SERVICE_":
            yield 1, f"{variable} is described and not read by the code"


def main() -> int:
    found = [(name, *problem) for name in tracked() if name.endswith(".md") for problem in problems_of_document(name)]
    code = [name for name in tracked() if name.endswith((".py", ".js", ".html", ".css", ".toml", "Makefile"))]
    skipped = ("scripts/", "tests/scripts/", "static/vendor/")
    found += [(name, *each) for name in code if not name.startswith(skipped) for each in problems_of_code(name)]
    found += [("docs/reference/configuration.md", *problem) for problem in problems_of_configuration()]
    for name, line, problem in found:
        print(f"{name}:{line}: {problem}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
