"""Tables of docs/performance.md and docs/capacity.md and figures of the README, written from bench/results/latest.json.

`make bench` and `python -m bench.tables` write what stands on these pages between `<!-- NAME -->` and
`<!-- end of NAME -->`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import budget, capacity, report, targets, turns

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "capacity.md", ROOT / "README.md")
_BLOCK = re.compile(r"(<!-- ([a-z-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)

Results = Mapping[str, Any]


def machine(results: Results) -> str:
    """The machine and the versions, of the newest entry."""
    if not results:
        raise KeyError("latest.json")
    entry = max((result for result in results.values()), key=lambda result: str(result["at"]))
    revisions = sorted({result["revision"] for result in results.values()})
    return (
        f"{entry['cores']} cores ({entry['cpu']}), Python {entry['python']}, PostgreSQL {entry['postgresql']}, "
        f"Redis {entry['redis']}, {entry['at'][:10]}, revision {', '.join(revisions)}."
    )


def target_table(results: Results) -> str:
    """Every target with its figure."""
    rows = []
    for target in targets.TARGETS:
        figure = target.read(results)
        verdict = "not measured" if figure is None else "met" if target.is_met(figure) else "**missed**"
        rows.append((target.what, target.goal, "" if figure is None else target.shape.format(figure), verdict))
    return report.table(("what", "target", "measured", ""), rows)


def peaks(results: Results) -> str:
    """Sends as fast as they are answered."""
    return turns.table_of(results["send"]["peak"])


def half_peaks(results: Results) -> str:
    """Sends at half of the peak rate."""
    return turns.table_of(results["send"]["half_peak"])


def parts(results: Results) -> str:
    """Parts of an accepted send."""
    return budget.table_of(results["budget"])


def workers(results: Results) -> str:
    """Messages and webhooks of one worker process."""
    rows = [
        (f"messages, {row['stored']:,} stored", *_rates(row), row["worker_us"], row["database_us"])
        for row in results["worker"]["measurements"]
    ]
    rows += [
        (f"webhooks, {row['scenario']}", *_rates(row), row["worker_us"], row["database_us"])
        for row in results["webhooks"]["measurements"]
    ]
    return report.table(("what", "a second", "worker us", "database us"), rows)


def _rates(row: Mapping[str, Any]) -> list[str]:
    return [" / ".join(f"{rate:,}" for rate in row["per_second"])]


def month(results: Results) -> str:
    """Month end."""
    row = results["month"]
    header = ("organizations", "a second", "in each quarter", "process ms", "database ms")
    quarters = " / ".join(map(str, row["quarters"]))
    cells = (f"{row['organizations']:,}", row["organizations_per_second"], quarters, row["worker_ms"])
    return report.table(header, [(*cells, row["database_ms"])])


def reads(results: Results) -> str:
    """Reads with few and with many usage events."""
    rows = [
        (f"`{name}`", row["small_ms"], row["large_ms"], row["ratio"]) for name, row in results["reads"]["reads"].items()
    ]
    rows += [(name, "", f"{seconds * 1000:,.0f}", "") for name, seconds in results["reads"]["job_seconds"].items()]
    return report.table(("read or job", "ms at 100,000", f"ms at {results['reads']['events']:,}", "ratio"), rows)


def memory(results: Results) -> str:
    """Memory of each process."""
    rows = [
        (row["name"], row["at_rest_mib"], row["after_load_mib"], row["proportional_mib"])
        for row in results["memory"]["processes"]
    ]
    return report.table(("process", "MiB at rest", "after load", "with shared pages divided"), rows)


def start(results: Results) -> str:
    """Starts of commands and of the web."""
    rows = [(row["name"], row["cpu_seconds"][1], row["seconds"][1]) for row in results["start"]["starts"]]
    return report.table(("start", "CPU s", "s"), rows)


def figures(results: Results) -> str:
    """Three figures for the README."""
    sends = {row["variant"]: row for row in results["send"]["peak"] if row["connections"] == 16}
    rate, times = sends["product"]["per_second"][1], sends["product"]["rate_to"]["textbook"][1]
    webhooks = results["webhooks"]["measurements"][0]
    closed = results["month"]["organizations_per_second"]
    sentences = (
        f"**{rate:,.0f} accepted sends a second**, {times:.1f} times those of the same endpoint as tutorials build it",
        f"**{webhooks['per_second'][1]:,} webhooks a second** delivered to one endpoint by one worker",
        f"**{closed:,} organizations a second** closed and invoiced by one process at the end of a month",
    )
    return "\n".join(f"- {sentence}" for sentence in sentences)


BLOCKS: dict[str, Callable[[Results], str]] = {
    "machine": machine,
    "targets": target_table,
    "peaks": peaks,
    "half-peaks": half_peaks,
    "parts": parts,
    "workers": workers,
    "month": month,
    "reads": reads,
    "memory": memory,
    "start": start,
    "figures": figures,
    **capacity.BLOCKS,
}


def fill(page: str, results: Results) -> str:
    """A page with its blocks as the results have them."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_render(block[2], results)}\n{block[3]}", page)


def _render(block: str, results: Results) -> str:
    try:
        return BLOCKS[block](results)
    except (KeyError, ValueError):
        return "Not measured yet: `make bench`."


def write_pages() -> None:
    """Write the blocks of all pages from the stored results."""
    results = report.read_results()
    for path in PAGES:
        path.write_text(fill(path.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    write_pages()
