"""PNG files with texts, and a folder for one setting."""

import re

import pytest
import torch
from PIL import Image

from realgen.data.generated_images import check_settings, keep_settings, read_images, read_texts, write_image


def test_pixels_and_texts_come_back(tmp_path):
    image = torch.arange(3 * 4 * 5).view(3, 4, 5) / 255
    texts = {"prompt": "кот 🐱\x00\x1b[31m\nred", "empty": "", "long": "word " * 5000}
    write_image(tmp_path / "new" / "a.png", image, texts)
    write_image(tmp_path / "b.png", 1 - image, {})
    assert read_texts(tmp_path / "new" / "a.png") == texts
    assert read_texts(tmp_path / "b.png") == {}
    assert torch.equal(read_images([tmp_path / "new" / "a.png", tmp_path / "b.png"]), torch.stack([image, 1 - image]))
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.getpixel((1, 0)) == (1, 21, 41)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png"]


def test_the_same_image_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, torch.full((3, 4, 4), 0.5), {"prompt": "a cat"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_half_written_image_is_named(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, torch.rand(3, 32, 32), {"prompt": "a cat"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.png' cannot be read: .*Delete it to have it drawn again"):
        read_images([path])
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.png' cannot be read as a PNG file"):
        read_texts(path)


def test_a_png_file_that_pillow_refuses_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_image(path, torch.rand(3, 80, 80), {"prompt": "a cat"})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"a\.png' cannot be read as a PNG file: .*decompression bomb"):
        read_texts(path)


def test_settings_are_written_once_and_compared(tmp_path):
    folder = tmp_path / "new" / "out"
    settings = {"policy": {"class_path": "A", "init_args": {"steps": 2, "targets": ["x"]}}, "rewriter": None}
    check_settings(folder, settings, cure="")
    assert not folder.exists()
    keep_settings(folder, settings, cure="")
    first = (folder / "settings.json").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
    keep_settings(folder, dict(reversed(settings.items())), cure="")
    keep_settings(folder, settings | {"added_since": None}, cure="")
    assert (folder / "settings.json").read_bytes() == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": {"class_path": "A", "init_args": {"steps": 3}}}, "policy.steps was 2, now it is 3"),
        ({"policy": {"class_path": "B", "init_args": {"steps": 2}}}, 'policy.class_path was "A", now it is "B"'),
        ({"policy": {"class_path": "A", "init_args": {}}}, "policy.steps was 2, now it is not set"),
        ({"adapters": {"lora": "abc"}}, 'adapters.lora was not set, now it is "abc"'),
        ({"policy": 0, "a": 1}, 'a was not set, now it is 1; policy was {"class_path": "A", "init_args": {"steps": 2}'),
        (dict.fromkeys("abcde", 1), "c was not set, now it is 1; and 2 more"),
    ],
)
def test_other_settings_are_named(tmp_path, changed, message):
    settings = {"policy": {"class_path": "A", "init_args": {"steps": 2}}}
    keep_settings(tmp_path, settings, cure="Take another folder.")
    pattern = rf"holds images of other settings: .*{re.escape(message)}.*\. Take another folder\.$"
    for look in (keep_settings, check_settings):
        with pytest.raises(ValueError, match=pattern):
            look(tmp_path, settings | changed, cure="Take another folder.")


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json' cannot be read .*Take another folder\.$"):
        keep_settings(tmp_path, {}, cure="Take another folder.")
