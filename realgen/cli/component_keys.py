"""The dotted key of each component of a config, so that an error can name the component that raised it."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from realgen.cli import ConfigError
from realgen.failures import PLACE, describe, disk_failure

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

EXPECTED_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
"""Errors whose message is enough for a user; any other error is a bug."""
_PLAIN = (bool, int, float, str, type(None))


class ConfigPlace(NamedTuple):
    """Where a component stands in the config."""

    key: str
    """Its dotted key, without ``init_args``."""
    arguments: Collection[str]


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Make the components of a config; each one remembers its dotted key, also one that is made later."""
    construct = _Constructor(config.as_dict())
    try:
        return parser.instantiate(config, instantiators=[(construct, object, True)])
    except Exception as error:  # a constructor may raise anything
        raise ConfigError(explain(error)) from error


@contextmanager
def constructing(place: ConfigPlace) -> Iterator[None]:
    """Turn any error of the constructor of the component at ``place`` into a ConfigError with the dotted key."""
    try:
        yield
    except Exception as error:  # a constructor may raise anything
        raise ConfigError(_lead([*_raisers(error), place], error)) from error


def explain(error: Exception) -> str:
    """Return an error's message behind its component's dotted key, and its type if no user expects it."""
    if (failure := disk_failure(error)) is not None:
        return failure
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigError):
        cause = cause.__cause__  # jsonargparse wraps the error of a constructor where a type is a union
    return str(cause) if cause is not None else _lead(_raisers(error), error)


def explain_in_run(error: Exception) -> str:
    """Return in a line a run's error, its type unless ``ValueError``, and the innermost component's dotted key."""
    if isinstance(error, ValueError) or disk_failure(error) is not None:
        return explain(error).splitlines()[0]
    keys = [place.key for place in _raisers(error)[:1] if "." in place.key]  # "model" alone says nothing
    return ": ".join([*keys, describe(error)])


def _lead(places: Sequence[ConfigPlace], error: Exception) -> str:
    """Return the message behind the key of the first place whose argument it begins with, or of the first place."""
    expected = isinstance(error, EXPECTED_ERRORS)
    message = str(error).strip() or type(error).__name__ if expected else describe(error)
    first = re.match(r"\w*", message)
    for place in places:
        if message.startswith(f"{place.key}."):  # a rule about several components names the whole key itself
            return message
        if first and first[0] in place.arguments:
            return f"{place.key}.{message}"
    return f"{places[0].key}: {message}" if places else message


def _raisers(error: Exception) -> list[ConfigPlace]:
    """Return the places of the components whose methods raised the error, the innermost first."""
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = (getattr(names.get("self"), "__dict__", {}).get(PLACE) for names in reversed(frames))
    return [place for place in places if place is not None]


class _Constructor:
    """Makes each component, and finds its key, which jsonargparse does not tell, by its class and arguments."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._specs = list(_specs(config, ""))
        self._taken: set[str] = set()

    def __call__(self, component: type, /, *args: Any, **kwargs: Any) -> Any:
        key = self._key(component.__name__, kwargs)
        if key is None:  # of a default that is not in the config
            return component(*args, **kwargs)
        place = ConfigPlace(key, frozenset(kwargs))
        with constructing(place):
            made = component(*args, **kwargs)
        with suppress(AttributeError):  # one without attributes cannot remember
            object.__setattr__(made, PLACE, place)
        return made

    def _key(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        found = [
            key
            for key, class_name, given in self._specs
            if (class_name == name or (class_name is None and set(given) == set(arguments)))
            and all(_fits(value, arguments.get(argument), f"{key}.{argument}") for argument, value in given.items())
        ]
        # Of components that are equal in all, the first is made first.
        key = next((key for key in found if key not in self._taken), found[0] if found else None)
        self._taken |= {key} if key is not None else set()
        return key


def _specs(value: Any, key: str) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """Yield key, class name and arguments of every component; a mapping without class name may be a dataclass."""
    if isinstance(value, dict):
        chosen = value.get("class_path")
        arguments = value if chosen is None else value.get("init_args") or {}
        yield key, chosen and chosen.rpartition(".")[2], arguments
        for name, child in arguments.items():
            yield from _specs(child, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _specs(child, f"{key}[{i}]")


def _fits(given: Any, made: Any, key: str) -> bool:
    """Return whether an argument of a constructor can be what the config says under a key."""
    place = getattr(made, "__dict__", {}).get(PLACE)
    if place is not None:
        return place.key == key
    if isinstance(given, dict) and isinstance(made, Mapping):
        return all(_fits(value, made.get(name), f"{key}.{name}") for name, value in given.items())
    if isinstance(given, list) and isinstance(made, list) and len(given) == len(made):
        return all(_fits(value, made[i], f"{key}[{i}]") for i, value in enumerate(given))
    return not (isinstance(given, _PLAIN) and isinstance(made, _PLAIN)) or given == made
