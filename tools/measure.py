"""What the load tools have in common: looks at a process, percentiles, and a report as a table."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table


def usage(pid: int | None) -> dict[str, float] | None:
    """What process `pid` has used so far: CPU time and memory, as far as we may see it."""
    process, figures = Path(f"/proc/{pid}"), {}
    try:
        # The second field is the program's name in brackets, and may hold anything.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    figures["rss_kb"] = int(fields[21]) * resource.getpagesize() / 1024
    figures["cpu_ms"] = (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            # This RSS is exact. PSS moves with others who share files; its anonymous part does not.
            if line.startswith(("Rss:", "Pss:", "Pss_Anon:")):
                figures[line.partition(":")[0].lower() + "_kb"] = float(line.split()[1])
    return figures


def descriptors(pid: int | None) -> tuple[int, int] | None:
    """How many descriptors process `pid` may have open, and how many more; None if we may not see it."""
    with contextlib.suppress(OSError):
        if pid is not None:
            limit, _hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            return limit, limit - len(os.listdir(f"/proc/{pid}/fd"))
    return None


def percentiles(seconds: Sequence[float], *shares: int) -> dict[str, float] | None:
    """In milliseconds; None of no times."""
    ordered = sorted(seconds)
    picked = {share: math.ceil(share * len(ordered) / 100) - 1 for share in shares or (50, 99)}
    return {f"p{share}": ordered[at] * 1000 for share, at in picked.items()} if ordered else None


def table(report: Mapping[str, object]) -> Table:
    """A report for people: a line for each figure, those inside others beside the name of their place."""
    made = Table(box=None, show_header=False, pad_edge=False)

    def add(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for part, figure in value.items():
                add(f"{name} {part}", figure)
            return
        shown = f"{value:,.2f}" if isinstance(value, float) else str(value)
        made.add_row(name.replace("_", " "), "n/a" if value is None else shown)

    for name, value in report.items():
        add(name, value)
    return made
