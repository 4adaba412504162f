"""An old name is an error that names the new one."""

from __future__ import annotations

import importlib.util
import inspect

import pytest

from realgen.cli import ConfigError
from realgen.cli.classes import CLASSES, KEYS, find_class
from realgen.cli.diagnosis import problems
from realgen.cli.schema import parameters, slot_of
from realgen.cli.tree import parse_text
from realgen.judges import ArenaJudge


@pytest.mark.parametrize(("old", "new"), CLASSES.items())
def test_an_old_class_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"^{old} is now {new}.$"):
        find_class(old, object)
    with pytest.raises(ConfigError, match=f"is now {new}.$"):
        find_class(old.rpartition(".")[2], object)
    assert inspect.isclass(find_class(new, object))
    module, _, name = old.rpartition(".")
    if importlib.util.find_spec(module.rpartition(".")[0]) and importlib.util.find_spec(module):
        assert not hasattr(importlib.import_module(module), name)


def test_an_old_key_is_refused_with_its_new_name() -> None:
    config = "{class_path: realgen.judges.OpenAIJudge, init_args: {model: m, patience: {}}}"
    slot = slot_of(ArenaJudge)
    (problem,) = problems(parse_text(config), slot, values=False)
    assert problem == "patience: OpenAIJudge has no such key (command line). It is now called retry."


def test_an_old_dataclass_and_an_old_module_are_refused_too() -> None:
    config = (
        "{class_path: realgen.judges.OpenAIJudge, init_args: {model: m, retry: {class_path: realgen.judges.Patience}}}"
    )
    first = next(problems(parse_text(config), slot_of(ArenaJudge), values=False))
    assert first == "retry: realgen.judges.Patience is now realgen.remote_calls.RetrySettings. (command line)"
    with pytest.raises(ConfigError, match=r"is now realgen\.modules\.JointGRPOModule\.$"):
        find_class("realgen.modules.joint_grpo.JointGRPO", object)


@pytest.mark.parametrize(("old", "new"), KEYS.items())
def test_new_keys_exist_and_old_ones_do_not(old: str, new: str) -> None:
    owner, _, name = old.partition(".")
    known = parameters(find_class(f"realgen.judges.{owner}", object))
    assert new in known
    assert name not in known
