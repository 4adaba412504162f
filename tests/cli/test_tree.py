"""Reading and merging configs; expectations written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from realgen.cli import ConfigError
from realgen.cli.tree import Node, merge, origins, parse_text, read_file


def merged(*texts: str) -> object:
    first, *others = (parse_text(text) for text in texts)
    for other in others:
        first = merge(first, other)
    return first.plain()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("{a: 1, b: {c: 2, d: 3}}", "{b: {d: 4}}"), {"a": 1, "b": {"c": 2, "d": 4}}),
        (("{a: [1, 2]}", "{a: [3]}"), {"a": [3]}),
        (("{a: {b: 1}}", "{a: null}"), {"a": None}),
        (("{a: null}", "{a: {b: 1}}"), {"a": {"b": 1}}),
        (("{x: {class_path: A, init_args: {p: 1, q: 2}}}", "{x: {init_args: {q: 3}}}"),
         {"x": {"class_path": "A", "init_args": {"p": 1, "q": 3}}}),
        (("{x: {class_path: A, init_args: {p: 1, q: 2}}}", "{x: {class_path: A, init_args: {q: 3}}}"),
         {"x": {"class_path": "A", "init_args": {"p": 1, "q": 3}}}),
        (("{x: {class_path: A, init_args: {p: 1}}}", "{x: {class_path: B, init_args: {q: 3}}}"),
         {"x": {"class_path": "B", "init_args": {"q": 3}}}),
        (("{x: {class_path: A, init_args: {p: 1}}}", "{x: part.yaml}"), {"x": "part.yaml"}),
        (("{r: {a: {class_path: A}, b: {class_path: B}}}", "{r: {b: null, c: {class_path: C}}}"),
         {"r": {"a": {"class_path": "A"}, "b": None, "c": {"class_path": "C"}}}),
    ],
)  # fmt: skip
def test_later_wins_key_by_key_and_another_class_replaces(texts: tuple[str, ...], expected: object) -> None:
    assert merged(*texts) == expected


def test_merging_changes_neither_tree() -> None:
    base, over = parse_text("{a: {b: 1}}"), parse_text("{a: {c: 2}}")
    merge(base, over)
    assert (base.plain(), over.plain()) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_values_remember_their_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# comment\na: 1\nb:\n  c:\n    - 2\n    - d: 3\n")
    tree = read_file(path)
    c = tree.child("b").child("c")
    assert tree.child("a").origin == f"{path}:2"
    assert c.origin == f"{path}:4"
    assert [element.origin for element in c.value] == [f"{path}:5", f"{path}:6"]
    assert tree.plain() == {"a": 1, "b": {"c": [2, {"d": 3}]}}


def test_where_each_setting_stands_is_listed(tmp_path: Path) -> None:
    (tmp_path / "part.yaml").write_text("class_path: A\ninit_args:\n  b: 1\n  c: [1, 2]\n")
    (tmp_path / "a.yaml").write_text("x:\n  part_file: part.yaml\n  init_args:\n    b: 2\ny: {}\n")
    from_files = read_file(tmp_path / "a.yaml")
    tree = merge(from_files, Node({"y": Node({"k": Node("secret")})}))
    part, recipe = tmp_path / "part.yaml", tmp_path / "a.yaml"
    assert list(origins(tree)) == [
        f"x.class_path: {part}:1",
        f"x.init_args.b: {recipe}:4",
        f"x.init_args.c.0: {part}:4",
        f"x.init_args.c.1: {part}:4",
        "y.k: command line",
    ]


def test_an_overlay_is_told_by_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x:\n  y: 1\n  z: 2\n")
    (tmp_path / "b.yaml").write_text("x:\n  z: 3\n")
    tree = merge(read_file(tmp_path / "a.yaml"), read_file(tmp_path / "b.yaml"))
    assert tree.child("x").child("y").origin.endswith("a.yaml:2")
    assert tree.child("x").child("z").origin.endswith("b.yaml:2")


def test_yaml_anchors_and_merge_keys_work() -> None:
    text = "base: &b {p: 1, q: 2}\nother:\n  <<: *b\n  q: 3\n"
    assert parse_text(text).plain() == {"base": {"p": 1, "q": 2}, "other": {"p": 1, "q": 3}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"bad\.yaml:3: not valid YAML"),
        ("a: 1\n\tb: 2\n", r"bad\.yaml:2: not valid YAML"),
        ("a:\n  x: 1\n  y: 2\n  x: 3\n", r"bad\.yaml:2: the key x is written twice"),
        ("- 1\n- 2\n", r"bad\.yaml: expected a mapping \(key: value\), got list"),
        ("", r"bad\.yaml: expected a mapping \(key: value\), got nothing"),
        ("a: !!python/object:os.system {}\n", r"bad\.yaml:1: not valid YAML"),
    ],
)
def test_bad_files_are_named_with_their_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_file(path)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "diffusion.yaml").write_text("a: 1\n")
    with pytest.raises(
        ConfigError, match=r"difusion\.yaml: No such file or directory\. Did you mean .*diffusion\.yaml"
    ):
        read_file(tmp_path / "difusion.yaml")
    with pytest.raises(ConfigError, match="There is no folder"):
        read_file(tmp_path / "nowhere" / "a.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_file(tmp_path)


def test_a_part_file_is_changed_by_the_other_keys(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "all.yaml").write_text("a: 1\nb: {c: 2, d: 3}\ne: near.yaml\n")
    (tmp_path / "parts" / "more.yaml").write_text("part_file: all.yaml\nf: 4\n")
    path = tmp_path / "recipe.yaml"
    path.write_text("trainer:\n  b: {d: 5}\n  part_file: parts/more.yaml\n  g: 6\n")
    trainer = read_file(path).child("trainer")
    assert trainer.plain() == {"a": 1, "b": {"c": 2, "d": 5}, "e": "near.yaml", "f": 4, "g": 6}
    assert trainer.child("a").origin == f"{tmp_path}/parts/all.yaml:1"
    assert trainer.child("g").origin == f"{path}:4"
    assert trainer.child("e").folder == tmp_path / "parts"  # a file that it names lies beside it


def test_a_part_file_of_an_overlay_changes_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("{a: 1, b: 2}")
    over = parse_text("{x: {part_file: all.yaml, b: 3}}", folder=tmp_path)
    assert merge(parse_text("{x: {a: 0, c: 4}}"), over).plain() == {"x": {"a": 1, "b": 3, "c": 4}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x:\n  part_file: al.yaml\n",
            r"part_file: cannot read .*al\.yaml.*Did you mean .*all\.yaml\? \(.*bad\.yaml:2\)",
        ),
        ("part_file: [all.yaml]\n", r"part_file: expected a file, got \['all\.yaml'\] \(.*bad\.yaml:1\)"),
    ],
)
def test_a_part_file_that_cannot_be_read_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text("{a: 1}")
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_file(tmp_path / "bad.yaml")
