"""Placeholders in a node's name: filled in at each start, anew in each process, and refused by name."""

from __future__ import annotations

import os
import re

import pytest

import snowgreen
from snowgreen import arguments
from tests.conftest import MakeNode
from tests.programs import free_ports


def test_placeholders_are_filled_in_at_the_start(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the name is as it was given; each start looks anew."""
    monkeypatch.setenv("SNOWGREEN_WORKER", "3")
    node = make_node("web-{{worker}}-{{pid}}@127.0.0.1:0", start=False)
    assert node.name == "web-{worker}-{pid}@127.0.0.1:0"
    assert "web-{worker}-{pid}" in repr(node)
    node.start()
    assert re.fullmatch(rf"web-3-{os.getpid()}@127\.0\.0\.1:[1-9]\d*", node.name)
    node.stop()
    assert node.name == "web-{worker}-{pid}@127.0.0.1:0"
    monkeypatch.setenv("SNOWGREEN_WORKER", "blue.4")
    node.start()
    assert node.name.startswith("web-blue.4-")


def test_the_host_is_the_machines_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a full host name the first label, and of that what a name can hold."""
    for full, short in (("box7.rack.example", "box7"), ("my box!", "my-box"), ("_", "localhost")):
        monkeypatch.setattr(os, "uname", lambda full=full: os.uname_result(("", full, "", "", "")))
        assert arguments.filled("web-{host}@127.0.0.1:0") == f"web-{short}@127.0.0.1:0"


def test_a_placeholder_may_stand_for_the_port(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole name is looked at after it was filled in, and so is the address that it binds."""
    (port,) = free_ports(1)
    monkeypatch.setenv("SNOWGREEN_WORKER", str(port))
    node = make_node("web@127.0.0.1:{{worker}}")
    assert (node.name, node.address) == (f"web@127.0.0.1:{port}", f"127.0.0.1:{port}")


def test_an_unknown_worker_is_refused_at_the_start(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preloading master may make the node; who starts it without a number is told where numbers come from."""
    monkeypatch.delenv("SNOWGREEN_WORKER", raising=False)
    node = make_node("web-{{worker}}@127.0.0.1:0", start=False)
    with pytest.raises(
        snowgreen.InvalidName, match=r"SNOWGREEN_WORKER is not set: snowgreen\.gunicorn sets it"
    ):
        node.start()
    assert not node.started
    monkeypatch.setenv("SNOWGREEN_WORKER", "1@evil\n")
    with pytest.raises(snowgreen.InvalidName, match=r"is '1@evil\\n', which no name can hold"):
        node.start()
    monkeypatch.setenv("SNOWGREEN_WORKER", "1")
    assert node.start().started


def test_an_unknown_placeholder_is_refused_at_once() -> None:
    """It is named, with those that there are; and what is wrong with the rest of the name, too."""
    with pytest.raises(
        snowgreen.InvalidName, match=r"placeholder \{slot\}, which is none: there are \{pid\}"
    ):
        snowgreen.Node("web-{slot}@127.0.0.1:0")
    with pytest.raises(snowgreen.InvalidName, match="has no '@'"):
        snowgreen.Node("web-{pid}")
    with pytest.raises(snowgreen.InvalidName, match="the part before '@'"):
        snowgreen.Node("web-{pid@127.0.0.1:0")
    with pytest.raises(snowgreen.ConfigurationError, match="binding beyond loopback is a choice"):
        snowgreen.Node("web-{pid}@10.0.0.5:9000")
