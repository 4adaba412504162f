"""The command that fits a linear probe, from folders of files to a detector in a config."""

import json

import pytest
import timm
import torch
from diffusers import AutoencoderKL
from jsonargparse import ArgumentParser
from PIL import Image
from safetensors.torch import save_file

from realgen.data.probe_files import divide
from realgen.data.vae import load_vae, reconstruct
from realgen.detectors import Detector, LinearProbe
from realgen.functional.images import from_uint8
from realgen.probe import main, parse_arguments

COUNT = 60


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


def picture(generated, number):
    """Noise on a random colour; generated ones are redder."""
    generator = torch.Generator().manual_seed(2 * number + generated)
    image = 0.3 * torch.rand(3, 1, 1, generator=generator) + 0.3 * torch.rand(3, 24, 24, generator=generator)
    image[0] += 0.4 * generated
    return (image.clamp(0, 1) * 255).round().byte()


def write(folder, images, suffix, **options):
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.{suffix}", **options)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    for generated, name in enumerate(("real", "generated")):
        write(place / name, [picture(generated, number) for number in range(COUNT)], "png")
    (place / "real" / "notes.txt").write_text("no image")
    (place / "real" / "broken.png").write_text("no image")
    return place


def run(folders, weights, output, *more):
    words = ["--real", folders / "real", "--generated", folders / "generated", "--backbone", "test_vit"]
    words += ["--pretrained", weights, "--output", output, "--num_workers", "0", "--device", "cpu", *more]
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def fitted(folders, weights, tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs") / "probe"
    assert run(folders, weights, output, "--held_out", "0.4") == 0
    return output


def test_tells_new_images_apart_with_the_right_sign(fitted):
    detector = LinearProbe(str(fitted))
    means = []
    for generated in (False, True):
        images = torch.stack([from_uint8(picture(generated, number)) for number in range(1000, 1040)])
        means.append(float((detector(images) > 0.5).float().mean()))
    real, fake = means
    assert fake > 0.8 > 0.2 > real


def test_the_report_is_of_images_that_were_held_out(fitted):
    config = json.loads((fitted / "config.json").read_text())
    assert config["backbone"] == "test_vit"
    report = config["report"]
    counts = report["images, real and generated"]
    assert [sum(split[label] for split in counts.values()) for label in (0, 1)] == [COUNT, COUNT]
    assert counts["fit"][0] > counts["calibrate"][0] + counts["test"][0]
    measured = report["before and after calibration"]
    assert measured["auroc"][0] == measured["auroc"][1] > 0.8
    assert 0 <= measured["calibration_error"][1] <= 1
    scale, _ = report["scale and shift of the logits"]
    assert scale > 0
    assert (fitted / "model.safetensors").stat().st_mode == (fitted / "config.json").stat().st_mode


def test_the_part_that_is_written_is_a_detector(fitted):
    parser = ArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_subclass_arguments(Detector, "part")
    detector = parser.instantiate(parser.parse_args([f"--part={fitted / 'detector.yaml'}"])).part
    assert isinstance(detector, LinearProbe)
    assert detector(torch.rand(2, 3, 24, 24)).shape == (2,)


def test_what_the_user_sees(folders, weights, tmp_path, capsys):
    assert run(folders, weights, tmp_path / "probe", "--calibration", "temperature") == 0
    shown = capsys.readouterr()
    assert "real: 61 images, 0% of them JPEG\n" in shown.err
    assert f"warning: skipped 1 files that cannot be read, the first: {folders / 'real' / 'broken.png'}: " in shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith("tested on ")
    assert [line.split()[0] for line in lines[2:5]] == ["accuracy,", "AUROC", "calibration"]
    assert lines[-1] == f"wrote {tmp_path / 'probe'}; as a detector: {tmp_path / 'probe' / 'detector.yaml'}"


def test_the_same_files_give_the_same_probe(folders, weights, fitted, tmp_path):
    assert run(folders, weights, tmp_path / "again", "--held_out", "0.4", "--batch_size", "7") == 0
    images = torch.rand(4, 3, 24, 24)
    torch.testing.assert_close(
        LinearProbe(str(tmp_path / "again"))(images), LinearProbe(str(fitted))(images), atol=1e-3, rtol=0
    )


def test_match_jpeg_takes_the_files_format_away(weights, tmp_path, capsys):
    """Both classes show the same pictures; only the format differs. With the formats matched, nothing is left."""
    images = [picture(False, number) for number in range(COUNT)]
    write(tmp_path / "real", images, "jpg", quality=5)
    write(tmp_path / "generated", images, "png")
    assert run(tmp_path, weights, tmp_path / "plain", "--held_out", "0.4") == 0
    assert "warning: the file formats alone tell the classes apart" in capsys.readouterr().err
    auroc = json.loads((tmp_path / "plain" / "config.json").read_text())["report"]["before and after calibration"][
        "auroc"
    ]
    assert auroc[1] > 0.9
    # The matched files hold the very same pixels, so no calibration can find a direction.
    assert (
        run(tmp_path, weights, tmp_path / "matched", "--held_out", "0.4", "--match_jpeg", "--calibration", "none") == 0
    )
    shown = capsys.readouterr()
    assert "warning" not in shown.err
    assert "warning: an AUROC of 0.50 is hardly better than chance" in shown.out
    report = json.loads((tmp_path / "matched" / "config.json").read_text())["report"]
    assert report["before and after calibration"]["auroc"][1] == pytest.approx(0.5, abs=0.01)


def test_photographs_after_a_vae_count_as_generated(folders, weights, tmp_path):
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    vae.save_pretrained(tmp_path / "vae")
    assert run(folders, weights, tmp_path / "probe", "--held_out", "0.4", "--vae", tmp_path / "vae") == 0
    written = sorted((tmp_path / "probe" / "reconstructed").iterdir())
    assert len(written) == COUNT  # not the broken file
    counts = json.loads((tmp_path / "probe" / "config.json").read_text())["report"]["images, real and generated"]
    assert [sum(split[label] for split in counts.values()) for label in (0, 1)] == [COUNT, 2 * COUNT]
    photographs = torch.stack([from_uint8(picture(False, number)) for number in range(1000, 1040)])
    detector = LinearProbe(str(tmp_path / "probe"))
    assert (detector(reconstruct(load_vae(str(tmp_path / "vae")), photographs)) > 0.5).float().mean() > 0.8
    assert (detector(photographs) > 0.5).float().mean() < 0.3


def test_what_does_not_hold_for_other_images_is_no_probe(weights, tmp_path, capsys):
    """The images for the calibration have the classes the other way round."""
    for generated, name in enumerate(("real", "generated")):
        write(tmp_path / name, [picture(generated, number) for number in range(24)], "png")
    divided = divide(tmp_path / "real", tmp_path / "generated", 0.6)
    for file, generated, part in zip(*divided, strict=True):
        if part == "calibrate":
            other = picture(not generated, int(file.path.stem))
            Image.fromarray(other.permute(1, 2, 0).numpy()).save(file.path)
    assert run(tmp_path, weights, tmp_path / "probe", "--held_out", "0.6") == 1
    assert "error: the logits are no better than chance on the " in capsys.readouterr().err
    assert not (tmp_path / "probe" / "config.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--held_out", "1.0"], "--held_out must be above 0 and below 1, got 1.0"),
        (["--batch_size", "0"], "--batch_size must be at least 1 and --num_workers 0, got 0 and 0"),
        (["--l2", "0"], "--l2 must be above 0, got 0.0"),
        (["--device", "toaster"], "device: 'toaster' cannot be used: "),
        (["--real", "no/folder"], "--real must be a folder of images, 'no/folder' is none"),
        (["--backbone", "open_clip:ViT-Z", "--pretrained", "x"], "open_clip cannot load backbone 'ViT-Z'"),
        (["--pretrained", "no/file"], "pretrained must be a file with a timm backbone's weights"),
    ],
)
def test_mistakes_are_one_line(folders, weights, tmp_path, capsys, more, message):
    assert run(folders, weights, tmp_path / "probe", *more) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert not (tmp_path / "probe" / "model.safetensors").exists()


def test_a_probe_is_not_overwritten_unasked(folders, weights, fitted, capsys):
    before = (fitted / "model.safetensors").read_bytes()
    assert run(folders, weights, fitted) == 1
    assert "already holds a probe; --overwrite replaces it" in capsys.readouterr().err
    assert (fitted / "model.safetensors").read_bytes() == before


def test_an_unknown_calibration_is_refused_by_the_command_line():
    with pytest.raises(ValueError, match="invalid choice: 'no'"):
        parse_arguments(["--real", "a", "--generated", "b", "--backbone", "c", "--output", "d", "--calibration", "no"])
