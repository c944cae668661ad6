"""The cookie: where it is taken from, what is refused, and that nothing ever shows it."""

import copy
import errno
import os
import pickle
import stat
import threading
import traceback
from pathlib import Path

import pytest

import snowgreen
from snowgreen import cookie as cookies
from snowgreen.cookie import MAX_LENGTH, VARIABLE, Cookie, create, default_path, find, load
from snowgreen.errors import CookieError

VALUE = "correct horse battery staple"
PACKAGE = str(Path(snowgreen.__file__).parent)


@pytest.fixture
def path(tmp_path):
    """Where a cookie file would be, in directories that do not exist yet."""
    return tmp_path / "config" / "snowgreen" / "cookie"


def write(path, content, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


# Where it comes from


def test_the_argument_comes_before_the_variable_and_the_file(path):
    """A given cookie is used as it is, and neither of the other places is looked at."""
    given = Cookie.wrap(VALUE, "cookie")
    assert find(given, environ={VARIABLE: "x" * 32}, path=write(path, b"y" * 32)) is given


def test_the_variable_comes_before_the_file(path):
    """The variable wins, the file is neither read nor made, and the cookie says its source."""
    found = find(environ={VARIABLE: VALUE}, path=path)
    assert found.reveal() == VALUE.encode()
    assert found.source == VARIABLE
    assert not path.parent.exists()


def test_an_empty_variable_does_not_fall_back_to_the_file(path):
    """A variable that is set and unusable is an error, not a reason to use another secret silently."""
    write(path, VALUE.encode())
    with pytest.raises(CookieError, match="it is empty") as caught:
        find(environ={VARIABLE: ""}, path=path)
    assert caught.value.argument == VARIABLE


def test_the_file_is_the_last_place(path):
    """Without argument and variable the file's content is the cookie, and its path the source."""
    found = find(environ={}, path=write(path, b"file cookie of its own\n"))
    assert found.reveal() == b"file cookie of its own"
    assert found.source == str(path)


def test_the_file_is_looked_for_in_the_users_config_directory(tmp_path, monkeypatch):
    """Without a path the default one is used, which follows the user's own setting."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert default_path() == tmp_path / "snowgreen" / "cookie"
    assert find(environ={}).reveal() == default_path().read_bytes().strip()


def test_a_missing_file_is_made_private_and_random(path):
    """First use makes 256 bits from the operating system, readable by the owner alone, and keeps them."""
    asked = []

    def entropy(size):
        asked.append(size)
        return bytes(range(size))

    found = find(environ={}, path=path, entropy=entropy)
    assert asked == [32]
    assert bytes.fromhex(found.reveal().decode()) == bytes(range(32))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert find(environ={}, path=path).reveal() == found.reveal()
    assert os.listdir(path.parent) == ["cookie"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_umask_does_not_matter(path, mask):
    """The file is private even in a process whose umask leaves everything open."""
    before = os.umask(mask)
    try:
        create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_two_made_cookies_differ(tmp_path):
    """Entropy is drawn anew each time by default."""
    create(tmp_path / "one")
    create(tmp_path / "two")
    assert load(tmp_path / "one").reveal() != load(tmp_path / "two").reveal()


# The file


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o601, 0o610, 0o666])
def test_a_file_open_to_others_is_refused(path, mode):
    """Any right for group or others is refused, with the mode and the remedy."""
    write(path, VALUE.encode(), mode)
    with pytest.raises(CookieError, match=rf"open to other users \(mode {mode:04o}\); run: chmod 600"):
        load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_the_owners_rights_are_his_own_affair(path, mode):
    """Only the rights of others count."""
    assert load(write(path, VALUE.encode(), mode)).reveal() == VALUE.encode()


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    """Who owns the file can replace the secret, so it must be this user or root."""
    write(path, VALUE.encode())
    owner = path.stat().st_uid
    real = os.fstat

    def owned_by_another(descriptor):
        fields = list(real(descriptor))
        fields[4] = owner + 4711
        return os.stat_result(fields)

    monkeypatch.setattr(cookies.os, "fstat", owned_by_another)
    with pytest.raises(CookieError, match=f"belongs to another user \\(uid {owner + 4711}\\)"):
        load(path)


def test_a_fifo_is_refused_at_once(path):
    """A FIFO in the file's place neither blocks the process nor yields a cookie."""
    path.parent.mkdir(parents=True)
    os.mkfifo(path, 0o600)
    with pytest.raises(CookieError, match="is not a regular file"):
        load(path)


def test_a_directory_is_refused_and_leaves_nothing_open(path):
    """A directory in the file's place is the documented error, and its descriptor is closed."""
    path.mkdir(parents=True, mode=0o700)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CookieError, match="is not a regular file"):
        load(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_directory_in_its_place_is_refused_by_find_too(path):
    """The way a node takes gives the documented error, whose type its users catch."""
    path.mkdir(parents=True, mode=0o700)
    with pytest.raises(CookieError):
        find(environ={}, path=path)


def test_a_missing_file_is_told_apart_from_an_unusable_one(path):
    """load() says FileNotFoundError, so that a caller may create the file, and nothing else so."""
    with pytest.raises(FileNotFoundError):
        load(path)
    write(path.parent, b"a file where the directory should be")
    with pytest.raises(CookieError, match="cannot be opened: Not a directory"):
        load(path)


@pytest.mark.parametrize(
    ("content", "cookie"),
    [
        (b"sixteen bytes ok", b"sixteen bytes ok"),
        (b"sixteen bytes ok\n", b"sixteen bytes ok"),
        (b"sixteen bytes ok\r\n", b"sixteen bytes ok"),
        (b" sixteen bytes ok \n", b" sixteen bytes ok "),
        (b"two lines\nare one cookie\n", b"two lines\nare one cookie"),
        (b"\xff" * 16, b"\xff" * 16),
        (b"x" * MAX_LENGTH, b"x" * MAX_LENGTH),
        (b"x" * MAX_LENGTH + b"\n", b"x" * MAX_LENGTH),
        (b"x" * MAX_LENGTH + b"\r\n", b"x" * MAX_LENGTH),
    ],
)
def test_one_line_break_at_the_end_does_not_count(path, content, cookie):
    """Exactly one is taken off, whichever kind; everything else belongs to the secret."""
    assert load(write(path, content)).reveal() == cookie


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"fifteen bytes !", "it is shorter than 16 characters"),
        (b"fifteen bytes !\n", "it is shorter than 16 characters"),
        (b"a NUL \0 is in this one", "it holds a NUL byte"),
        (b"x" * (MAX_LENGTH + 1), "it is longer than 4096 bytes"),
        (b"x" * (MAX_LENGTH + 1) + b"\n", "it is longer than 4096 bytes"),
        (b"x" * 100_000, "it is longer than 4096 bytes"),
        (b"x" * MAX_LENGTH + b"\nand more", "it is longer than 4096 bytes"),
        (b"x" * MAX_LENGTH + b"\r\nand more", "it is longer than 4096 bytes"),
    ],
)
def test_an_unusable_content_is_refused(path, content, problem):
    """The defect is named along with the file; in particular no tail of a long file is dropped silently."""
    with pytest.raises(CookieError, match=problem) as caught:
        load(write(path, content))
    assert caught.value.argument == str(path)


