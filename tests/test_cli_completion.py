"""Shell completion, as the shells do it: what a Tab makes of a line."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from snowgreen.cli import group
from snowgreen.cookie import VARIABLE
from tests.terminals import start_in
from tests.test_cli import COOKIE, PATIENCE, CommandLine

TAB, KILL_LINE = b"\t", b"\x15"
PROMPT = "ready> "
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(snowgreen completion bash)"'),
    "zsh": (
        ["zsh", "-f", "-i"],
        'autoload -U compinit; compinit -u -D; eval "$(snowgreen completion zsh)"',
    ),
    "fish": (["fish", "--no-config", "-i"], "snowgreen completion fish | source"),
}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line, with a `snowgreen` on the path."""
    commands = CommandLine(tmp_path)
    program = tmp_path / "bin" / "snowgreen"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m snowgreen "$@"\n')
    program.chmod(0o755)
    commands.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    commands.environ[VARIABLE] = COOKIE
    yield commands
    for running in commands.started:
        running.abandon()


class Shell:
    """An interactive shell in a terminal."""

    def __init__(self, name: str, environ: dict[str, str]) -> None:
        command, setup = SHELLS[name]
        self.ours, theirs = pty.openpty()
        settings = {"PS1": PROMPT, "TERM": "dumb", "INPUTRC": "/dev/null", "COLUMNS": "200"}
        self.process = start_in(theirs, command, {**environ, **settings})
        os.write(self.ours, setup.encode() + b"; echo is''ready\n")
        self.until("isready")
        os.close(theirs)  # only now: a terminal that nobody has open is hung up

    def until(self, wanted: str) -> None:
        """Read on until the shell has written this."""
        seen, deadline = "", time.monotonic() + PATIENCE
        while wanted not in seen:
            if time.monotonic() > deadline:
                pytest.fail(f"not in time: {wanted!r} in {seen!r}")
            if select.select([self.ours], [], [], 0.1)[0]:
                seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.ours, 65536).decode())

    def completes(self, line: str, whole: str) -> None:
        """A Tab behind `line` makes it `whole`."""
        os.write(self.ours, line.encode() + TAB)
        self.until(whole)
        os.write(self.ours, KILL_LINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_commands_options_and_names(cli: CommandLine, name: str):
    """Commands, options, their values, and the names of nodes that run here, before and behind @ and colon."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed here")
    _, node = cli.node()
    lines = {
        "snowgreen lin": "snowgreen links ",
        f"snowgreen top {node[:-2]}": f"snowgreen top {node} ",
    }
    if name == "bash":  # which has a script of ours; the others have click's
        lines |= {
            "snowgreen top --sort wai": "snowgreen top --sort waiting ",
            "snowgreen ping al": f"snowgreen ping {node} ",
            "snowgreen events --json alice@": f"snowgreen events --json {node} ",
        }
    shell = Shell(name, cli.environ)
    try:
        for line, whole in lines.items():
            shell.completes(line, whole)
    finally:
        shell.close()


@pytest.mark.parametrize("name", SHELLS)
def test_the_scripts_are_printed(name: str, monkeypatch: pytest.MonkeyPatch):
    """Each shell gets a script, also on a machine that has not that shell."""
    monkeypatch.setenv("PATH", "/nowhere")
    result = CliRunner().invoke(group, ["completion", name], prog_name="snowgreen")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "_SNOWGREEN_COMPLETE" in result.stdout


def test_an_unknown_shell_is_refused():
    """The error names those that there are."""
    result = CliRunner().invoke(group, ["completion", "cmd"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'bash', 'zsh', 'fish'" in result.stderr
