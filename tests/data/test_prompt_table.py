from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realgen.data import PromptTable, prompt_seed, write_shards

PROMPTS = [f"prompt {i}" for i in range(7)]


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Three unequal shards of 3, 1 and 3 prompts."""
    rows = [{"prompt": prompt, "number": i} for i, prompt in enumerate(PROMPTS)]
    parts = {"a": rows[:3], "b": rows[3:4], "c": rows[4:]}
    return [str(path) for name, part in parts.items() for path in write_shards(part, tmp_path / name)]


@pytest.fixture
def image_shards(tmp_path: Path, make_image: Callable[..., Image.Image]) -> list[str]:
    samples = ({"prompt": f"photo {i}", "image": make_image(i)} for i in range(3))
    return [str(path) for path in write_shards(samples, tmp_path / "real_images", 2)]


@pytest.mark.parametrize("max_in_memory", [1, 6, 7, 100])
@pytest.mark.parametrize("scheme", ["", "pipe:cat "])
def test_rows_are_the_same_in_memory_on_demand_and_streamed(shards: list[str], max_in_memory: int, scheme: str) -> None:
    if scheme and max_in_memory < 7:
        with pytest.raises(ValueError, match=f"max_in_memory={max_in_memory}, .*copy the shards to a local disk"):
            PromptTable([scheme + shard for shard in shards], max_in_memory=max_in_memory)
        return
    table = PromptTable([scheme + shard for shard in shards], max_in_memory=max_in_memory)
    assert [table[row].prompt for row in range(len(table))] == PROMPTS
    assert [table[row].metadata for row in range(len(table))] == [{"number": i} for i in range(7)]
    assert table.digest == PromptTable(shards).digest


def test_prompts_in_memory_need_no_file_and_those_on_demand_do(shards: list[str]) -> None:
    in_memory, on_demand = PromptTable(shards, max_in_memory=7), PromptTable(shards, max_in_memory=6)
    Path(shards[1]).unlink()
    assert in_memory[3].prompt == "prompt 3"
    assert on_demand[4].prompt == "prompt 4"
    with pytest.raises(FileNotFoundError):
        on_demand[3]


def test_batch(shards: list[str]) -> None:
    batch = PromptTable(shards).batch([4, 0], mask=[True, False])
    assert batch.prompts == ("prompt 4", "prompt 0")
    assert batch.keys == ("000000000", "000000000")
    assert batch.metadata == ({"number": 4}, {"number": 0})
    assert batch.seeds == (prompt_seed("000000000", "prompt 4"), prompt_seed("000000000", "prompt 0"))
    assert batch.mask.tolist() == [True, False]
    assert batch.images is None


@pytest.mark.parametrize("scheme", ["", "pipe:cat "])
def test_real_images_come_back_as_they_were(
    image_shards: list[str], make_image: Callable[..., Image.Image], scheme: str
) -> None:
    table = PromptTable([scheme + shard for shard in image_shards], real_images=True)
    assert table.image_shape == (3, 6, 4)
    images = table.batch([2, 0]).images
    assert images is not None
    assert images.dtype == torch.float32
    truth = np.stack([np.array(make_image(i)) for i in (2, 0)]) / 255.0
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), truth, atol=1e-7)
    assert table.batch([1]).mask.tolist() == [True]


def test_real_images_are_left_alone_unless_asked_for(image_shards: list[str]) -> None:
    assert PromptTable(image_shards).batch([0, 1]).images is None


def test_image_size_scales_and_crops_to_the_center(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 15:65] = 255  # white over the central square and a little beyond, black at the sides
    shards = write_shards([{"prompt": "a", "image": Image.fromarray(pixels)}], tmp_path / "wide")
    images = PromptTable([str(shards[0])], real_images=True, image_size=20).batch([0]).images
    assert images is not None
    assert images.shape == (1, 3, 20, 20)
    assert images.min() == 1.0


def test_real_images_of_several_sizes_need_an_image_size(
    tmp_path: Path, make_image: Callable[..., Image.Image]
) -> None:
    samples = [{"prompt": "a", "image": make_image()}, {"prompt": "b", "image": make_image(height=5)}]
    (shard,) = write_shards(samples, tmp_path / "sizes")
    with pytest.raises(ValueError, match=r"image_size must be given .*'000000001' is 4x5 pixels, those before are 4x6"):
        PromptTable([str(shard)], real_images=True)
    assert PromptTable([str(shard)], real_images=True, image_size=4).image_shape == (3, 4, 4)


@pytest.mark.parametrize("first", [True, False])
def test_either_all_or_none_have_a_real_image(
    tmp_path: Path, make_image: Callable[..., Image.Image], first: bool
) -> None:
    samples = [{"prompt": "a", "image": make_image() if first else None}, {"prompt": "b", "image": make_image()}]
    samples[1]["image"] = None if first else make_image()
    (shard,) = write_shards(samples, tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"'000000001' has (no|a) real image, unlike those before"):
        PromptTable([str(shard)], real_images=True)


def test_broken_samples_are_counted_and_the_first_five_named(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    broken = {f"bad{i}.txt": b"" for i in range(7)}
    shard = str(write_tar(tmp_path / "a.tar", {"000.txt": b"good", **broken}))
    table = PromptTable([shard])
    assert (len(table), table.skipped) == (1, 7)
    assert table.skipped_names == [f"{shard}, sample 'bad{i}': its prompt is empty." for i in range(5)]


@pytest.mark.parametrize("max_in_memory", [1, 100])
def test_broken_samples_shift_no_other(tmp_path: Path, write_tar: Callable[..., Path], max_in_memory: int) -> None:
    members = {"0.txt": b"zero", "1.txt": b"\xff", "2.txt": b"two", "3.json": b"{}", "4.txt": b"four"}
    table = PromptTable([str(write_tar(tmp_path / "a.tar", members))], max_in_memory=max_in_memory)
    assert [table[row].prompt for row in range(len(table))] == ["zero", "two", "four"]


def test_a_broken_real_image_is_skipped_only_where_real_images_are_used(
    tmp_path: Path, make_image: Callable[..., Image.Image]
) -> None:
    make_image(height=64, width=64).save(tmp_path / "a.png")
    png = (tmp_path / "a.png").read_bytes()
    (shard,) = write_shards([{"prompt": p, "image": tmp_path / "a.png"} for p in "abc"], tmp_path / "train")
    data = shard.read_bytes()
    second = data.index(png, data.index(png) + 1)
    shard.write_bytes(data[: second + 5000] + bytes(100) + data[second + 5100 :])

    table = PromptTable([str(shard)], real_images=True)
    assert [table[row].prompt for row in range(len(table))] == ["a", "c"]
    assert table.skipped_names[0].startswith(f"{shard}, sample '000000001': the image cannot be decoded")
    assert len(PromptTable([str(shard)])) == 3


def test_nothing_usable(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    shard = str(write_tar(tmp_path / "a.tar", {"0.txt": b"", "1.txt": b"\xff"}))
    with pytest.raises(ValueError, match=r"no sample of the 1 shards can be used; first: .*sample '0': its prompt is"):
        PromptTable([shard])
    with pytest.raises(ValueError, match=r"the 1 shards hold no sample, the first is .*empty.tar"):
        PromptTable([str(write_tar(tmp_path / "empty.tar", {}))])


def changed(shard: str, old: bytes, new: bytes) -> None:
    """Other bytes in the shard, in the same place."""
    path = Path(shard)
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


SAYS = r"the shard '.*' has changed since the run began: put the old file back and go on from the last checkpoint"


def test_a_shard_that_holds_another_prompt_by_now_is_named(shards: list[str]) -> None:
    table = PromptTable(shards, max_in_memory=1)
    changed(shards[0], b"prompt 1", b"prompt X")
    assert [table[row].prompt for row in (0, 2, 3)] == ["prompt 0", "prompt 2", "prompt 3"]
    with pytest.raises(RuntimeError, match=SAYS) as error:
        table[1]
    assert shards[0] in str(error.value)


@pytest.mark.parametrize("rest", [0, 512, 1024 + 100])
def test_a_shard_that_was_cut_off_is_named(shards: list[str], rest: int) -> None:
    table = PromptTable(shards, max_in_memory=1)
    data = Path(shards[2]).read_bytes()
    Path(shards[2]).write_bytes(data[:rest])
    with pytest.raises(RuntimeError, match=SAYS) as error:
        table[6]
    assert shards[2] in str(error.value)


def test_a_shard_that_was_written_anew_is_named(shards: list[str]) -> None:
    table = PromptTable(shards, max_in_memory=1)
    write_shards([{"prompt": "shorter"}], Path(shards[0]).parent, overwrite=True)
    with pytest.raises(RuntimeError, match=SAYS):
        table[0]
    with pytest.raises(RuntimeError, match=SAYS):  # nothing but the tar's end is left there
        table[2]


def test_the_same_shard_written_once_more_is_no_change(shards: list[str]) -> None:
    table = PromptTable(shards, max_in_memory=1)
    Path(shards[0]).write_bytes(Path(shards[0]).read_bytes())
    assert table[1].prompt == "prompt 1"


def test_another_real_image_is_a_change(image_shards: list[str], make_image: Callable[..., Image.Image]) -> None:
    table = PromptTable(image_shards, real_images=True)
    samples = ({"prompt": f"photo {i}", "image": make_image(i + 1)} for i in range(3))
    write_shards(samples, Path(image_shards[0]).parent, 2, overwrite=True)
    with pytest.raises(RuntimeError, match=SAYS):
        table.batch([1])
