"""PNG files with what was told, and a folder for one setting."""

import pytest
import torch
from PIL import Image

from realgen.generation.picture_files import keep_settings, read_pictures, read_told, write_picture


def test_pixels_and_texts_come_back(tmp_path):
    image = torch.arange(3 * 4 * 5).view(3, 4, 5) / 255
    texts = {"prompt": "кот 🐱\x00\x1b[31m\nred", "empty": "", "long": "word " * 5000}
    write_picture(tmp_path / "new" / "a.png", image, texts)
    write_picture(tmp_path / "b.png", 1 - image, {})
    assert read_told(tmp_path / "new" / "a.png") == texts
    assert read_told(tmp_path / "b.png") == {}
    assert torch.equal(read_pictures([tmp_path / "new" / "a.png", tmp_path / "b.png"]), torch.stack([image, 1 - image]))
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.getpixel((1, 0)) == (1, 21, 41)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png"]


def test_the_same_picture_is_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, torch.full((3, 4, 4), 0.5), {"prompt": "a cat"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_half_written_picture_is_named(tmp_path):
    path = tmp_path / "a.png"
    write_picture(path, torch.rand(3, 32, 32), {"prompt": "a cat"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"a\.png' cannot be read: .*Delete it to have it drawn again"):
        read_pictures([path])
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.png' cannot be read as a PNG file"):
        read_told(path)


def test_settings_are_written_once_and_compared(tmp_path):
    folder = tmp_path / "new" / "out"
    settings = {"policy": {"class_path": "A", "init_args": {"steps": 2, "targets": ["x"]}}, "rewriter": None}
    keep_settings(folder, settings)
    first = (folder / "settings.json").read_bytes()
    keep_settings(folder, dict(reversed(settings.items())))
    assert (folder / "settings.json").read_bytes() == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": {"class_path": "A", "init_args": {"steps": 3}}}, r"policy\.steps was 2, now it is 3"),
        ({"policy": {"class_path": "B", "init_args": {"steps": 2}}}, r'policy\.class_path was "A", now it is "B"'),
        ({"policy": {"class_path": "A", "init_args": {}}}, r"policy\.steps was 2, now it is not set"),
        ({"adapters": {"lora": "abc"}}, r'adapters\.lora was not set, now it is "abc"'),
    ],
)
def test_the_first_other_setting_is_named(tmp_path, changed, message):
    settings = {"policy": {"class_path": "A", "init_args": {"steps": 2}}}
    keep_settings(tmp_path, settings)
    with pytest.raises(ValueError, match=f"holds pictures of other settings: .*{message}"):
        keep_settings(tmp_path, settings | changed)


def test_a_broken_record_is_named(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"settings\.json' cannot be read .*take another folder"):
        keep_settings(tmp_path, {})
