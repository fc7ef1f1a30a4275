"""Check the prose of this repository against the word list behind STYLE.md.

    python scripts/check_words.py            list every finding as file:line; exit 1 if there are any
    python scripts/check_words.py --count    count each kind of finding, also per 1,000 words
    python scripts/check_words.py PATH …     check these files or folders only

Prose is the comments, docstrings and strings of Python, the texts and comments of templates, the comments and strings
of JavaScript, Markdown outside code, and the comments of every other text file. If a line must keep a word, because it
quotes a specification or a receiver, end the line with a comment: "words: allowed", then the reason.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = (
    "LICENSE",
    "docs/openapi.json",  # made from the code, where its texts are checked
    "integrations/migrations/",  # frozen
    "requirements",
    "scripts/check_words.py",  # holds the list itself
    "static/vendor/",
    "tests/scripts/test_check_words.py",
)
ESCAPE = re.compile(r"words: allowed\W+\w+")  # with a reason behind it


@dataclass(frozen=True)
class Rule:
    """A pattern that must not come back, and the plain words for it."""

    kind: str
    pattern: re.Pattern[str]
    instead: str
    allowed_after: frozenset[str]  # words in front of it (group "before") with which it is plain English
    where: frozenset[str]


CODE = frozenset({"docstring", "comment"})
EVERYTHING = CODE | {"string", "text"}


def rule(kind: str, pattern: str, instead: str, allowed_after: str = "", where: frozenset[str] = EVERYTHING) -> Rule:
    compiled = re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)
    return Rule(kind, compiled, instead, frozenset(allowed_after.split()), where)


# "callers who retry" names the caller; "who retries" does not.
PEOPLE = (
    "account accounts actor admin admins anyone attacker attackers author authors caller callers client clients "
    "contributor contributors customer customers developer developers everyone human humans maintainer maintainers "
    "newcomer newcomers operator operators people person reader readers receiver receivers reporter sender senders "
    "someone team teams those tester testers user users viewer viewers visitor visitors"
)
# "prints what is wrong" passes a question on; "deletes what is wrong" replaces a noun.
ASKING = (
    "about ask asked asks check checks compare compares decide decides depends describe describes exactly explain "
    "explained explains find finds how knew know known knows learn learns out print prints remember remembers "
    "report reports said say saying says see seen sees show showing shown shows state states tell telling tells "
    "told understand understands when wonders you"
)
VERBS = (
    "is|are|was|were|has|have|had|does|did|may|can|must|will|would|could|should|comes?|came|goes|went(?! wrong)|gets?|"
    "got|makes?|made|waits?|waited|fails?|failed|stands?|stood|holds?|held|asks?|asked|looks?|looked|knows?|knew|"
    "needs?|keeps?|kept|takes?|took|gives?|gave|wants?|wanted|runs?|ran|ends?|ended|follows?|"
    "followed|matters?|changes?|changed|remains?|remained|stays?|stayed|lies|lay|sends?|sent|reads?|says?|said|"
    "works?|worked|writes?|wrote|owns?|uses?|used|calls?|called|decides?|decided|becomes?|became|differs?|"
    "succeeded|moves?|belongs?|cannot|only|just|really|always|never|reach|reaches|resumes?|closes?|signs?|tests?"
)
THINGS = "a|an|the|it|they|each|every|its|their|this|that|one|people|operators?|workers?|callers?"
RETURN = "return; respond, for HTTP"
NAME_PERSON = "name the actor: the caller, the operator, the worker"
NAME_THING = "name the thing: the result, the due messages, the rest, the given fields"

NOT_ASKED = r"(?![^.;:]*\?)"  # "What is a lane?" is a heading that asks
AFTER_ANSWERS = "how|what|which|whether|when|from|with|the|a|an|in|by|none|true|false|that|if|it|each|every|one|nothing"

RULES = [
    rule("unnamed people", r"\bsomebody\b", NAME_PERSON),
    rule("unnamed people", r"\bnobody\b", "no caller, no process, no worker"),
    rule("unnamed people", r"\banybody\b", "anyone, or name the actor"),
    rule("unnamed people", r"\beverybody\b", "everyone, or name the actor"),
    rule("unnamed people", r"\bwho(?:ever|soever|mever)\b", NAME_PERSON),
    rule("archaic words", r"\banew\b", "again"),
    rule("archaic words", r"\bseldom\b", "rarely, or the number"),
    rule("archaic words", r"\bmeanwhile\b", "at the same time, until then, or nothing"),
    rule("archaic words", r"\bbesides?\b", "next to, alongside, concurrently with, also"),
    rule("archaic words", r"\b(?:thereby|whereby)\b", "so that, by which, or a new sentence"),
    rule(
        "archaic words", r"\b(?:there|where)(?:of|in|upon)\b|\b(?:henceforth|hitherto|hereby|lest)\b", "of it, then, so"
    ),
    rule("archaic words", r"\bbefalls?\b|\bbefell\b", "happens to"),
    rule("archaic words", r"\bfor ever\b", "forever"),
    rule("free relatives", rf"(?:\b(?P<before>\w+),? )?\bwho (?:{VERBS})\b{NOT_ASKED}", NAME_PERSON, PEOPLE),
    rule("free relatives", rf"(?:\b(?P<before>\w+) )?\bwhat (?:{VERBS})\b{NOT_ASKED}", NAME_THING, ASKING),
    rule("free relatives", rf"(?:^|[.;:] )(?-i:What) (?:{THINGS})\b{NOT_ASKED}", NAME_THING, where=CODE),
    rule("free relatives", rf"\b(?:as|of|by|with|from|than|after|before) what (?:{THINGS})\b", NAME_THING, where=CODE),
    rule("answers for returns", rf"(?:^|[.;:,] |\b(?:and|which) )answers (?:{AFTER_ANSWERS})\b", RETURN, where=CODE),
]


@dataclass(frozen=True)
class Passage:
    """A piece of prose: the number of its first line, and its text with the line breaks kept."""

    kind: str  # docstring, comment, string, text
    line: int
    text: str


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    words: str
    rule: Rule


# ---- read the prose of a file -----------------------------------------------------------------------------------
def passages(path: Path) -> Iterator[Passage]:
    source = path.read_text()
    match path.suffix:
        case ".py":
            yield from _of_python(source)
        case ".html":
            yield Passage("text", 1, _template_text(source))
        case ".js" | ".css" | ".c":
            yield from _of_script(source)
        case ".md":
            yield Passage("text", 1, _markdown_text(source))
        case _:
            yield from _of_comments(source)


def _of_python(source: str) -> Iterator[Passage]:
    tree = ast.parse(source)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # a string that nothing uses
    inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
            yield Passage("string", node.lineno, "".join(str(part) for part in parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in inside:
            kind = "docstring" if node in docstrings else "string"
            if kind == "docstring" or " " in node.value:
                yield Passage(kind, node.lineno, node.value)
    yield from _joined(
        (token.start[0], token.string.lstrip("#!: "))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    )


def _joined(comments: Iterator[tuple[int, str]]) -> Iterator[Passage]:
    """Join comments on consecutive lines to one passage, since a sentence may run over several lines."""
    begin, lines = 0, list[str]()
    for number, text in comments:
        if lines and number == begin + len(lines):
            lines.append(text)
            continue
        if lines:
            yield Passage("comment", begin, "\n".join(lines))
        begin, lines = number, [text]
    if lines:
        yield Passage("comment", begin, "\n".join(lines))


def _blank(match: re.Match[str]) -> str:
    """Replace the match by spaces, but keep its line breaks, so that line numbers stay right."""
    return re.sub(r"[^\n]+", " ", match[0])


# The attributes of a tag that a page shows or a screen reader speaks; and everything else in it.
TAG = re.compile(r"<[^>]+>", re.DOTALL)
SHOWN = re.compile(r"\b(?:title|alt|placeholder|aria-label|aria-description|label)=\"([^\"]*)\"|[^\n]")


def _template_text(source: str) -> str:
    source = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", _blank, source, flags=re.DOTALL)
    return TAG.sub(lambda tag: SHOWN.sub(lambda found: f" {found[1]} " if found[1] else " ", tag[0]), source)


SCRIPT_PROSE = re.compile(
    r"//(?P<line>[^\n]*)|/\*(?P<block>.*?)\*/|\"(?P<double>(?:[^\"\\\n]|\\.)*)\"|'(?P<single>(?:[^'\\\n]|\\.)*)'"
    r"|`(?P<template>(?:[^`\\]|\\.)*)`",
    re.DOTALL,
)


def _of_script(source: str) -> Iterator[Passage]:
    comments = []
    for found in SCRIPT_PROSE.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        if found["line"] is not None:
            comments.append((line, found["line"].strip()))
        elif found["block"] is not None:
            yield Passage("comment", line, found["block"])
        else:
            text = found["double"] or found["single"] or found["template"] or ""
            if " " in text:
                yield Passage("string", line, text)
    yield from _joined(iter(comments))


def _markdown_text(source: str) -> str:
    source = re.sub(r"^```.*?^```$", _blank, source, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`|\]\([^)\s]*\)", " ", source)


def _of_comments(source: str) -> Iterator[Passage]:
    lines = enumerate(source.splitlines(), 1)
    yield from _joined((number, found[1]) for number, line in lines if (found := re.search(r"(?:^|\s)#\s?(.*)", line)))


# ---- check it ---------------------------------------------------------------------------------------------------
def files(given: Sequence[str]) -> list[Path]:
    """Return the text files that git tracks or would track, without SKIPPED."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *given],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    known = {".py", ".html", ".js", ".css", ".c", ".md", ".toml", ".yml", ".yaml", ".txt", ""}
    paths = [ROOT / name for name in listed if not name.startswith(SKIPPED)]
    return [path for path in paths if path.suffix in known and path.is_file()]


