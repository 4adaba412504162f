"""Values of the environment, hidden in texts."""

from __future__ import annotations

import io
import sys

import pytest
from omegaconf import OmegaConf

from realgen import masking
from realgen.masking import mask, mask_output, masked, recorded, watch_environment


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config has read three variables."""
    monkeypatch.setattr(masking, "_values", {})
    for name, value in {"TOKEN": "it's a/secret", "LONGER": "it's a/secret too", "GPUS": "8"}.items():
        monkeypatch.setenv(name, value)
    watch_environment()
    config = {"a": "${oc.env:TOKEN}", "b": "x-${oc.env:LONGER}", "c": "${oc.env:GPUS}", "d": "${oc.env:NOT_SET,other}"}
    resolved = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    assert resolved == {"a": "it's a/secret", "b": "x-it's a/secret too", "c": "8", "d": "other"}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("no it's a/secret!", "no ${oc.env:TOKEN}!"),
        ("it's a/secret too", "${oc.env:LONGER}"),
        ("/api?key=it%27s%20a%2Fsecret", "/api?key=${oc.env:TOKEN}"),
        ("8 GPUs, other", "8 GPUs, other"),
    ],
)
def test_a_value_is_replaced_by_where_it_came_from(text: str, hidden: str) -> None:
    assert mask(text) == hidden


def test_a_value_of_several_lines_is_hidden_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "BEGIN KEY\nabcdef\nEND KEY")
    OmegaConf.to_container(OmegaConf.create({"key": "${oc.env:KEY}"}), resolve=True)
    assert "abcdef" not in mask("cannot read 'BEGIN KEY\\nabcdef\\nEND KEY'") + mask("line 2 is abcdef")


def test_all_texts_of_a_tree_are_masked() -> None:
    tree = {"it's a/secret": [1, "it's a/secret", {"x": ("it's a/secret", None)}]}
    hidden = "${oc.env:TOKEN}"
    assert masked(tree) == {hidden: [1, hidden, {"x": (hidden, None)}]}


def test_a_record_shows_that_a_value_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded({"path": "it's a/secret", "seed": 0})
    assert set(before) == {"path", "seed", "environment"}
    monkeypatch.setitem(masking._values, "TOKEN", "another")
    after = recorded({"path": "another", "seed": 0})
    assert after["path"] == before["path"]
    assert after["environment"] != before["environment"]
    assert recorded({"seed": 0}) == {"seed": 0}


def test_what_is_printed_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    mask_output()
    print("it's a/secret", 8)
    sys.stderr.writelines(["it's a/secret"])
    assert [stream.getvalue() for stream in streams] == ["${oc.env:TOKEN} 8\n", "${oc.env:TOKEN}"]
    assert sys.stdout.isatty() is False
