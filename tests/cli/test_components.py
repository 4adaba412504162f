"""Part files, bare names and dotted keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from realgen.cli import ConfigError
from realgen.cli.components import assign, expand, visit
from realgen.cli.schema import ConfigSlot, group_of, slot_of
from realgen.cli.tree import parse_text, read_file
from tests.helpers.cli_toys import Base, Reward

TOYS = "tests.helpers.cli_toys"


@dataclass
class Adapter:
    rank: int = 4
    alpha: float = 1.0


ROOT = ConfigSlot(
    arguments={
        "model": slot_of(Base),
        "rewards": slot_of(dict[str, Reward | None]),
        "stages": slot_of(list[Reward]),
        "adapter": slot_of(Adapter | None),
        "name": slot_of(str | None),
        "trainer": group_of(Trainer),
    }
)
BRIGHT = {"class_path": f"{TOYS}.Bright"}


def with_arguments(name: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": f"{TOYS}.{name}", "init_args": init_args}


def after(start: dict[str, Any], *assignments: str) -> Any:
    tree = expand(parse_text(str(start)), ROOT)
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        tree = assign(tree, key, text, ROOT)
    return tree.plain()


MODEL = {
    "model": with_arguments(
        "Model", lr=0.5, reward=with_arguments("Weighted", rewards={"a": with_arguments("Bright", target=0.2)})
    )
}


def test_a_bare_import_path_is_a_component() -> None:
    assert after({"rewards": {"a": f"{TOYS}.Bright"}}) == {"rewards": {"a": BRIGHT}}
    assert after({"stages": [f"{TOYS}.Bright"]}) == {"stages": [BRIGHT]}


def test_where_text_may_stand_only_a_dotted_name_is_a_class() -> None:
    assert after({"trainer": {"strategy": "ddp"}}) == {"trainer": {"strategy": "ddp"}}
    path = "lightning.pytorch.strategies.DDPStrategy"
    assert after({"trainer": {"strategy": path}}) == {"trainer": {"strategy": {"class_path": path}}}


def test_dotted_keys_leave_init_args_out() -> None:
    short = after(MODEL, "model.reward.rewards.a.target=0.9", "model.lr=1")
    long = after(MODEL, "model.init_args.reward.init_args.rewards.a.init_args.target=0.9", "model.init_args.lr=1")
    assert short == long
    assert short["model"]["init_args"]["lr"] == "1"  # jsonargparse reads the text by its type
    rewards = short["model"]["init_args"]["reward"]["init_args"]["rewards"]
    assert rewards == {"a": with_arguments("Bright", target="0.9")}


def test_where_only_a_whole_number_may_stand_a_sweeps_float_is_one() -> None:
    root = ConfigSlot(arguments={"n": slot_of(int | None), "x": slot_of(int | float), "t": slot_of(int | str)})
    written = expand(parse_text("{n: 4.0, x: 4.0, t: '4.0'}"), root)
    assert str(written.plain()) == "{'n': 4, 'x': 4.0, 't': '4.0'}"
    assert assign(written, "n", "-3.0", root).plain()["n"] == -3
    assert assign(written, "n", "4.5", root).plain()["n"] == "4.5"  # which is refused later


def test_a_dotted_key_adds_drops_and_replaces_entries() -> None:
    rewards = {"rewards": {"a": with_arguments("Bright", target=0.2)}}
    assert after(rewards, f"rewards.b={TOYS}.Bright")["rewards"] == {**rewards["rewards"], "b": BRIGHT}
    assert after(rewards, "rewards.a=null") == {"rewards": {"a": None}}
    replaced = after(rewards, f"rewards.a={TOYS}.Pretrained", "rewards.a.checkpoint=x")
    assert replaced == {"rewards": {"a": with_arguments("Pretrained", checkpoint="x")}}


def test_the_same_class_by_name_starts_from_its_defaults() -> None:
    rewards = {"rewards": {"a": with_arguments("Bright", target=0.2)}}
    assert after(rewards, f"rewards.a={TOYS}.Bright") == {"rewards": {"a": BRIGHT}}


def test_a_mapping_on_the_command_line_is_the_whole_value() -> None:
    rewards = {"rewards": {"a": with_arguments("Bright", target=0.2), "b": BRIGHT}}
    assert after(rewards, "rewards={}") == {"rewards": {}}
    assert after(rewards, f"rewards.a={{class_path: {TOYS}.Bright}}")["rewards"]["a"] == BRIGHT
    assert after(rewards, "rewards={}", f"rewards.c={TOYS}.Bright") == {"rewards": {"c": BRIGHT}}


def test_class_path_alone_keeps_the_arguments_of_the_same_class() -> None:
    rewards = {"rewards": {"a": with_arguments("Bright", target=0.2)}}
    assert after(rewards, f"rewards.a.class_path={TOYS}.Bright") == rewards


def test_a_component_that_is_the_default_is_changed_by_its_arguments_alone() -> None:
    changed = after({"model": with_arguments("Model")}, "model.optimizer.lr=3")
    assert changed["model"]["init_args"]["optimizer"] == {"init_args": {"lr": "3"}}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("adapter.rank=8", {"rank": "8", "alpha": 2.0}),
        ("adapter.init_args.rank=8", {"rank": "8", "alpha": 2.0}),
        ("adapter={rank: 8}", {"rank": 8}),
        ("adapter={init_args: {rank: 8}}", {"rank": 8}),
        (f"adapter={{class_path: {__name__}.Adapter, init_args: {{rank: 8}}}}", {"rank": 8}),
        ("adapter=null", None),
    ],
)
def test_a_dataclass_is_written_with_and_without_init_args(assignment: str, expected: Any) -> None:
    assert after({"adapter": {"alpha": 2.0}}, assignment) == {"adapter": expected}


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("name=abc", "abc"),
        ("name={abc", "{abc"),  # no YAML where plain text may stand ...
        ("name=null", None),
        ("name=3", "3"),
    ],
)
def test_text_stays_text(assignment: str, value: Any) -> None:
    root = ConfigSlot(arguments={"name": slot_of(str)})
    key, _, text = assignment.partition("=")
    assert assign(parse_text("{}"), key, text, root).plain() == {"name": value}


def test_yaml_on_the_command_line_is_read_and_refused_when_it_is_none() -> None:
    assert after({}, "trainer.callbacks=[]") == {"trainer": {"callbacks": []}}
    with pytest.raises(ConfigError, match="command line: not valid YAML"):
        after({}, "rewards={a: [}")


def test_a_list_has_no_keys() -> None:
    with pytest.raises(ConfigError, match=r"stages: this is a list.*--stages='\[\.\.\.\]'"):
        after({"stages": [BRIGHT]}, "stages.target=3")


def test_part_files_are_read_relative_to_who_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "bright.yaml").write_text(str(with_arguments("Bright", target=0.7)))
    (tmp_path / "rewards" / "sum.yaml").write_text(str(with_arguments("Weighted", rewards={"b": "bright.yaml"})))
    (tmp_path / "recipe.yaml").write_text(
        str({"model": with_arguments("Model", reward="rewards/sum.yaml"), "stages": ["rewards/bright.yaml"]})
    )
    bright = with_arguments("Bright", target=0.7)
    tree = expand(read_file(tmp_path / "recipe.yaml"), ROOT)
    assert tree.plain() == {
        "model": with_arguments("Model", reward=with_arguments("Weighted", rewards={"b": bright})),
        "stages": [bright],
    }
    monkeypatch.chdir(tmp_path / "rewards")
    changed = assign(tree, "model.reward.rewards.c", "bright.yaml", ROOT).plain()
    assert changed["model"]["init_args"]["reward"]["init_args"]["rewards"] == {"b": bright, "c": bright}


def test_a_part_file_replaces_the_whole_component(tmp_path: Path) -> None:
    """jsonargparse alone would keep the old weights, which name rewards that are gone."""
    start = {"model": with_arguments("Model", reward=with_arguments("Weighted", rewards={}, weights={"a": 1.0}))}
    part = tmp_path / "sum.yaml"
    part.write_text(str(with_arguments("Weighted", rewards={"b": BRIGHT})))
    reward = after(start, f"model.reward={part}")["model"]["init_args"]["reward"]
    assert reward == with_arguments("Weighted", rewards={"b": BRIGHT})


def test_text_that_looks_like_a_part_is_left_alone(tmp_path: Path) -> None:
    assert after({"name": "prompts.json"}) == {"name": "prompts.json"}


def test_a_missing_part_is_named_with_key_and_line(tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text("{}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model:\n  class_path: {TOYS}.Model\n  init_args:\n    reward: sum.yaml\n")
    with pytest.raises(ConfigError) as caught:
        expand(read_file(recipe), ROOT)
    assert str(caught.value).startswith(f"model.reward: cannot read {tmp_path}/sum.yaml: No such file")
    assert "Did you mean" in str(caught.value)
    assert str(caught.value).endswith(f"({recipe}:4)")


def test_visit_names_every_value_as_the_command_line_does() -> None:
    tree = expand(parse_text(str({**MODEL, "stages": [BRIGHT], "trainer": {"max_epochs": 1}})), ROOT)
    assert [key for key, _, _ in visit(tree, ROOT)] == [
        "",
        "model",
        "model.lr",
        "model.reward",
        "model.reward.rewards",
        "model.reward.rewards.a",
        "model.reward.rewards.a.target",
        "stages",
        "stages[0]",
        "trainer",
        "trainer.max_epochs",
    ]