def test_a_short_cookie_in_a_file_can_be_allowed(path):
    """The weak switch reaches the file."""
    write(path, b"short\n")
    assert load(path, weak=True).reveal() == b"short"
    assert find(environ={}, path=path, weak=True).reveal() == b"short"


# Making it


def test_create_does_not_overwrite(path):
    """An existing cookie stays, and no temporary file is left behind."""
    write(path, VALUE.encode())
    with pytest.raises(FileExistsError):
        create(path)
    assert path.read_bytes() == VALUE.encode()
    assert os.listdir(path.parent) == ["cookie"]


def test_create_replaces_when_told(path):
    """With replace=True the new cookie takes the old one's place, as private as a first one."""
    write(path, VALUE.encode(), 0o644)
    create(path, replace=True)
    assert len(load(path).reveal()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["cookie"]


def test_replace_makes_a_first_cookie_too(path):
    """replace=True needs nothing to replace."""
    create(path, replace=True)
    assert len(load(path).reveal()) == 64


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("blocked", ["parent", "grandparent"])
def test_an_unusable_directory_is_a_cookie_error(path, blocked, replace):
    """A file where a directory should be is told as what it is, and not as an existing cookie."""
    in_the_way = path.parent if blocked == "parent" else path.parent.parent
    write(in_the_way, b"not a directory")
    with pytest.raises(CookieError, match="cannot be written"):
        create(path, replace=replace)


@pytest.mark.parametrize("blocked", ["parent", "grandparent"])
def test_find_tells_an_unusable_directory(path, blocked):
    """A node that finds no cookie and can make none says so with the documented error."""
    write(path.parent if blocked == "parent" else path.parent.parent, b"not a directory")
    with pytest.raises(CookieError, match=str(path)):
        find(environ={}, path=path)


@pytest.mark.parametrize("call", ["link", "fsync", "replace"])
def test_a_failure_half_way_leaves_no_file(path, monkeypatch, call):
    """What fails after the secret was written removes it again, and is told without it."""

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cookies.os, call, fail)
    with pytest.raises(CookieError, match="cannot be written: No space left on device"):
        create(path, replace=call == "replace")
    assert os.listdir(path.parent) == []


