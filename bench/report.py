"""The table of one invocation."""

from __future__ import annotations

from bench.checks import Figure, bounds, ratios

LEGEND = """
x django-q2: times one django-q2 task per message on the same database; x Python, x Node: times the best of those
peers (Node: BullMQ, graphile-worker); x client: times Switchboard's own HTTP client without the rest, in one process
CPU µs: of its own processes (not of a database server) for each message; peak MB: of its largest process
idle %: of one core, all its processes, started and nothing to do
"""


def show(found: list[Figure]) -> None:
    head = ("recorded/s", "x django-q2", "x Python", "x Node", "x client", "CPU µs", "peak MB", "idle %")
    widths = [max(len(words) + 2, 9) for words in head]
    print(f"\n{'median of the accepted runs':48}{_cells(head, widths)}")
    for figure in found:
        rejected = f"  {figure.rejected} rejected" if figure.rejected else ""
        print(f"{figure.label:48}{_cells(_facts(figure, found), widths)}{rejected}")
    print(LEGEND)
    for figure in found:
        print(f"  {figure.label}: {len(figure.runs)} runs of {figure.runs[0].sent:,} messages, {figure.command}")
    for bound in bounds(found):
        verdict = "holds" if bound.holds else "MISSED"
        print(f"  {verdict:8}{bound.words}: {bound.reached:.2f}x of at least {bound.least:g}x")


def _facts(figure: Figure, among: list[Figure]) -> list[str]:
    beside = ratios(figure, among)
    compared = (beside.django_q2, beside.python, beside.node, beside.client)
    facts = [figure.fact(name) for name in ("cpu_us_per_message", "peak_rss_mb")]
    return [
        f"{figure.rate:,.0f}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in compared),
        *("-" if fact is None else f"{fact:,.0f}" for fact in facts),
        "-" if (idle := figure.fact("idle_cpu_percent")) is None else f"{idle:.1f}",
    ]


def _cells(words: tuple[str, ...] | list[str], widths: list[int]) -> str:
    return "".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True))
