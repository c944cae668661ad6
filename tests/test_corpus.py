"""The kept inputs of `tools/fuzz.py`, replayed without a fuzzer, and the proof that its targets can fail."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from snowgreen.protocol import keys
from snowgreen.protocol.wire import Decoder

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tests" / "corpus"


def load() -> ModuleType:
    """tools/fuzz.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("fuzz", ROOT / "tools" / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


fuzz = load()
INPUTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_that_is_kept(path: Path) -> None:
    """It raises nothing that is not documented, and breaks nothing that must hold, whole and cut short."""
    data = path.read_bytes()
    target = fuzz.TARGETS[path.parent.name]
    target(data)
    for size in range(0, len(data), max(1, len(data) // 64)):
        target(data[:size])


def test_every_target_has_a_small_corpus() -> None:
    """Each target is replayed, the seeds that are made are all there, and the whole stays a handful of files."""
    assert {path.parent.name for path in INPUTS} == set(fuzz.TARGETS)
    for target in fuzz.TARGETS:
        for name, content in fuzz.seeds(target):
            assert (CORPUS / target / name).read_bytes() == content, f"{target}/{name}: run --write-seeds"
    assert len(INPUTS) < 100
    assert all(path.stat().st_size <= 1024 for path in INPUTS)


@pytest.mark.parametrize("target", ["initiator", "acceptor"])
@pytest.mark.parametrize("form", ["bound", "classic"])
def test_the_corpus_goes_to_the_end_of_the_handshake(
    monkeypatch: pytest.MonkeyPatch, target: str, form: str
) -> None:
    """From the seeds the fuzzer can see a link come about in both forms and roles, not only refusals."""
    forms = []
    stepped = fuzz._stepped

    def watched(machine: Any, step: Any) -> Any:
        result = stepped(machine, step)
        if isinstance(result, fuzz.Established):
            forms.append(result.peer.form.value)
        return result

    monkeypatch.setattr(fuzz, "_stepped", watched)
    fuzz.TARGETS[target]((CORPUS / target / f"{form}-link").read_bytes())
    assert forms == [form]


def raising(error: Exception) -> Any:
    """A parser with a defect."""

    def parse(*_: object, **__: object) -> Any:
        raise error

    return parse


def test_an_undocumented_error_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that lets any other exception out, even a ValueError, breaks its target."""
    data = (CORPUS / "frames" / "goodbye").read_bytes()
    monkeypatch.setattr(fuzz.frames, "decode_goodbye", raising(ValueError("not a BadFrame")))
    with pytest.raises(ValueError, match="not a BadFrame"):
        fuzz.fuzz_frames(data)
    monkeypatch.setattr(fuzz.names, "parse_name", raising(IndexError()))
    with pytest.raises(IndexError):
        fuzz.fuzz_names(b"a@h")
    monkeypatch.setattr(fuzz.messages, "tag_of", raising(KeyError("tag")))
    with pytest.raises(KeyError):
        fuzz.fuzz_acceptor((CORPUS / "acceptor" / "bound-link").read_bytes())


@pytest.mark.parametrize("target", ["initiator", "acceptor"])
def test_a_link_without_a_proof_is_found(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A machine that takes any proof for a good one breaks its target with the seed that has a wrong one."""
    monkeypatch.setattr(keys, "same", lambda one, other: True)
    with pytest.raises(AssertionError, match="a link without a proof"):
        fuzz.TARGETS[target]((CORPUS / target / "bound-hello-and-wrong-proof").read_bytes())


def test_a_decoder_that_minds_how_it_is_cut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that loses what it holds between two pieces breaks the target of the wire."""

    class Forgetful(Decoder):
        def feed(self, data: Any) -> list[bytes]:
            payloads = super().feed(data)
            self._pending = None
            return payloads

    monkeypatch.setattr(fuzz, "Decoder", Forgetful)
    with pytest.raises(AssertionError):
        fuzz.fuzz_wire((CORPUS / "wire" / "two-and-a-half").read_bytes())


def test_without_atheris_it_says_what_to_do() -> None:
    """Where atheris is missing the tool ends with a sentence, not a traceback."""
    result = CliRunner().invoke(fuzz.main, ["messages"])
    assert result.exit_code == 1
    assert "atheris is not installed" in result.output
    assert "test_corpus.py" in result.output
