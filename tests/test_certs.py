"""``snowgreen certs`` and the ``--tls-`` options, as an operator uses them: real processes, and the guide's commands."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snowgreen.cookie import VARIABLE
from tests.certs import free_port
from tests.test_cli import CommandLine, one_error_line

GUIDE = (Path(__file__).parents[1] / "docs" / "operator-ca.md").read_text()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """The command line, in an empty directory; no traceback may come of what is done with it."""
    monkeypatch.chdir(tmp_path)
    commands = CommandLine(tmp_path)
    commands.environ[VARIABLE] = "a cookie that is long enough"
    yield commands
    for running in commands.started:
        running.abandon()
    said = commands.everything_said()
    assert "Traceback" not in said
    assert "PRIVATE KEY" not in said


def good(result: tuple[int, str, str]) -> str:
    status, out, err = result
    assert (status, err) == (0, "")
    return out


def files(name: str) -> list[str]:
    """The options for the files of a node in the default directory."""
    stem = re.sub(r"[@:]", "_", name)
    directory = "snowgreen-ca"
    return [
        *("--tls-ca", f"{directory}/ca.pem"),
        *("--tls-cert", f"{directory}/{stem}.pem"),
        *("--tls-key", f"{directory}/{stem}.key"),
    ]


def test_two_processes_with_certificates(cli: CommandLine) -> None:
    """A CA, two certificates, a node and a ping: named by their certificates, and nobody else gets in."""
    alice, ops = f"alice@127.0.0.1:{free_port()}", "ops@127.0.0.1:0"
    assert "ca.key (keep it to yourself)" in good(cli.run("certs", "init"))
    out = good(cli.run("certs", "issue", alice, ops, "--days", "30"))
    assert out.count("valid until") == 2
    running = cli.start("start", *files(alice))
    assert running.line(r"^name +(\S+)$")[1] == alice
    running.line(r"^trusts +\S+/snowgreen-ca/ca\.pem$")
    assert "2 sent, 2 answered" in good(cli.run("ping", "-c", "2", "-i", "0.01", alice, *files(ops)))
    running.line(rf"{ops} is up \(accepted, bound\)")
    assert alice in good(cli.run("connect", alice, *files(ops)))

    status, _, err = cli.run("connect", alice)
    assert status == 1
    assert "requires a certificate of its operator's CA" in one_error_line(err)
    assert "`snowgreen certs show FILE`" in err
    running.line("presented no certificate")

    good(cli.run("certs", "issue", "--renew", alice, ops))
    assert "1 answered" in good(cli.run("ping", "-c", "1", alice, *files(ops)))
    assert running.end(signal.SIGTERM)[0] == 0


def test_show(cli: CommandLine) -> None:
    """Subject, names, validity and fingerprint, of each certificate in the file."""
    good(cli.run("certs", "init", "--dir", "there", "--days", "7"))
    good(cli.run("certs", "issue", "a@[::1]:9100", "--dir", "there"))
    out = good(cli.run("certs", "show", "there/a____1__9100.pem"))
    assert "name         URI:snowgreen://a@[::1]:9100\n" in out
    assert "name         IP:::1\n" in out
    assert re.search(r"^fingerprint  [0-9a-f]{64}$", out, re.M)
    assert re.search(r"^valid until  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", out, re.M)
    assert "is a CA      yes" in good(cli.run("certs", "show", "there/ca.pem"))


def test_mistakes_are_one_line(cli: CommandLine) -> None:
    """No CA, a CA that is there, a bad name, no such file: status 1 and one line, and nothing is overwritten."""
    status, _, err = cli.run("certs", "issue", "a@127.0.0.1:1")
    assert status == 1
    assert "`snowgreen certs init` makes one" in one_error_line(err)
    good(cli.run("certs", "init"))
    before = {path: path.read_bytes() for path in Path("snowgreen-ca").iterdir()}
    for arguments, message in (
        (["init"], "--force"),
        (["issue", "a"], "no node name"),
        (["issue", "good@h:1", "b ad@h"], "no node name"),
        (["show", "nowhere.pem"], "does not exist"),
        (["show", "snowgreen-ca/ca.key"], "no certificate"),
    ):
        status, out, err = cli.run("certs", *arguments)
        assert (status, out) == (1, "")
        assert message in one_error_line(err)
    assert {path: path.read_bytes() for path in Path("snowgreen-ca").iterdir()} == before


def test_options_that_make_no_sense(cli: CommandLine) -> None:
    """One of three files, a file that is not there, a free port: refused before anything starts."""
    good(cli.run("certs", "init"))
    good(cli.run("certs", "issue", "ops@127.0.0.1:0"))
    status, _, err = cli.run("ping", "a@h:1", "--tls-ca", "x", "--tls-key", "y")
    assert status == 2
    assert "--tls-cert missing" in err
    for arguments, message in (
        (["ping", "a@h:1", *files("nobody@h:1")], "tls.cert: "),
        (["start", *files("ops@127.0.0.1:0")], "takes a free port"),
        (["start", "--name", "b@127.0.0.1:0", "--no-listen", *files("ops@127.0.0.1:0")], "this node is b@"),
    ):
        status, out, err = cli.run(*arguments)
        assert (status, out) == (1, "")
        assert message in one_error_line(err)


# The guide


def local(text: str, ports: list[int]) -> str:
    """The guide's two machines, brought to this one."""
    return re.sub(
        r"10\.0\.0\.([56])([:_])9100", lambda found: f"127.0.0.1{found[2]}{ports[int(found[1]) - 5]}", text
    )


def test_the_guides_commands_do_what_it_says(cli: CommandLine) -> None:
    """Every command of docs/operator-ca.md, in its order: nodes that it starts go on, all else succeeds."""
    text = local(GUIDE, [free_port(), free_port()])
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 7
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "snowgreen", command
        if arguments[0] == "start":
            cli.start(*arguments).line(r"^trusts ")
        else:
            good(cli.run(*arguments))
    assert {"init", "issue", "show"} <= {shlex.split(command)[2] for command in commands}
    for running in cli.started:
        assert running.end(signal.SIGTERM)[0] == 0


def test_the_guides_code_links(cli: CommandLine) -> None:
    """Its Python block, with the certificates of its first commands, against a node from the command line."""
    ports = [free_port(), free_port()]
    text = local(GUIDE, ports)
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    worker, api = f"worker@127.0.0.1:{ports[1]}", f"api@127.0.0.1:{ports[0]}"
    good(cli.run("certs", "init"))
    good(cli.run("certs", "issue", worker, api))
    os.rename("snowgreen-ca/ca.key", "elsewhere")
    cli.start("start", *files(worker)).line(r"^trusts ")
    run = subprocess.run(
        [sys.executable, "-c", block],
        env=cli.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert f"<Session {worker} up bound dialed" in run.stdout
