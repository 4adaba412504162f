"""What a rank is dealt: balanced, in an order that a resumed run finds again, without broken files."""

import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from realgen.data import DetectorAugment, ImageFolders
from realgen.data.image_batches import Draw, TrainImages, draw_seed

PLAIN = DetectorAugment(crop=0.0, flip=0.0, rescale=0.0, blur=0.0, jpeg=0.0)


def fill(folder, number, *, channel, size=(12, 8)):
    """Images whose one channel tells their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        color = [0, 0, 0]
        color[channel] = 10 * (i + 1)
        Image.new("RGB", size, tuple(color)).save(folder / f"{i:03d}.png")
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    return {
        "real": fill(tmp_path / "real", 9, channel=0),
        "generated": fill(tmp_path / "generated", 5, channel=1, size=(8, 8)),
        "validation_real": fill(tmp_path / "held" / "real", 3, channel=0, size=(9, 20)),
        "validation_generated": fill(tmp_path / "held" / "generated", 4, channel=1),
    }


def data(folders, **settings):
    made = ImageFolders(**folders, **{"image_size": 8, "batch_size": 4, "augment": PLAIN, **settings})
    made.setup("fit")
    return made


def attached(made, *, rank=0, world_size=1, iteration=0):
    """As Lightning attaches it to a trainer."""
    module = SimpleNamespace(iteration=iteration)
    strategy = SimpleNamespace(broadcast=lambda value: value)
    made.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module, strategy=strategy)
    return made


def numbers(batch):
    """(label, number) of each row, read from the pixels."""
    levels = (batch.images.amax(dim=(2, 3)) * 255).round().int()
    return [(int(label), int(level[label]) // 10 - 1) for label, level in zip(batch.labels, levels, strict=True)]


@pytest.mark.parametrize("held", ["", "held"])
def test_the_same_image_under_both_labels_is_refused(folders, tmp_path, held):
    shutil.copy(tmp_path / "real" / "004.png", tmp_path / held / "generated" / "other_name.png")
    with pytest.raises(
        ValueError, match=r"real and generated must not share images: .*other_name\.png has the content"
    ):
        data(folders)
    if not held:
        split = {name: folders[name] for name in ("real", "generated")}
        with pytest.raises(ValueError, match="real and generated must not share images"):
            data(split, validation_share=0.4)


def test_batches_are_half_real_and_go_through_every_image(folders):
    made = data(folders)
    batches = list(made.train_dataloader())
    assert len(batches) == len(made.train_dataloader()) == 5  # the larger class has 9 images, two in a batch
    rows = [row for batch in batches for row in numbers(batch)]
    assert all(batch.labels.tolist() == [0, 0, 1, 1] for batch in batches)
    assert all(batch.images.shape == (4, 3, 8, 8) and bool(batch.mask.all()) for batch in batches)
    assert {number for label, number in rows if label == 0} == set(range(9))
    generated = [number for label, number in rows if label == 1]
    assert sorted(generated[:5]) == sorted(generated[5:]) == list(range(5))


def test_the_next_pass_and_another_seed_have_another_order(folders):
    orders = [
        [
            row
            for batch in attached(data(folders, seed=seed), iteration=start).train_dataloader()
            for row in numbers(batch)
        ]
        for seed, start in ((0, 0), (0, 5), (1, 0))
    ]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_a_resumed_run_goes_on_with_the_same_pixels(folders):
    settings = {"augment": DetectorAugment(), "hard_negatives": 0.5}
    straight = list(attached(data(folders, **settings)).train_dataloader())
    resumed = list(attached(data(folders, **settings), iteration=3).train_dataloader())
    for one, other in zip(straight[3:], resumed, strict=False):
        assert torch.equal(one.images, other.images)
        assert one.names == other.names
    later = list(attached(data(folders, **settings), iteration=5).train_dataloader())
    assert torch.equal(resumed[2].images, later[0].images)


def test_ranks_share_a_pass_without_overlap(folders):
    parts = [list(attached(data(folders, batch_size=2), rank=r, world_size=3).train_dataloader()) for r in range(3)]
    assert [len(part) for part in parts] == [3, 3, 3]
    dealt = [numbers(part[step])[0] for step in range(3) for part in parts]
    assert sorted(dealt) == [(0, number) for number in range(9)]
    whole = list(attached(data(folders, batch_size=6)).train_dataloader())
    assert [numbers(batch)[:3] for batch in whole] == [dealt[:3], dealt[3:6], dealt[6:]]


def test_augmentation_differs_from_image_to_image_and_from_pass_to_pass():
    seeds = {draw_seed(seed, label, place) for seed in range(3) for label in range(2) for place in range(50)}
    assert len(seeds) == 300


def test_workers_give_the_same_batches(folders):
    settings = {"augment": DetectorAugment(), "hard_negatives": 0.5}
    for one, other in zip(
        data(folders, **settings).train_dataloader(),
        data(folders, **settings, num_workers=2).train_dataloader(),
        strict=True,
    ):
        assert torch.equal(one.images, other.images)


def test_every_validation_image_counts_once_over_the_ranks(folders):
    expected = [(0, i) for i in range(3)] + [(1, i) for i in range(4)]
    for world_size in (1, 2, 3):
        parts = [
            list(attached(data(folders, validation_batch_size=2), rank=r, world_size=world_size).val_dataloader())
            for r in range(world_size)
        ]
        assert len({len(part) for part in parts}) == 1
        counted = [
            row
            for part in parts
            for batch in part
            for row, counts in zip(numbers(batch), batch.mask.tolist(), strict=True)
            if counts
        ]
        assert sorted(counted) == expected
    # at any iteration, and mixed evenly
    late = attached(data(folders), iteration=7).val_dataloader()
    assert [row for batch in late for row in numbers(batch)] == [
        (1, 0),  # 1/8 of its class
        (0, 0),  # 1/6
        (1, 1),  # 3/8
        (0, 1),  # 1/2
        (1, 2),  # 5/8
        (0, 2),  # 5/6
        (1, 3),  # 7/8
    ]


def test_without_validation_folders_a_share_is_set_aside(tmp_path):
    real, generated = fill(tmp_path / "r", 24, channel=0), fill(tmp_path / "g", 24, channel=1)
    made = ImageFolders(real, generated, validation_share=0.4, image_size=8)
    made.setup()
    for train, validation in zip(made.train_files, made.validation_files, strict=True):
        assert len(train) + len(validation) == 24
        assert not set(train) & set(validation)
        assert 3 <= len(validation) <= 16
    # files of the same name stay on the same side
    assert [file.name for file in made.train_files[0]] == [file.name for file in made.train_files[1]]


def test_hard_negatives_are_spoilt_images_of_both_classes_and_count_as_generated(folders):
    made = data(folders, hard_negatives=1.0, batch_size=40)
    batch = next(iter(made.train_dataloader()))
    assert batch.labels.tolist() == [0] * 20 + [1] * 20
    assert numbers(batch)[:20] == numbers(next(iter(data(folders, batch_size=40).train_dataloader())))[:20]
    sources = {"generated" if "generated" in name else "real" for name in batch.names[20:]}
    assert sources == {"real", "generated"}
    none = next(iter(data(folders, batch_size=40).train_dataloader()))
    assert all("generated" in name for name in none.names[20:])


def test_a_broken_file_is_named_counted_and_replaced_in_training(folders, tmp_path):
    (tmp_path / "real" / "004.png").write_bytes(b"broken")
    made = data(folders)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = [made.on_after_batch_transfer(batch, 0) for batch in made.train_dataloader()]
        batches += [made.on_after_batch_transfer(batch, 0) for batch in made.train_dataloader()]
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == 1
    assert texts[0].startswith(f"skipped {tmp_path / 'real' / '004.png'}: the image cannot be decoded")
    assert texts[0].endswith("(1 so far)")
    assert list(made.broken) == [str(tmp_path / "real" / "004.png")]
    rows = [row for batch in batches for row in numbers(batch)]
    assert (0, 4) not in rows
    assert rows.count((0, 5)) >= 3  # in its own place, and in that of the file before it
    assert sum(label == 0 for label, _ in rows) == 20


def test_a_broken_file_does_not_count_in_validation(folders, tmp_path):
    (tmp_path / "held" / "generated" / "001.png").write_bytes(b"")
    made = data(folders)
    with pytest.warns(UserWarning, match=r"skipped .*001.png"):
        (batch,) = [made.on_after_batch_transfer(batch, 0) for batch in made.val_dataloader()]
    assert batch.mask.tolist() == [True] * 2 + [False] + [True] * 4
    assert batch.names[2].endswith("001.png")
    assert batch.images[2].abs().max() == 0


def test_a_class_without_a_readable_file_stops(folders):
    made = data(folders)
    for file in made.train_files[1]:
        file.path.write_bytes(b"")
    images = TrainImages(made.train_files, 8, PLAIN, 0.0)
    with pytest.raises(ValueError, match=r"none of the 5 generated images can be read; first: .*000.png"):
        images[Draw(1, 0, 0)]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("real", "none of the 9 real images to train on can be read; first: .*real/000.png: the image cannot be"),
        ("held/generated", "none of the 4 generated images to validate on can be read"),
    ],
)
def test_a_class_without_a_readable_file_is_refused_before_the_run(folders, tmp_path, folder, message):
    for path in (tmp_path / folder).glob("*.png"):
        path.write_bytes(b"no image")
    made = ImageFolders(**folders)
    with pytest.raises(ValueError, match=message):
        made.read()
    assert not made.train_files


def test_files_are_listed_once(folders, tmp_path):
    made = data(folders)
    fill(tmp_path / "real", 12, channel=0)
    made.setup("validate")
    made.read()
    assert [len(files) for files in made.train_files] == [9, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5}, "batch_size must be even, half of it is real; got 5"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"hard_negatives": 2.0}, "hard_negatives must be a share, 0 to 1, got 2.0"),
        ({"validation_share": 1.0}, "validation_share must be above 0 and below 1, got 1.0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"validation_real": None}, "validation_real and validation_generated must be given both"),
        ({"generated": "nowhere"}, "generated must be a folder of images, 'nowhere' is none"),
        ({"validation_real": "nowhere"}, "validation_real must be a folder of images, 'nowhere' is none"),
    ],
)
def test_impossible_settings_are_named(folders, settings, message):
    with pytest.raises(ValueError, match=message):
        ImageFolders(**{**folders, **settings})


def test_an_empty_side_of_the_split_is_named(tmp_path):
    real, generated = fill(tmp_path / "r", 2, channel=0), fill(tmp_path / "g", 2, channel=1)
    made = ImageFolders(real, generated, validation_share=1e-9)
    with pytest.raises(ValueError, match="validation_share=1e-09 leaves no real image to validate on"):
        made.setup()


def test_ranks_that_find_other_files_stop(folders):
    made = attached(ImageFolders(**folders), rank=1, world_size=2)
    made.trainer.strategy.broadcast = lambda mine: [(number + 1, name) for number, name in mine]
    with pytest.raises(ValueError, match=r"rank 1 finds \[9, 5, 3, 4\] files, rank 0 finds \[10, 6, 4, 5\]"):
        made.setup()
