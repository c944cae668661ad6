"""The benchmark of messages, run for a moment as its users run it: that it goes through, and what it compares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Tally

ROOT = Path(__file__).parents[1]


def test_messages_are_measured_beside_the_floor(tmp_path: Path) -> None:
    """Every figure is there for every round, and each ratio is the one of its own round."""
    out = tmp_path / "figures.json"
    arguments = ["--rounds", "2", "--seconds", "0.05", "--json", str(out)]
    command = [sys.executable, "-m", "benchmarks.messages", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    report: dict[str, dict[str, Any]] = json.loads(out.read_text())
    figures, ratios = report["figures"], report["ratios"]
    assert len(figures) == 3 * 2 * 4 + 6 * 2
    assert len(ratios) == 3 * 3 + 4 * 2
    for summary in (*figures.values(), *ratios.values()):
        assert len(summary["rounds"]) == 2
        assert 0 < summary["low"] <= summary["median"] <= summary["high"]
    ours, theirs = (figures[f"64 B, {name}: messages/s"]["rounds"] for name in ("snowgreen", "floor"))
    ratio = ratios["64 B, messages/s: snowgreen / floor"]["rounds"]
    assert ratio == [pytest.approx(a / b) for a, b in zip(ours, theirs, strict=True)]
    assert "64 KiB, receiver CPU µs: snowgreen / floor" in ended.stdout


def test_a_lost_message_ends_the_benchmark() -> None:
    """The reader takes nothing but the number that is to come next, in the size that it is to have."""
    tally = Tally(10)
    tally.take((0).to_bytes(8) + b"xx")
    for wrong in ((0).to_bytes(8) + b"xx", (2).to_bytes(8) + b"xx", (1).to_bytes(8) + b"x"):
        with pytest.raises(SystemExit, match="message 1 of 10 bytes was lost"):
            tally.take(wrong)
    assert tally.messages == 1
