"""``tools/flood.py --attack``, run as its users run it, at a size for CI: a node under siege keeps its links."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FLOOD = Path(__file__).parents[2] / "tools" / "flood.py"


def siege(tmp_path: Path, *options: object) -> tuple[int, dict[str, Any], str]:
    """The exit status, the figures and the output of a siege."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(FLOOD), "--json", str(figures), *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    return done.returncode, json.loads(figures.read_text() or "{}"), done.stdout


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    """One siege, of every kind at once; the tests look at different sides of it."""
    kinds = "silent,drip,garbage,wrong-cookie,replay"
    options = ("--attack", kinds, "--attackers", 200, "--links", 60, "--hold", 7)
    return siege(tmp_path_factory.mktemp("siege"), *options)


def test_links_live_through_a_siege(held: Any) -> None:
    """Of sixty links none misses a ping while a thousand attackers are at the door, and none is left at the end."""
    status, report, output = held
    assert (status, report["ok"], report["stopped_by"]) == (0, True, None), output
    assert report["asked"] == report["made"] == report["live_at_the_end"] == 60
    assert (report["pings_lost"], report["left_on_server"]) == (0, 0)
    assert report["pings"] > 60
    assert 0 < report["rtt_ms"]["p50"] <= report["rtt_ms"]["p100"]


def test_an_honest_peer_gets_in_during_a_siege(held: Any) -> None:
    """A newcomer from an address of its own links in within a second, every time."""
    _, report, output = held
    assert report["honest_tried"] == report["honest_linked"] > 5, output
    assert report["honest_failures"] == {}
    assert report["honest_ms"]["p100"] < 1000


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("silent", "LinkTimeout"),
        ("drip", "LinkTimeout"),
        ("garbage", "NotTLSError"),
        ("wrong-cookie", "AuthenticationError"),
        ("replay", "AuthenticationError"),
    ],
)
def test_what_becomes_of_each_kind_of_attacker(held: Any, kind: str, error: str) -> None:
    """Few get as far as a handshake, which ends in the error of their kind; all others are refused at the door."""
    _, report, output = held
    figures = report["attack"][kind]
    assert figures["attackers"] == 200
    assert figures["connections"] >= 200
    became = figures["became"]
    assert became[error] > 0, output
    assert became["refused at the door"] > became[error]
    assert report["refused_at_the_door"] > 200


def test_a_siege_costs_the_node_no_memory(held: Any) -> None:
    """What a thousand attackers leave behind in the node's process is bounded by the places for handshakes."""
    _, report, _ = held
    assert report["server_after"]["rss_kb"] - report["server_before"]["rss_kb"] < 30_000


def test_a_siege_that_is_cut_short_has_not_been_withstood(tmp_path: Path) -> None:
    """Success is for sieges that ran to their end: exit status 1, and the reason in the figures."""
    status, report, output = siege(
        tmp_path, "--attack", "silent", "--attackers", 10, "--links", 5, "--hold", 60, "--max-seconds", 2
    )
    assert (status, report["ok"], report["stopped_by"]) == (1, False, "--max-seconds 2"), output


def test_a_kind_of_attack_that_does_not_exist(tmp_path: Path) -> None:
    """A misspelt kind is an error of usage, not an attack that was withstood."""
    status, report, output = siege(tmp_path, "--attack", "silent,loud")
    assert (status, report) == (2, {}), output
    assert "silent,drip,garbage,wrong-cookie,replay" in output