def test_who_loses_the_race_uses_the_winners_cookie(path, monkeypatch):
    """Another process that makes the file between our look and our link wins, and both use its cookie."""
    real, winner = os.link, b"the winner's own cookie"

    def overtaken(source, target):
        monkeypatch.setattr(cookies.os, "link", real)
        write(Path(target), winner)
        real(source, target)

    monkeypatch.setattr(cookies.os, "link", overtaken)
    assert find(environ={}, path=path).reveal() == winner
    assert os.listdir(path.parent) == ["cookie"]


def test_many_that_start_together_agree(path):
    """Eight threads held until all are about to create the file end with one cookie."""
    start = threading.Barrier(8)
    found = []

    def entropy(size):
        start.wait(10)  # every thread has seen that the file is missing
        return os.urandom(size)

    def run():
        found.append(find(environ={}, path=path, entropy=entropy).reveal())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert set(found) == {path.read_bytes().strip()}
    assert os.listdir(path.parent) == ["cookie"]


def test_a_file_that_comes_and_goes_is_given_up(path, monkeypatch):
    """A file that is never there when read and always there when made ends in an error, not in a loop."""

    def there(source, target):
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(cookies.os, "link", there)
    with pytest.raises(CookieError, match="appears and disappears"):
        find(environ={}, path=path)


# The value

UNUSABLE = [
    ("", "it is empty"),
    (b"", "it is empty"),
    ("fifteen letters", "it is shorter than 16 characters"),
    (b"fifteen letters", "it is shorter than 16 characters"),
    ("some secret \0 with a NUL", "it holds a NUL byte"),
    (b"some secret \0 with a NUL", "it holds a NUL byte"),
    ("x" * (MAX_LENGTH + 1), "it is longer than 4096 bytes"),
    ("é" * 2049, "it is longer than 4096 bytes"),
    ("quite a secret \ud800 one", "it holds lone surrogates"),
    (123456789012345678, "it must be str or bytes, not int"),
    (["a secret in a list"], "it must be str or bytes, not list"),
    (bytearray(b"a secret in a bytearray"), "it must be str or bytes, not bytearray"),
]


@pytest.mark.parametrize(
    ("value", "wrapped"),
    [(VALUE, VALUE.encode()), ("é" * 8, "é".encode() * 8), (b"\xff" * 16, b"\xff" * 16)],
)
def test_text_and_bytes_are_wrapped(value, wrapped):
    """Text counts as UTF-8 and bytes as they are; the source is kept for messages."""
    cookie = Cookie.wrap(value, "cookie")
    assert cookie.reveal() == wrapped
    assert cookie.source == "cookie"


def test_wrapping_twice_gives_the_same_cookie():
    """What is wrapped already stays what it is."""
    cookie = Cookie.wrap(VALUE, "cookie")
    assert Cookie.wrap(cookie, "again") is cookie


def test_a_weak_cookie_is_checked_again_when_wrapped_again():
    """A cookie that was allowed to be weak in one place is not thereby allowed in another."""
    weak = Cookie.wrap("weak", "cookie", weak=True)
    with pytest.raises(CookieError, match="it is shorter than 16 characters"):
        Cookie.wrap(weak, "cookie")


@pytest.mark.parametrize(("value", "problem"), UNUSABLE)
def test_an_unusable_value_is_refused_by_name_only(value, problem):
    """The error names source and defect; neither it nor its causes hold the value."""
    with pytest.raises(CookieError, match=problem) as caught:
        Cookie.wrap(value, "the source")
    assert caught.value.argument == "the source"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    for part in pieces(value):
        assert part not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("value", ["", "with a \0 in it is no cookie", "x" * (MAX_LENGTH + 1)])
