"""What may stand at each place of a config, read from the signatures of the constructors."""

from __future__ import annotations

import collections.abc
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from datetime import timedelta
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from jsonargparse._parameter_resolvers import get_signature_parameters

_NUMBERS = (bool, int, float, complex, timedelta, torch.Tensor)
_NO_COMPONENTS = (*_NUMBERS, str, bytes, Enum, os.PathLike, dict, list, tuple, set, type)


@dataclass(frozen=True)
class ConfigSlot:
    """What a type hint lets stand at one place of a config."""

    hint: Any = Any
    """The type hint; ``Any`` when it is unknown."""
    base: type | None = None
    """The class from which a component here must derive."""
    num_given: int = 0
    """Leading constructor arguments that the code passes itself (the parameters of an optimizer)."""
    items: Any = None
    """Hint of the values of a mapping."""
    elements: Any = None
    """Hint of the elements of a list."""
    takes_text: bool = True
    takes_plain: bool = True
    """Whether any scalar may stand here: text, a number, true or false."""
    takes_null: bool = True
    whole: bool = False
    """Whether all numbers that may stand here are whole, and no text may."""
    required: bool = False
    default: Any = None
    text: str = ""
    """What the docstring says of it."""
    arguments: Mapping[str, ConfigSlot] | None = None
    """Keys that stand here themselves, without ``class_path``: at the top, under ``trainer``, and for dataclasses."""
    owner: str = "config"
    """Whose arguments these are."""


def slot_of(hint: Any) -> ConfigSlot:
    """Return what a resolved type hint lets stand at a place."""
    options = list(options_of(hint))
    kinds: dict[str, Any] = {}
    for option in options:
        origin, arguments = get_origin(option), get_args(option)
        if origin is collections.abc.Callable and len(arguments) == 2:
            made = slot_of(arguments[1]).base
            kinds |= {"base": made, "num_given": len(arguments[0])} if made and isinstance(arguments[0], list) else {}
        elif inspect.isclass(origin) and issubclass(origin, Mapping) and len(arguments) == 2:
            kinds["items"] = arguments[1]
        elif inspect.isclass(origin) and issubclass(origin, Iterable) and origin is not tuple and arguments:
            kinds["elements"] = arguments[0]
        elif inspect.isclass(option) and is_dataclass(option):
            kinds |= {"arguments": parameters(option), "owner": option.__name__}
        elif origin is None and inspect.isclass(option) and option is not Any:  # from Python 3.11 on, Any is a class
            is_component = option.__module__ != "builtins" and not issubclass(option, _NO_COMPONENTS)
            kinds |= {"base": option} if is_component else {}
    unknown = any(option is Any or not (inspect.isclass(option) or get_origin(option)) for option in options)
    classes = [option for option in options if inspect.isclass(option) and option is not Any]
    literal = any(get_origin(option) is Literal for option in options)
    return ConfigSlot(
        hint=hint,
        takes_text=unknown or literal or any(issubclass(option, str | os.PathLike) for option in classes),
        takes_plain=unknown
        or literal
        or any(issubclass(option, (*_NUMBERS, str, os.PathLike, Enum)) for option in classes),
        takes_null=unknown or NoneType in options,
        whole=int in options and not unknown and not literal and not {float, str} & {*options},
        **kinds,
    )


def options_of(hint: Any) -> Iterator[Any]:
    """Yield the members of a union; the hint itself if it is none."""
    origin = get_origin(hint)
    if origin is Annotated:
        yield from options_of(get_args(hint)[0])
    elif origin in (Union, UnionType):
        for member in get_args(hint):
            yield from options_of(member)
    else:
        yield NoneType if hint is None else hint


def group_of(function: type) -> ConfigSlot:
    """Return the slot for the arguments of one fixed class, without ``class_path``."""
    return ConfigSlot(
        hint=function,
        arguments=parameters(function),
        owner=function.__name__,
        takes_text=False,
        takes_plain=False,
        takes_null=False,
    )


@cache
def parameters(function: Callable[..., Any], num_given: int = 0) -> dict[str, ConfigSlot]:
    """Return the slots of the arguments that a config can give a class or function, in the order of the signature.

    The names are those that jsonargparse accepts, also of arguments that reach a parent through ``**kwargs``, without
    the first ``num_given``, which the code passes itself.
    """
    given = list(inspect.signature(function).parameters)[:num_given]
    slots = {}
    for each in get_signature_parameters(function):
        if each.name not in given:
            required = each.default is inspect.Parameter.empty
            slot = slot_of(Any if each.annotation is inspect.Parameter.empty else each.annotation)
            text, default = " ".join((each.doc or "").split()), None if required else each.default
            slots[each.name] = replace(slot, required=required, default=default, text=text)
    return slots


def describe(hint: Any) -> str:
    """Describe a type hint in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(describe(option) for option in options_of(hint))
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is collections.abc.Callable:
        return describe(arguments[1])
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"dict of {describe(arguments[1])}"
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return f"list of {describe(arguments[0])}"
    if hint is NoneType:
        return "null"
    return hint.__name__ if inspect.isclass(hint) else str(hint).replace("typing.", "")
