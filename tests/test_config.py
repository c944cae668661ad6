"""Config and Limits: every field checked at construction, frozen afterwards."""

import dataclasses
import pickle

import pytest

from snowgreen.config import Config, Limits
from snowgreen.errors import ConfigurationError

NUMBERS = [
    (cls, item) for cls in (Config, Limits) for item in dataclasses.fields(cls) if "low" in item.metadata
]
IDS = [f"{cls.__name__}.{item.name}" for cls, item in NUMBERS]
every_number = pytest.mark.parametrize(("cls", "item"), NUMBERS, ids=IDS)


def test_the_defaults_are_those_of_the_specification():
    """Sections 4 to 6 name the numbers; what a user gets without a word is exactly these."""
    config = Config()
    assert (config.heartbeat_interval, config.heartbeat_timeout, config.probe_timeout) == (60, 15, 2)
    assert (config.commit_timeout, config.duplicate_wait) == (3, 1)
    assert config.allow_weak_cookie is False
    assert config.busy_wait is None
    limits = config.limits
    assert limits == Limits()
    assert (limits.tls_timeout, limits.handshake_timeout, limits.frame_timeout) == (5, 10, 30)
    assert limits.max_frame == 16 * 2**20
    assert (limits.outbox_bytes, limits.outbox_frames) == (8 * 2**20, 10_000)


def test_every_field_is_checked():
    """No field escapes the checks below: each has a range, or is one of the two that have their own check."""
    unchecked = {
        item.name
        for cls in (Config, Limits)
        for item in dataclasses.fields(cls)
        if "low" not in item.metadata
    }
    assert unchecked == {"allow_weak_cookie", "limits"}


@every_number
def test_both_ends_of_a_range_belong_to_it(cls, item):
    """The least and the greatest value are accepted, and kept as given."""
    for value in (item.metadata["low"], item.metadata["high"]):
        assert getattr(cls(**{item.name: value}), item.name) == value


@every_number
def test_what_is_beyond_a_range_is_refused(cls, item):
    """One step beyond either end is refused, with the field's name, its unit and the value."""
    low, high = item.metadata["low"], item.metadata["high"]
    step = 1 if item.type == "int" else low / 2 or 0.1
    for value in (low - step, high + step, -1):
        with pytest.raises(ConfigurationError, match="must be from") as caught:
            cls(**{item.name: value})
        assert caught.value.argument == item.name
        assert item.metadata["unit"] in caught.value.problem
        assert repr(value) in caught.value.problem


@every_number
@pytest.mark.parametrize("value", ["1", None, b"1", True, 1j, [1], float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(cls, item, value):
    """Neither text nor None nor a truth value passes for a number, and neither do NaN and infinity."""
    if value is None and item.default is None:
        assert getattr(cls(**{item.name: None}), item.name) is None  # of this one it is a value
        return
    with pytest.raises(ConfigurationError, match="must be a") as caught:
        cls(**{item.name: value})
    assert caught.value.argument == item.name


@every_number
def test_counts_are_whole(cls, item):
    """A count refuses a float even where it is integral; a time takes both."""
    value = float(item.metadata["high"])
    if item.type == "int":
        with pytest.raises(ConfigurationError, match="must be a whole number"):
            cls(**{item.name: value})
    else:
        assert getattr(cls(**{item.name: value}), item.name) == value


@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["1e400", "-1e400", "1e5000"])
def test_a_number_beyond_every_float_is_refused_like_any_other(value):
    """Only the documented error leaves the check, however large the number."""
    for cls, item in NUMBERS:
        with pytest.raises(ConfigurationError) as caught:
            cls(**{item.name: value})
        assert caught.value.argument == item.name


def test_the_message_tells_the_range_in_full_digits():
    """A user can type back the limit that the message names."""
    with pytest.raises(
        ConfigurationError, match=r"^max_frame: must be from 131072 to 16777216 bytes, not 1$"
    ):
        Limits(max_frame=1)


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_the_weak_switch_is_a_truth_value(value):
    """A security switch is not thrown by whatever happens to be truthy."""
    with pytest.raises(ConfigurationError, match="must be True or False") as caught:
        Config(allow_weak_cookie=value)
    assert caught.value.argument == "allow_weak_cookie"


@pytest.mark.parametrize("value", [None, {}, {"max_frame": 2**18}, Limits])
def test_limits_are_limits(value):
    """A dict or the class itself is refused by its type's name."""
    with pytest.raises(ConfigurationError, match=f"must be a Limits, not {type(value).__name__}"):
        Config(limits=value)


@pytest.mark.parametrize("cls", [Config, Limits])
def test_values_are_frozen_closed_and_named(cls):
    """Nothing checked can be changed, nothing unknown added, and nothing given by position."""
    value = cls()
    for item in dataclasses.fields(cls):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, item.name, 1)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        cls(no_such_option=1)
    with pytest.raises(TypeError, match="positional"):
        cls(1)


def test_replace_checks_again():
    """dataclasses.replace goes through the same checks as construction."""
    config = dataclasses.replace(Config(), heartbeat_interval=10)
    assert config.heartbeat_interval == 10
    with pytest.raises(ConfigurationError):
        dataclasses.replace(config, heartbeat_interval=0)


def test_values_compare_hash_and_pickle_by_content():
    """Equal settings are equal, usable as keys, and come back from a pickle the same."""
    one = Config(heartbeat_interval=10, limits=Limits(max_frame=2**18))
    other = Config(heartbeat_interval=10, limits=Limits(max_frame=2**18))
    assert one == other != Config()
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one


def test_the_repr_says_every_setting():
    """A log line with the config in it answers what was in force."""
    shown = repr(Config())
    for item in (*dataclasses.fields(Config), *dataclasses.fields(Limits)):
        assert f"{item.name}=" in shown
