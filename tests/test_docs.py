"""The documentation: its code runs and prints what it says, its commands exist, its pictures and its site hold."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import click
import pytest
import yaml

import snowgreen
from snowgreen.cli import group
from snowgreen.config import Config, Limits
from snowgreen.protocol import pairing
from snowgreen.protocol.messages import RejectCode
from tests.certs import free_port
from tests.system.processes import until_line
from tests.test_explore import load
from tests.waiting import until

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ABOVE = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
#: Pages whose code another file of tests runs, because it needs more than a process: that file.
ELSEWHERE = {
    "embedding.md": "test_embedding.py",
    "operator-ca.md": "test_certs.py",
    "logging.md": "test_logging.py",
    "metrics.md": "test_metrics.py",
}
#: Pages with programs in files, of several machines, each of which has its test below.
STAGED = {"tutorial.md", "tutorial-web.md", "kubernetes.md"}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages, those in lists and tabs too, without their indentation."""
    found = re.findall(
        r'^( *)```(\w+)(?: title="([^"]*)")?\n(.*?)^\1```$', page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [
        Block(language, title, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, title, text in found
        if language in languages
    ]


def named(page: Path) -> str:
    """A page as it is called in docs/."""
    return page.relative_to(DOCS).as_posix()


RUN_HERE = [
    page
    for page in PAGES
    if named(page) not in ELSEWHERE and named(page) not in STAGED and blocks(page, "python")
]


def promised(code: str) -> list[str]:
    """What a program's comments say that it prints: behind each print, and on lines of their own behind one."""
    return [
        shown or alone for shown, alone in re.findall(r"^ *print\(.*\) +# (.*)$|^# (.*)$", code, re.MULTILINE)
    ]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A fresh user's environment."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("SNOWGREEN_COOKIE", "XDG_CONFIG_HOME")
    }
    return {**kept, "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}


# The code.


@pytest.mark.parametrize("page", RUN_HERE, ids=named)
def test_a_pages_code_runs_and_prints_what_it_says(page: Path, env: dict[str, str], tmp_path: Path) -> None:
    """The Python blocks of a page are one program, which prints what its comments promise; … stands for anything."""
    code = "".join(block.text for block in blocks(page, "python"))
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    shown, printed = promised(code), run.stdout.splitlines()
    assert shown
    assert len(printed) == len(shown), printed
    for expected, line in zip(shown, printed, strict=True):
        assert re.fullmatch(re.escape(expected).replace("…", ".*"), line)


def test_every_page_with_code_is_run_somewhere() -> None:
    """No page's code is left out: what is not run here is run by the file of tests that says so."""
    for page, tests in ELSEWHERE.items():
        assert page in (ROOT / "tests" / tests).read_text("utf-8"), f"{tests} does not run {page}"
    assert {named(page) for page in RUN_HERE} >= {"messages.md", "rotation.md"}


# The tutorials, on one machine.


class Machines:
    """The two machines of the tutorials: a home each, on loopback, with ports of their own."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.ports = {place: free_port() for place in ("5:9100", "6:9100", "5:9101", "8000")}
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        commands = folder / "bin"
        commands.mkdir()
        for name, command in {
            "snowgreen": f'exec {sys.executable} -m snowgreen "$@"',
            "python": f'exec {sys.executable} "$@"',
            "scp": f'exec cp "{folder}/${{1%%:*}}/${{1#*:}}" "$2"',
        }.items():
            (commands / name).write_text(f"#!/bin/sh\n{command}\n")
            (commands / name).chmod(0o755)
        self._env = {**env, "PATH": f"{commands}:{env['PATH']}"}

    def local(self, text: str) -> str:
        """`text` with the places of the two machines brought to this one."""
        for place, port in self.ports.items():
            text = text.replace(f"10.0.0.{place}", f"127.0.0.1:{port}")
        return text.replace("8000", str(self.ports["8000"]))

    def write(self, page: Path) -> None:
        """Put the page's files on both machines."""
        for host in ("10.0.0.5", "10.0.0.6"):
            (self.folder / host).mkdir(exist_ok=True)
            for block in blocks(page, "python"):
                (self.folder / host / block.title).write_text(self.local(block.text))

    def start(self, block: Block) -> subprocess.Popen[str]:
        """Run the commands of a block on the machine in its title."""
        host, text = block.title.removeprefix("on "), self.local(block.text)
        process = subprocess.Popen(
            ["sh", "-e", "-c", text if text.count("\n") > 1 else f"exec {text}"],
            env={**self._env, "HOME": str(self.folder / host)},
            cwd=self.folder / host,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, block: Block) -> str:
        """The same to its end; what it printed."""
        process = self.start(block)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return out

    def end(self, process: subprocess.Popen[str], number: int) -> None:
        """Signal a block's commands, and wait until they are gone."""
        os.killpg(process.pid, number)
        process.wait(20)

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self.started:
            if process.poll() is None:
                self.end(process, signal.SIGKILL)
            process.stdout.close()


@pytest.fixture
def machines(tmp_path: Path, env: dict[str, str]) -> Iterator[Machines]:
    """Two machines."""
    both = Machines(tmp_path, env)
    yield both
    both.close()


def test_the_tutorial_of_two_machines(machines: Machines) -> None:
    """Every command and program of the tutorial, in its order, does what the text says."""
    page = DOCS / "tutorial.md"
    machines.write(page)
    make, fetch, start, ping, work, api, watch = blocks(page, "sh")

    def fingerprint(out: str) -> str:
        return re.search(r"^fingerprint +(\S+)$", out, re.MULTILINE)[1]

    assert fingerprint(machines.run(make)) == fingerprint(machines.run(fetch))
    node = machines.start(start)
    until_line(node.stdout, "fingerprint")
    out = machines.run(ping)
    assert "3 sent, 3 answered" in out
    assert re.search(r"^form +bound$", out, re.MULTILINE)
    until_line(node.stdout, "is up")
    machines.end(node, signal.SIGINT)

    worker = machines.start(work)
    name = machines.local("worker@10.0.0.6:9100")
    _until_it_answers(name, machines)
    (promise,) = promised(next(block.text for block in blocks(page, "python") if block.title == "api.py"))
    assert machines.run(api).strip() == promise
    assert until_line(worker.stdout, "sent").strip() == machines.local("api@10.0.0.5:9100 sent {'id': 7}")

    watching = machines.start(watch)
    assert until_line(watching.stdout, name).strip() == f"{name} is up (dialed, bound)"
    machines.end(worker, signal.SIGKILL)
    assert f"{name} is down: " in until_line(watching.stdout, name)
    worker = machines.start(work)
    until_line(watching.stdout, "is up")
    machines.end(worker, signal.SIGINT)
    assert f"{name} has left: " in until_line(watching.stdout, name)


def _until_it_answers(name: str, machines: Machines) -> None:
    cookie = (machines.folder / "10.0.0.5" / ".config" / "snowgreen" / "cookie").read_text().strip()
    with snowgreen.Node(listen=False, cookie=cookie) as node:

        def linked() -> bool:
            try:
                return node.connect(name, timeout=5).ping() > 0
            except snowgreen.SnowgreenError:
                return False

        until(linked, f"{name} answers", timeout=30)


def test_the_tutorial_of_a_web_application(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The web process and its worker answer the requests of the page as it shows."""
    page = DOCS / "tutorial-web.md"
    machines.write(page)
    for host in ("10.0.0.5", "10.0.0.6"):
        folder = machines.folder / host / ".config" / "snowgreen"
        folder.mkdir(parents=True)
        (folder / "cookie").write_text("the same long cookie on both")
        (folder / "cookie").chmod(0o600)
    work, serve = blocks(page, "sh")
    worker, web = machines.start(work), machines.start(serve)
    _until_it_answers(machines.local("worker@10.0.0.6:9100"), machines)
    _until_it_answers(machines.local("web@10.0.0.5:9100"), machines)
    (shown,) = blocks(page, "console")
    asked, answer, listing, members = machines.local(shown.text).splitlines()
    data = re.search(r"-d '(.*?)'", asked)[1]

    def ask(command: str, data: str | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            command.split()[-1], data and data.encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    assert "application/json" in asked
    assert ask(asked, data) == (200, json.loads(answer))
    until(lambda: ask(listing) == (200, json.loads(members)), "nobody else is linked")
    assert "sent {'seen': 'cat.png'}" in until_line(worker.stdout, "sent")
    machines.end(worker, signal.SIGKILL)
    status, told = ask(asked, data)
    assert status == 503
    assert told["error"].startswith("no worker: ")
    machines.start(work)
    until(lambda: ask(asked, data) == (200, json.loads(answer)), "the worker is found again", timeout=30)
    assert web.poll() is None


# The commands.


def said(page: Path) -> Iterator[list[str]]:
    """Every command of snowgreen's that a page names: in a block, in a sentence, in a list of YAML."""
    text = page.read_text("utf-8")
    for block in blocks(page, "sh", "console", "bash", "ini", "dockerfile"):
        for line in block.text.replace("\\\n", " ").splitlines():
            found = re.search(r"(?:^|\$ |[|;&(=/] *)snowgreen (?=[a-z-])(.*)", line.partition(" #")[0])
            if found:
                yield shlex.split(re.split(r"[|;>)&]", found[1])[0])
    for words in re.findall(r"(?<!`)`snowgreen ((?:[a-z]|--?[a-z])[^`]*)`(?!`)", text.replace("\n", " ")):
        yield words.split()
    for block in blocks(page, "yaml"):
        for item in lists(list(yaml.safe_load_all(block.text))):
            if item[:1] == ["snowgreen"]:
                yield [str(word) for word in item[1:]]


def lists(value: Any) -> Iterator[list[Any]]:
    """Every list within `value`."""
    if isinstance(value, list):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from lists(inner)


def unknown(words: list[str]) -> str | None:
    """The first command or option among the words behind `snowgreen` that does not exist."""
    command: click.Command = group
    for word in words:
        if word.startswith("-"):
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            if word.partition("=")[0] not in known | {"-h", "--help"} and not re.fullmatch(r"-\d+", word):
                return f"{command.name} has no {word}"
        elif isinstance(command, click.Group):
            if word not in command.commands:
                return f"{command.name} has no command {word}"
            command = command.commands[word]
    return None


@pytest.mark.parametrize("page", [*ABOVE, *PAGES], ids=lambda page: page.name)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    """Each command and each option is one that `--help` lists."""
    assert [problem for words in said(page) if (problem := unknown(words))] == []


def test_the_commands_are_looked_at() -> None:
    """The look finds commands in each form, and what is wrong with one."""
    found = [words for page in [*ABOVE, *PAGES] for words in said(page)]
    assert ["cookie", "--new"] in found
    assert ["ping", "-c", "3", "-i", "0.2", "worker@10.0.0.6:9100"] in found
    assert ["start"] in found
    assert unknown(["start", "--name", "a@b", "--no-listen"]) is None
    assert unknown(["start", "--nmae", "a@b"]) == "start has no --nmae"
    assert unknown(["certs", "isue"]) == "certs has no command isue"
    assert unknown(["pong"]) == "group has no command pong"


#: What a page may call an object of the package, and what it then is.
SPOKEN_OF = {
    "Config": Config,
    "Limits": Limits,
    "Node": snowgreen.Node,
    "node": snowgreen.Node(listen=False),
    "Session": snowgreen.Session,
    "session": snowgreen.Session,
    "snowgreen": snowgreen,
}
_KINDS = r"\w+(?:Error|Timeout|Mismatch|Closed|Full|Empty|Refused|Dropped|Stalled|Problem)|Node(?:Up|Down)"


def nameless(text: str) -> list[str]:
    """What a text calls an attribute, an error or an event of the package, and is none."""
    code = " ".join(re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
    owners = "|".join(SPOKEN_OF)
    found = []
    for owner, name in re.findall(rf"(?<![\w.\"'/@-])({owners})\.([A-Za-z_]\w*)\b(?!\.py)", code):
        if not hasattr(SPOKEN_OF[owner], name) and not (owner == "snowgreen" and _is_module(name)):
            found.append(f"{owner}.{name}")
    for name in re.findall(rf"(?<![\w.])({_KINDS})\b", code):
        if not hasattr(snowgreen, name) and not hasattr(builtins, name):
            found.append(name)
    return found


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(f"snowgreen.{name}") is not None


@pytest.mark.parametrize("page", [*ABOVE, *PAGES], ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Every attribute, method, setting, error and event that a page names is there under that name."""
    assert nameless(page.read_text("utf-8")) == []


def test_a_name_that_does_not_exist_is_found() -> None:
    """The look sees each kind of name, and only names of this package."""
    assert nameless("`node.conect(peer)`, `Limits.pendings`, `snowgreen.Nodes`, `MailboxOverFull`") == [
        "node.conect", "Limits.pendings", "snowgreen.Nodes", "MailboxOverFull",
    ]  # fmt: skip
    assert (
        nameless("`node.connect` `snowgreen.web.dashboard` `gunicorn.errors.ConfigError` `OSError` x.Error")
        == []
    )


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml", "json")], ids=named)
def test_yaml_and_json_can_be_read(page: Path) -> None:
    """Every block of YAML or JSON parses, and holds something. JSON may be one value, or one in each line."""
    for block in blocks(page, "yaml"):
        assert all(yaml.safe_load_all(block.text))
    for block in blocks(page, "json"):
        lines = block.text.splitlines()
        one_each = len(lines) > 1 and all(line.startswith("{") and line.endswith("}") for line in lines)
        for text in lines if one_each else [block.text]:
            assert json.loads(text)


def test_the_pod_of_the_kubernetes_page(machines: Machines, env: dict[str, str]) -> None:
    """The program starts with what the manifest gives it, answers its probes, and ends in order at SIGTERM."""
    page = DOCS / "kubernetes.md"
    (program,), (manifests,) = blocks(page, "python"), blocks(page, "yaml")
    service, stateful, policy = yaml.safe_load_all(manifests.text)
    (container,) = stateful["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert set(re.findall(r'os\.environ\["(\w+)"\]', program.text)) <= set(given)
    assert "SNOWGREEN_COOKIE" in given
    assert stateful["spec"]["serviceName"] == service["metadata"]["name"]
    assert given["DOMAIN"].startswith(service["metadata"]["name"] + ".")
    (port,) = {
        *(entry["containerPort"] for entry in container["ports"]),
        *(entry["port"] for entry in service["spec"]["ports"]),
        *(entry["port"] for rule in policy["spec"]["ingress"] for entry in rule["ports"]),
        *(int(found) for found in re.findall(r':(\d+)"', program.text)),
    }

    here = str(free_port())
    env |= {"SNOWGREEN_COOKIE": "a" * 64, "POD_NAME": "node-0", "DOMAIN": "nodes.local", "REPLICAS": "1"}
    text = program.text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{here}")
    pod = subprocess.Popen(
        [sys.executable, "-c", text], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    machines.started.append(pod)
    assert until_line(pod.stdout, "listening") == f"listening as node-0@node-0.nodes.local:{port}\n"
    for probe in ("readinessProbe", "livenessProbe"):
        command = [word.replace(str(port), here) for word in container[probe]["exec"]["command"]]
        assert command.pop(0) == "snowgreen"
        run = subprocess.run(
            [sys.executable, "-m", "snowgreen", *command], env=env, capture_output=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
    pod.terminate()
    assert pod.wait(20) == 0


# The pictures.

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("picture", sorted(DOCS.glob("*.svg")), ids=lambda picture: picture.name)
def test_a_picture_needs_nothing_and_is_told_in_words(picture: Path) -> None:
    """No script, link or font to load, colours for light and dark, and a description for who cannot see it."""
    text = picture.read_text("utf-8")
    assert text.count("http") == 1  # the namespace
    for foreign in ("<script", "<image", "href", "url(", "@import", "@font-face"):
        assert foreign not in text
    assert "prefers-color-scheme: dark" in text
    root = ElementTree.fromstring(text)
    assert root.findtext(f"{SVG}title")
    assert len(root.findtext(f"{SVG}desc")) > 100


def drawn(name: str) -> list[tuple[str, str]]:
    """The messages of a picture from top to bottom: what each is called, and the class of who sends it."""
    root = ElementTree.parse(DOCS / name).getroot()
    return [
        (group.findtext(f"{SVG}title"), group.get("class"))
        for group in root.findall(f"{SVG}g")
        if group.find(f"{SVG}title") is not None
    ]


def test_the_sequence_is_the_protocols() -> None:
    """The four messages in their order, each from its sender."""
    assert drawn("handshake-sequence.svg") == [
        ("NAME", "one"), ("CHALLENGE", "two"), ("REPLY", "one"), ("ACK", "two"),
    ]  # fmt: skip


def test_the_two_dials_end_as_they_are_drawn() -> None:
    """The rule itself decides as the picture of two crossing dials shows it: a declines, b admits and closes its own."""
    a, first = pairing.dial(pairing.Pair(), 1, smaller=True)
    b, second = pairing.dial(pairing.Pair(), 1, smaller=False)
    assert isinstance(first, pairing.Dial)
    assert isinstance(second, pairing.Dial)
    assert (first.epoch, second.epoch) == (1, 1)
    a, _ = pairing.challenged(a, 1, 200, 0.0)
    b, _ = pairing.challenged(b, 1, 100, 0.0)
    a, at_a = pairing.proved(a, pairing.Candidate(2, 200, second.epoch, False, second.attempt), 0.1)
    b, at_b = pairing.proved(b, pairing.Candidate(2, 100, first.epoch, True, first.attempt), 0.1)
    assert at_a == pairing.Decline(RejectCode.DUPLICATE)
    assert at_b == pairing.Admit((1,))
    a, end = pairing.acknowledged(a, pairing.Candidate(1, 200, first.epoch, True, first.attempt))
    assert end == pairing.Admit(())
    both = [("NAME", 2), ("CHALLENGE", 2), ("REPLY", 2), ("REJECT", 1), ("ACK", 1)]
    assert [name for name, _ in drawn("pairing.svg")] == [name for name, count in both for _ in range(count)]
    assert ("REJECT", "one") in drawn("pairing.svg")
    assert ("ACK", "two") in drawn("pairing.svg")


# The site. .ci/run builds it, with warnings as errors.


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """What the site does beyond mkdocs."""
    return load("site_hooks")


def site() -> dict[str, Any]:
    """The site's settings."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))


def leaves(tree: Any) -> Iterator[str]:
    """The pages of a navigation."""
    if isinstance(tree, str):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from leaves(inner)


def test_every_page_is_in_the_navigation_once(hooks: ModuleType) -> None:
    """What can be read can be found: the pages of docs/, and those made from the documents above it."""
    shown = list(leaves(site()["nav"]))
    assert len(set(shown)) == len(shown)
    assert set(shown) == {named(page) for page in PAGES} | {hooks.ABOVE[name] for name in hooks.MADE}


def test_the_site_is_built_strictly_and_from_nowhere_else() -> None:
    """Warnings fail the build, links and anchors are checked, and no font, script or counter comes from outside."""
    settings = site()
    assert settings["strict"] is True
    assert set(settings["validation"].values()) == {"warn"}
    assert settings["theme"]["font"] is False
    assert "http" not in (ROOT / "mkdocs.yml").read_text("utf-8")
    plugins = {
        name for plugin in settings["plugins"] for name in ([plugin] if isinstance(plugin, str) else plugin)
    }
    assert plugins == {"search", "mkdocstrings"}
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"^timeout \d+ .venv/bin/mkdocs build --strict", script, re.MULTILINE)


@pytest.mark.parametrize(
    ("folder", "written", "on_the_site"),
    [
        ("", "[x](docs/messages.md)", "[x](messages.md)"),
        ("", "[x](docs/protocol.md#3-the-handshake)", "[x](protocol.md#3-the-handshake)"),
        ("", "[x](SECURITY.md)", "[x](security.md)"),
        ("benchmarks", "[x](peers/common.py), [y](#below)", "x, [y](#below)"),
        ("docs", "[x](../SECURITY.md) [y](messages.md)", "[x](security.md) [y](messages.md)"),
        (
            "docs",
            "![x](pairing.svg) [y](https://example.org/a)",
            "![x](pairing.svg) [y](https://example.org/a)",
        ),
        (
            "docs/reference",
            "[x](../protocol.md#6) [y](node.md)",
            "[x](../protocol.md#6) [y](../reference/node.md)",
        ),
        ("docs", "<details>", '<details markdown="1">'),
    ],
)
def test_links_between_documents_hold_on_the_site(
    hooks: ModuleType, folder: str, written: str, on_the_site: str
) -> None:
    """A link as a repository browser wants it becomes one between pages; to what is no page, only its text is left."""
    assert hooks.for_site(written, Path(folder)) == on_the_site


def test_what_would_be_loaded_from_elsewhere_is_found(hooks: ModuleType) -> None:
    """Scripts, styles, pictures and fonts of another host are found; links that a reader may follow are not."""
    page = (
        '<link rel="stylesheet" href="assets/main.css"><link rel="canonical" href="https://here.example/">'
        '<a href="https://elsewhere.example/">x</a><img src="picture.svg"><script src="//cdn.example/x.js"></script>'
        '<link rel="preconnect" href="https://fonts.example"><img src="http://pixel.example/1.gif">'
    )
    assert hooks.foreign(page) == [
        "//cdn.example/x.js",
        "https://fonts.example",
        "http://pixel.example/1.gif",
    ]


@pytest.mark.parametrize("cls", [Config, Limits])
def test_help_says_what_each_setting_means(cls: type) -> None:
    """Every field, in its order, has its sentence in the docstring, which `help()` and the site show."""
    said = re.findall(r"^ *:param (\w+): (\S.{9})", cls.__doc__, re.MULTILINE)
    assert [name for name, _ in said] == list(cls.__dataclass_fields__)


def documented() -> dict[str, list[str]]:
    """What the reference describes: each object's path, and those of its members that it picks."""
    found = {}
    for page in (DOCS / "reference").glob("*.md"):
        directives = re.findall(
            r"^::: (snowgreen\S*)\n((?:    .*\n)*)", page.read_text("utf-8"), re.MULTILINE
        )
        for path, options in directives:
            settings = yaml.safe_load(options) if options else {}
            found[path] = settings.get("options", {}).get("members", [])
    return found


def test_the_reference_has_everything_public() -> None:
    """Each name that the package exports is described, by itself or with all of its module."""
    shown = {path.rpartition(".")[2] for path in documented()} | {"Event"}  # which is their sum, and no class
    for path, members in documented().items():
        thing = pkgutil.resolve_name(path)
        if inspect.ismodule(thing) and not members:
            shown |= {name for name, item in vars(thing).items() if getattr(item, "__module__", "") == path}
    assert {name for name in snowgreen.__all__ if name not in shown} == {"__version__"}


def test_the_members_that_the_reference_picks_are_there() -> None:
    """A member that was renamed would silently be missing from the site."""
    for path, members in documented().items():
        thing = pkgutil.resolve_name(path)
        for member in members:
            assert hasattr(thing, member) or f"self.{member} = " in inspect.getsource(thing), (
                f"{path}.{member}"
            )
