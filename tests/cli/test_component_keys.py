"""Which component of a config raised an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import OptimizerCallable
from torch import nn

from realgen.cli import ConfigError
from realgen.cli.component_keys import explain, explain_in_run, instantiate


@dataclass
class Adapter:
    """A component that stands in a config more than once."""

    rank: int = 4
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path == "nowhere":
            raise ValueError("path must be a folder.")
        self.path = self.path or "of its own"
        if self.rank < 1:
            raise ValueError("rank must be at least 1.")


class Network:
    def __init__(self, adapter: Adapter | None = None, label: str = "a") -> None:
        self.adapter = adapter
        self.label = label

    def load(self) -> None:
        if self.adapter is None:
            raise ValueError("adapter is missing.")
        raise KeyError(self.label)


class Pair(Network):
    def __init__(self, first: Network, others: list[Network] | None = None, extra: Any = None) -> None:
        super().__init__()
        self.first, self.others = first, others or []
        if extra == "load":
            first.load()
        if extra == "fail":
            raise OSError("the disk is gone")


HERE = __name__


def made(**config: Any) -> Namespace:
    parser = ArgumentParser(exit_on_error=False)
    hints: Mapping[str, Any] = {
        "networks": dict[str, Network | None], "images": Adapter | None, "texts": Adapter, "bad": Adapter | None,
        "optimizer": OptimizerCallable,
    }  # fmt: skip
    for name in config:
        parser.add_argument(f"--{name}", type=hints[name])
    return instantiate(parser, parser.parse_object(config))


def network(name: str = "Network", **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{HERE}.{name}", "init_args": arguments}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"images": {"rank": 4}, "texts": {"path": "nowhere"}}, "texts.path must be a folder."),
        ({"images": {"rank": 4}, "bad": {"rank": 0}}, "bad.rank must be at least 1."),
        ({"networks": {"a": network(adapter={"rank": 1}), "b": network(adapter={"rank": 0})}},
         "networks.b.adapter.rank must be at least 1."),
        ({"networks": {"a": network("Pair", first=network(), extra="fail")}}, "networks.a: the disk is gone"),
        ({"networks": {"a": network(), "b": network("Pair", first=network(), extra="load")}},
         "networks.b.first.adapter is missing."),
    ],
)  # fmt: skip
def test_a_constructor_that_refuses_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(**config)
    assert str(caught.value) == message


def test_methods_are_told_apart_even_of_equal_components() -> None:
    pair = network("Pair", first=network(), others=[network(), network(label="b"), network()])
    networks = made(networks={"a": network(), "b": None, "c": pair}).networks
    expected = {
        "networks.a": networks["a"],
        "networks.c.first": networks["c"].first,
        "networks.c.others[0]": networks["c"].others[0],
        "networks.c.others[1]": networks["c"].others[1],
        "networks.c.others[2]": networks["c"].others[2],
    }
    for key, component in expected.items():
        with pytest.raises(ValueError, match="missing") as caught:
            component.load()
        assert explain(caught.value) == f"{key}.adapter is missing."
    with pytest.raises(ValueError, match="missing") as caught:
        networks["c"].load()
    assert explain(caught.value) == "networks.c: adapter is missing."  # it has no such argument


def test_an_error_of_another_type_tells_its_type() -> None:
    (component,) = made(networks={"a": network(adapter={})}).networks.values()
    with pytest.raises(KeyError) as caught:
        component.load()
    assert explain(caught.value) == "networks.a: KeyError: 'a'"
    assert explain(ValueError("of nobody")) == "of nobody"


def test_an_error_that_says_nothing_tells_its_type() -> None:
    """As ``raise ValueError`` and ``assert`` in a part of one's own do."""
    assert (explain(ValueError()), explain_in_run(ValueError(" "))) == ("ValueError", "ValueError")
    assert (explain(OSError()), explain_in_run(AssertionError())) == ("OSError", "AssertionError")


def test_an_optimizer_that_is_made_later_is_named() -> None:
    optimizer = made(optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": -1.0}}).optimizer
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^optimizer: Invalid learning rate: -1\.0"):
            optimizer(nn.Linear(1, 1).parameters())


def test_a_default_that_the_config_does_not_name_has_no_key() -> None:
    with pytest.raises(ValueError, match=r"^rank must be at least 1\.$") as caught:
        Adapter(0)
    assert explain(caught.value) == "rank must be at least 1."
