"""The README's code runs as it stands, and its commands are the ones CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import until_line

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A fresh user's environment, with a config directory of its own."""
    kept = {key: value for key, value in os.environ.items() if key != "SNOWGREEN_COOKIE"}
    return {**kept, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}


def test_the_first_two_blocks_link(env: dict[str, str]) -> None:
    """The worker and the api of the README, each pasted into a process, link and print what is promised."""
    worker = subprocess.Popen(
        [sys.executable, "-c", listening(BLOCKS[0])], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        until_line(worker.stdout, "listening")
        api = subprocess.run(
            [sys.executable, "-c", BLOCKS[1]],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert api.returncode == 0, api.stderr
        session, ping = api.stdout.splitlines()
        assert promised(BLOCKS[1], "print(session)") == session
        assert 0 < float(ping) < 10
        assert until_line(worker.stdout, "is up").strip() == promised(BLOCKS[0], "print(event)")
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_the_error_block(env: dict[str, str]) -> None:
    """The block about errors prints the message it shows."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS[2]], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == promised(BLOCKS[2], "print(error)")


def test_the_block_about_kept_peers(env: dict[str, str]) -> None:
    """The block about links that last runs to its end, with nobody there to link with."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS[3]], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert len(BLOCKS) == 5


def test_the_table_of_arguments_is_true() -> None:
    """Every Node(...) that the README shows in passing is accepted as it stands."""
    import snowgreen

    shown = re.findall(r"^\| `(Node\(.*\))` \|", README, re.MULTILINE)
    assert len(shown) == 7
    names = {"Node": snowgreen.Node, "Config": snowgreen.Config, "Limits": snowgreen.Limits}
    for text in shown:
        assert eval(text, names).started is False


def test_the_block_about_messages(env: dict[str, str]) -> None:
    """The block of the README that sends and calls prints what its comments promise."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS[4]], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    shown = re.findall(r"^ *print\(.*\) +# (.*)$", BLOCKS[4], re.MULTILINE)
    assert len(shown) == 2
    assert run.stdout.splitlines() == shown


def test_ci_runs_the_readmes_test_command() -> None:
    """The script takes the command out of the README rather than repeating it."""
    (command,) = re.findall(r"^<!-- the test command -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text()
    extract = next(line for line in script.splitlines() if line.startswith("test_command="))
    run = subprocess.run(
        ["bash", "-c", f'{extract}; echo "$test_command"'], cwd=ROOT, capture_output=True, text=True
    )
    assert run.stdout.strip() == command


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link in the README, CONTRIBUTING and docs is a file that exists."""
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def promised(block: str, statement: str) -> str:
    """What the comment behind `statement` says it prints."""
    (found,) = re.findall(rf"{re.escape(statement)}\s+# (.*)", block)
    return found


def listening(block: str) -> str:
    """The block, saying so when its node has started."""
    return block.replace(".start()\n", ".start()\nprint('listening')\n")
