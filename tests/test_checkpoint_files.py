"""Checkpoints on disk: every damage is found and told by name, a kill at any step leaves a usable one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen import checkpoint_files
from realgen.checkpoint_files import (
    LAST,
    META,
    PREVIOUS,
    check_checkpoint,
    checksum,
    install,
    keep_copy,
    newest_checkpoint,
    usable_checkpoints,
)
from realgen.whole_files import remove, unfinished_path


def content(iteration: int) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "state_dict": {"w": torch.full((100,), float(iteration))},
        "loops": {},
        "global_step": iteration,
    }


def written(path: Path, iteration: int, *, folder: bool = False) -> Path:
    """Write a checkpoint beside ``path`` and return where."""
    unfinished = unfinished_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(unfinished)
    if folder:
        unfinished.mkdir()
        torch.save(content(iteration), unfinished / META)
        (unfinished / "__0_0.distcp").write_bytes(bytes([iteration]) * 1000)
    else:
        torch.save(content(iteration), unfinished)
    return unfinished


def save(path: Path, iteration: int, *, folder: bool = False) -> Path:
    install(written(path, iteration, folder=folder), path, previous=path.with_name(PREVIOUS))
    return path


@pytest.mark.parametrize("folder", [False, True])
def test_the_last_but_one_stays_and_both_are_verified(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "checkpoints" / LAST
    for iteration in (1, 2, 3):
        save(path, iteration, folder=folder)
        assert check_checkpoint(path)["iteration"] == iteration
    assert check_checkpoint(path.with_name(PREVIOUS))["iteration"] == 2
    names = {LAST, PREVIOUS, f"{LAST}.sha256", f"{PREVIOUS}.sha256"}
    assert {each.name for each in path.parent.iterdir()} == names
    if not folder:  # as sha256sum writes it
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.with_name(f"{LAST}.sha256").read_text() == f"{digest}  {LAST}\n"


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.99])
def test_one_flipped_bit_anywhere_is_found_and_the_file_is_named(tmp_path: Path, folder: bool, place: float) -> None:
    path = save(tmp_path / LAST, 1, folder=folder)
    file = path / "__0_0.distcp" if folder else path
    flip(file, place)
    with pytest.raises(ValueError, match=rf"{path} is damaged: its SHA-256 is not the one in {path}.sha256"):
        check_checkpoint(path)


def flip(file: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(place * len(data))] ^= 1
    file.write_bytes(data)


def test_a_shard_that_is_gone_is_found(tmp_path: Path) -> None:
    path = save(tmp_path / LAST, 1, folder=True)
    (path / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match="is damaged"):
        check_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_loads_without_a_checksum_beside_it(tmp_path: Path) -> None:
    path = tmp_path / LAST
    os.rename(written(path, 7), path)
    assert check_checkpoint(path)["iteration"] == 7
    save(path, 8)
    assert check_checkpoint(path.with_name(PREVIOUS))["iteration"] == 7
    assert not path.with_name(f"{PREVIOUS}.sha256").exists()
    flip(path.with_name(PREVIOUS), 0.5)
    with pytest.raises(ValueError, match=f"{PREVIOUS} is damaged"):
        check_checkpoint(path.with_name(PREVIOUS))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged, or no checkpoint of realgen.fit: File is not a zip file"),
        (b"no checkpoint", "is damaged, or no checkpoint of realgen.fit: File is not a zip file"),
        ({"w": torch.zeros(2)}, "is no checkpoint of realgen.fit: it has no state_dict"),
        ([1], "is no checkpoint of realgen.fit: it has no state_dict"),
        ({**content(1), "odd": Path("x")}, "its contents are unknown"),
    ],
)
def test_other_files_are_no_checkpoints_and_nobody_is_told_to_load_them_unsafely(
    tmp_path: Path, data: object, message: str
) -> None:
    path = tmp_path / "x.ckpt"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        torch.save(data, path)
    with pytest.raises(ValueError, match=message) as raised:
        check_checkpoint(path)
    assert str(raised.value).startswith(str(path))
    assert "weights_only" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / LAST).mkdir()
    with pytest.raises(ValueError, match=rf"{LAST} is damaged, or no checkpoint of realgen.fit: .*No such file"):
        check_checkpoint(tmp_path / LAST)


@pytest.mark.parametrize("folder", [False, True])
def test_a_kill_at_any_step_leaves_a_checkpoint_that_passes(
    tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before the n-th change of the disk, for every n."""
    steps = 0
    for stop in range(100):
        run = tmp_path / str(stop)
        path = run / "checkpoints" / LAST
        for iteration in (1, 2):
            save(path, iteration, folder=folder)
        new, done = written(path, 3, folder=folder), [0]

        def counted(act: Any, stop: int = stop, done: list[int] = done) -> Any:
            def step(*args: Any, **how: Any) -> Any:
                if done[0] == stop:
                    raise KeyboardInterrupt
                done[0] += 1
                return act(*args, **how)

            return step

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(os, "link", counted(os.link))
            patch.setattr(checkpoint_files, "remove", counted(checkpoint_files.remove))
            try:
                install(new, path, previous=path.with_name(PREVIOUS))
            except KeyboardInterrupt:
                steps += 1
        newest = newest_checkpoint(run / "checkpoints")
        assert newest is not None
        assert check_checkpoint(newest)["iteration"] in ((1, 2, 3) if folder else (2, 3))
        if path.with_name(PREVIOUS).exists():
            assert check_checkpoint(path.with_name(PREVIOUS))["iteration"] in (1, 2)
        save(path, 4, folder=folder)  # and the run goes on
        assert check_checkpoint(path)["iteration"] == 4
        if newest.name == LAST:
            assert check_checkpoint(path.with_name(PREVIOUS))["iteration"] in (2, 3)
        if done[0] < stop:
            break
    assert steps >= 6


def test_a_write_that_went_wrong_leaves_the_old_one(tmp_path: Path) -> None:
    path = save(tmp_path / LAST, 1)
    new = written(path, 2)
    flip(new, 0.5)
    with pytest.raises(ValueError, match=rf"^{path} is damaged: the checksum of "):
        install(new, path, previous=path.with_name(PREVIOUS))
    assert check_checkpoint(path)["iteration"] == 1


def test_a_damaged_one_never_takes_the_place_of_the_only_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / LAST
    save(path, 1)
    save(path, 2)
    flip(path, 0.5)
    new = written(path, 2)  # gone on from the previous one

    def killed(*names: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            install(new, path, previous=path.with_name(PREVIOUS))
    assert check_checkpoint(path.with_name(PREVIOUS))["iteration"] == 1


def test_usable_ones_are_listed_newest_first(tmp_path: Path) -> None:
    for number, name in enumerate(("best.ckpt", PREVIOUS, LAST)):
        save(tmp_path / name, number)
        os.utime(tmp_path / name, (number, number))
    (tmp_path / PREVIOUS).unlink()
    keep_copy(tmp_path / "best.ckpt", tmp_path / "mine.ckpt")
    assert checksum(tmp_path / "mine.ckpt") == checksum(tmp_path / "best.ckpt")
    flip(tmp_path / LAST, 0.5)
    assert [path.name for path in usable_checkpoints(tmp_path)] != []
    assert LAST not in [path.name for path in usable_checkpoints(tmp_path)]


def test_a_damaged_list_of_checksums_is_none(tmp_path: Path) -> None:
    path = save(tmp_path / LAST, 1)
    for content in (bytes(range(128, 256)), b"", b"half a"):
        path.with_name(f"{LAST}.sha256").write_bytes(content)
        assert check_checkpoint(path)["iteration"] == 1