def test_weak_allows_shortness_only(value):
    """Emptiness, NUL and excess are refused in either mode."""
    with pytest.raises(CookieError):
        Cookie.wrap(value, "cookie", weak=True)
    assert Cookie.wrap("x", "cookie", weak=True).reveal() == b"x"


def pieces(value):
    """What of `value` would give it away in a text."""
    text = value.decode() if isinstance(value, bytes | bytearray) else str(value)
    return [text[:12]] if text else []


def leaks(error, value):
    """The snowgreen frames of `error`'s tracebacks whose locals show `value`, as 'function: local'."""
    seen = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename.startswith(PACKAGE):
                seen += [
                    f"{frame.f_code.co_name}: {name}"
                    for name, local in frame.f_locals.items()
                    if any(part in repr(local) or part in str(local) for part in pieces(value))
                ]
        error = error.__cause__ or error.__context__
    return seen


@pytest.mark.parametrize("value", [value for value, _ in UNUSABLE if value])
def test_no_frame_of_a_failed_wrap_shows_the_value(value):
    """A crash reporter that prints every local of the traceback finds no secret in snowgreen's frames."""
    with pytest.raises(CookieError) as caught:
        Cookie.wrap(value, "cookie")
    assert leaks(caught.value, value) == []


def test_the_search_for_leaks_finds_one():
    """The check above can fail: a frame that keeps the value, even inside something else, is found."""
    planted = {}
    source = "def keep(value):\n    kept = {'x': [value]}\n    del value\n    1 / 0\n"
    exec(compile(source, PACKAGE + "/planted.py", "exec"), planted)
    with pytest.raises(ZeroDivisionError) as caught:
        planted["keep"](VALUE)
    assert leaks(caught.value, VALUE) == ["keep: kept"]


def test_no_frame_shows_a_bad_variable():
    """A cookie refused from the environment is in no local either, not even as part of the environment."""
    value = "short secret!"
    with pytest.raises(CookieError) as caught:
        find(environ={VARIABLE: value, "HOME": "/"})
    assert leaks(caught.value, value) == []


def test_no_frame_shows_a_bad_file(path):
    """Nor is a cookie refused from the file."""
    value = "short secret!"
    with pytest.raises(CookieError) as caught:
        load(write(path, value.encode()))
    assert leaks(caught.value, value) == []


def test_a_cookie_prints_as_its_source_only():
    """repr, str and every way of formatting it say where it came from and not what it is."""
    cookie = Cookie.wrap(VALUE, "cookie")
    for shown in (repr(cookie), str(cookie), f"{cookie}", f"{cookie!r}", f"{[cookie]}", ascii(cookie)):
        assert "<Cookie from cookie>" in shown
        assert "horse" not in shown


def test_a_cookie_has_no_dict_to_print():
    """vars() and __dict__, which debuggers show, do not exist."""
    with pytest.raises(TypeError):
        vars(Cookie.wrap(VALUE, "cookie"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_cookie_cannot_be_pickled(protocol):
    """No protocol version finds a way around the refusal."""
    with pytest.raises(TypeError, match="a Cookie cannot be pickled or copied"):
        pickle.dumps(Cookie.wrap(VALUE, "cookie"), protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_cookie_cannot_be_copied(duplicate):
    """Copying goes the same way as pickling, and is refused alike."""
    with pytest.raises(TypeError, match="a Cookie cannot be pickled or copied"):
        duplicate(Cookie.wrap(VALUE, "cookie"))


def test_cookies_are_compared_by_identity():
    """== and hash tell nothing about the value: equal secrets are different cookies."""
    one, other = Cookie.wrap(VALUE, "cookie"), Cookie.wrap(VALUE, "cookie")
    assert one != other
    assert one == one
    assert one != VALUE.encode()


@pytest.mark.parametrize("value", ["sixteen bytes ok\n", b"sixteen bytes ok\r\n", "sixteen bytes ok\n\n"])
def test_a_line_break_at_the_end_is_refused_where_it_would_count(value):
    """Text read from a file with its line break would be another cookie than the file's: that is said."""
    with pytest.raises(CookieError, match="line break") as caught:
        Cookie.wrap(value, "cookie")
    assert "sixteen" not in str(caught.value)
    assert Cookie.wrap(value, "cookie", weak=True).reveal().endswith(b"\n")