def findings(path: Path, kinds: frozenset[str] = EVERYTHING) -> Iterator[Finding]:
    lines = path.read_text().splitlines()
    for passage in passages(path):
        for each in RULES:
            if passage.kind not in each.where & kinds:
                continue
            for found in each.pattern.finditer(passage.text):
                before = (found.groupdict().get("before") or "").lower()
                if before in each.allowed_after:
                    continue
                line = passage.line + passage.text.count("\n", 0, found.start(0) if not before else found.end("before"))
                if not ESCAPE.search(lines[min(line, len(lines)) - 1]):
                    yield Finding(str(path.relative_to(ROOT)), line, " ".join(found[0].split()), each)


def words(path: Path, kinds: frozenset[str]) -> int:
    return sum(len(re.findall(r"[A-Za-z][\w'’-]*", each.text)) for each in passages(path) if each.kind in kinds)


def report_counts(paths: Sequence[Path]) -> None:
    for title, kinds in (("docstrings and comments of Python", CODE), ("all prose", EVERYTHING)):
        chosen = [path for path in paths if kinds is EVERYTHING or path.suffix == ".py"]
        total = sum(words(path, kinds) for path in chosen)
        counts = Counter(each.rule.kind for path in chosen for each in findings(path, kinds))
        print(f"{title}: {total:,} words in {len(chosen)} files")
        for kind in dict.fromkeys(each.kind for each in RULES):
            print(f"  {counts[kind]:5,}  {counts[kind] * 1000 / max(total, 1):6.2f} per 1,000  {kind}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--count", action="store_true", help="count instead of list")
    asked = parser.parse_args()
    paths = files(asked.paths)
    if asked.count:
        report_counts(paths)
        return 0
    found = [finding for path in paths for finding in findings(path)]
    for finding in found:
        print(f"{finding.path}:{finding.line}: “{finding.words}”: write {finding.rule.instead}")
    if found:
        print(
            f"{len(found)} findings. The words and their reasons: STYLE.md. A quote ends with: words: allowed, REASON"
        )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
