from __future__ import annotations

from pathlib import Path

import pytest

from realgen.data.shard_paths import find_shards, is_url, open_shard


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data/prompts/train/train-00000{0,1,2}.tar, each holding its own number."""
    (tmp_path / "data/prompts/train").mkdir(parents=True)
    for i in range(3):
        (tmp_path / f"data/prompts/train/train-{i:06d}.tar").write_text(str(i))
    monkeypatch.chdir(tmp_path)
    return tmp_path


SHARDS = [f"data/prompts/train/train-{i:06d}.tar" for i in range(3)]


@pytest.mark.parametrize(
    ("spec", "shards"),
    [
        ("data/prompts/train/*.tar", SHARDS),
        ("data/**/*.tar", SHARDS),
        ("data/prompts/train/train-{000000..000001}.tar", SHARDS[:2]),
        ("data/prompts/train/train-{000002,000000}.tar", [SHARDS[2], SHARDS[0]]),
        ("data/prompts/train/train-00000[12].tar", SHARDS[1:]),
        ([SHARDS[1], "pipe:cat x.tar"], [SHARDS[1], "pipe:cat x.tar"]),
        (f"file:{SHARDS[0]}", SHARDS[:1]),
        ("s3://bucket/{0..1}.tar", ["s3://bucket/0.tar", "s3://bucket/1.tar"]),
    ],
)
def test_specs(folder: Path, spec: str | list[str], shards: list[str]) -> None:
    assert find_shards(spec, argument="train") == shards


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("data/prompt/train/*.tar", "train='data/prompt/train/[*].tar' .* exists is 'data', did you mean 'prompts'"),
        ("data/prompts/train/*.tgz", "exists is 'data/prompts/train', it holds train-000000.tar, train-000001.tar"),
        ("other/train.tar", r"exists is '\.', it holds data"),
        ("data/prompts/train", "it is a folder, name the shards in it: data/prompts/train/[*].tar"),
        ("data/prompts/train/train-{000000..000004}.tar", "'data/prompts/train/train-000003.tar' matches no file"),
        ("data/{a", "train='data/{a'"),
        ([], r"train must name at least one shard, got \[\]"),
        (["data/**/*.tar", SHARDS[1]], "names 'data/prompts/train/train-000001.tar' 2 times"),
    ],
)
def test_errors_name_the_pattern_and_the_nearest_folder(folder: Path, spec: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_shards(spec, argument="train")


def test_open_shard_copies_streams_and_seeks(folder: Path) -> None:
    assert is_url(f"pipe:cat {SHARDS[0]}")
    with open_shard(f"pipe:cat {SHARDS[0]} {SHARDS[1]}") as file:
        assert file.read() == b"01"
        file.seek(1)
        assert file.read() == b"1"


def test_open_shard_reads_s3_through_the_aws_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = folder / "aws"
    aws.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    with open_shard("s3://bucket/a b.tar") as file:
        assert file.read() == b"<s3><cp><s3://bucket/a b.tar><->"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:cat missing.tar", "'pipe:cat missing.tar' could not be read"),
        ("pipe:printf 123; exit 3", "could not be read.*exit 3"),
        ("gopher://host/a.tar", "could not be read.*no gopen handler"),
    ],
)
def test_open_shard_refuses_streams_that_fail(folder: Path, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_shard(url)
