"""The images that the detector recipe makes for itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.nano import detector_folders
from experiments.nano.detector_folders import AI_EVERY, NanoFolders, main, write_folders
from experiments.nano.detectors import Pictures

NUMBERS = {"crops": 1, "samples": 3, "held_out_crops": 2, "held_out_samples": 2}


@pytest.fixture
def made(monkeypatch):
    """Pictures whose grey tells their kind; returns the calls."""
    calls = []

    def make_pictures(pretrained, *, per_subject, num_samples, seed, held_out):
        calls.append({"pretrained": pretrained, "per_subject": per_subject, "held_out": held_out, "seed": seed})

        def grey(value, rows):
            """No two alike, and none of the training ones among the held-out ones: one pixel holds a number."""
            pictures = torch.full((rows, 3, 8, 8), value, dtype=torch.uint8)
            pictures[:, 0, 0, 0] = torch.arange(rows) % 5 + 5 * held_out
            pictures[:, 1, 0, 0] = torch.arange(rows) // 5
            return pictures

        return Pictures(
            real=grey(10, 8 * per_subject),
            decoded=grey(20, 8 * per_subject),
            ai=grey(30, 8 * per_subject),
            samples=grey(40, num_samples),
        )

    monkeypatch.setattr(detector_folders, "make_pictures", make_pictures)
    return calls


def greys(folder: Path) -> list[int]:
    return sorted(int(np.array(Image.open(path)).max()) for path in folder.glob("*.png"))


def test_each_kind_is_written_to_its_folder(made, tmp_path):
    folder = write_folders(tmp_path / "images", pretrained=Path("model"), **NUMBERS)
    assert greys(folder / "train" / "real") == [10] * 8 + [20] * 8
    assert greys(folder / "train" / "generated") == [30] * (8 // AI_EVERY) + [40] * 3
    assert greys(folder / "validation" / "real") == [10] * 16 + [20] * 16
    assert greys(folder / "validation" / "generated") == [30] * (16 // AI_EVERY) + [40] * 2
    assert [call["held_out"] for call in made] == [False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_an_existing_folder_is_left_alone(made, tmp_path):
    with pytest.raises(ValueError, match="output must not exist yet"):
        write_folders(tmp_path, pretrained=Path("model"))
    assert not made


def test_the_data_make_their_images_once(made, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"weights")
    settings = {"directory": str(tmp_path / "images"), "pretrained": str(model), "image_size": 8, "batch_size": 4}
    for _ in range(2):
        data = NanoFolders(**settings, **NUMBERS)
        data.read()  # as the command does before a run; what is not made yet is no mistake
        assert bool(data.train_files) == data.folder.exists()
        data.prepare_data()
        data.setup("fit")
    assert len(made) == 2  # of the first one, training and validation
    assert [len(files) for files in data.train_files] == [16, 5]
    assert [len(files) for files in data.validation_files] == [32, 6]
    assert next(iter(data.train_dataloader())).images.shape == (4, 3, 8, 8)
    # other weights, other images
    (model / "a.safetensors").write_bytes(b"others")
    assert NanoFolders(**settings, **NUMBERS).folder != data.folder
    assert NanoFolders(**settings, **{**NUMBERS, "samples": 4}).folder != data.folder


def test_impossible_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match="pretrained must be a folder, 'nowhere' is none"):
        NanoFolders(pretrained="nowhere")
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        NanoFolders(pretrained=str(tmp_path), samples=0)


def test_command_line_hands_on_its_arguments(made, tmp_path, capsys):
    main(["--output", str(tmp_path / "images"), "--pretrained", "model", "--crops", "2", "--held_out_crops", "1"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "images")
    assert [(str(call["pretrained"]), call["per_subject"]) for call in made] == [("model", 2), ("model", 1)]
