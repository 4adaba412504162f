import json
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from realgen.detectors import LinearProbe
from realgen.detectors.linear_probe import ProbeConfig, load_backbone, save_probe
from realgen.functional.logistic_regression import LabelledFeatures, LogisticHead, fit_head


@pytest.fixture
def backbone(tiny_linearprobe):
    return load_backbone("test_vit", tiny_linearprobe.pretrained)


def test_is_the_sigmoid_of_an_affine_map_of_the_features(tiny_linearprobe, backbone, images):
    state = load_file(tiny_linearprobe.folder / "model.safetensors")
    with torch.no_grad():
        expected = (backbone(images) @ state["weight"] + state["bias"]).sigmoid()
    torch.testing.assert_close(tiny_linearprobe(images), expected, atol=1e-6, rtol=0)


def test_the_label_of_generated_images_is_one(backbone, images, tmp_path):
    """Two classes a child could tell apart: dark ones are generated."""
    noise = torch.rand(40, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    generated = torch.arange(40) % 2 == 0
    pictures = torch.where(generated[:, None, None, None], 0.3 * noise, 1 - 0.3 * noise)
    with torch.no_grad():
        rows = LabelledFeatures(backbone(pictures), generated)
    fitted = fit_head(rows, rows, calibration="none")
    pretrained = str(tmp_path / "vit.safetensors")
    save_file(timm.create_model("test_vit", num_classes=0).state_dict() | dict(backbone.tower.state_dict()), pretrained)
    save_probe(tmp_path, backbone, fitted.head, ProbeConfig("test_vit", pretrained))
    p_fake = LinearProbe(str(tmp_path))(torch.stack([torch.full((3, 40, 40), 0.15), torch.full((3, 40, 40), 0.85)]))
    assert p_fake[0] > 0.8
    assert p_fake[1] < 0.2


def test_calibration_is_part_of_the_head(backbone):
    features = torch.randn(200, backbone.tower.num_features, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(200, generator=torch.Generator().manual_seed(1))
    rows = LabelledFeatures(features, features[:, 0] + noise > 0)
    for calibration in ("platt", "temperature", "none"):
        fitted = fit_head(rows, rows, calibration=calibration)
        logits = features @ fitted.raw.weight + fitted.raw.bias
        expected = logits * fitted.calibration[0] + fitted.calibration[1]
        torch.testing.assert_close(features @ fitted.head.weight + fitted.head.bias, expected, atol=1e-4, rtol=0)
        assert (fitted.calibration == (1.0, 0.0)) == (calibration == "none")
        assert (fitted.calibration[1] == 0) == (calibration != "platt")


def test_another_backbone_than_it_was_fitted_on_is_refused(tiny_linearprobe):
    folder = str(tiny_linearprobe.folder)
    assert LinearProbe(folder, backbone="test_vit").config.backbone == "test_vit"
    with pytest.raises(
        ValueError, match=r"fitted on, 'test_vit'; got 'test_vit2'\. Fit a new one: python -m realgen.probe"
    ):
        LinearProbe(folder, backbone="test_vit2")


def test_other_weights_than_it_was_fitted_on_are_noticed(tiny_linearprobe, tmp_path):
    folder = str(tiny_linearprobe.folder)
    moved = shutil.copy(tiny_linearprobe.pretrained, tmp_path / "moved.safetensors")
    assert LinearProbe(folder, pretrained=str(moved)).network is not None
    state = {name: value + 0.02 * torch.randn(value.shape) for name, value in load_file(moved).items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="backbone 'test_vit' has other weights than the probe was fitted on"):
        LinearProbe(folder, pretrained=str(tmp_path / "other.safetensors")).to("cpu")


def test_another_number_of_features_is_noticed(tiny_linearprobe):
    config = tiny_linearprobe.folder / "config.json"
    network = timm.create_model("test_resnet")
    save_file(network.state_dict(), tiny_linearprobe.folder / "resnet.safetensors")
    pretrained = str(tiny_linearprobe.folder / "resnet.safetensors")
    config.write_text(json.dumps({"backbone": "test_resnet", "pretrained": pretrained}))
    with pytest.raises(ValueError, match=r"backbone 'test_resnet' has \d+ features, the probe was fitted on 64"):
        LinearProbe(str(tiny_linearprobe.folder)).to("cpu")


def test_files_that_are_missing_or_broken(tiny_linearprobe, tmp_path):
    with pytest.raises(ValueError, match=r"does not exist. Fit one: python -m realgen.probe .* --backbone some_vit"):
        LinearProbe(str(tmp_path / "none"), backbone="some_vit")
    folder = shutil.copytree(tiny_linearprobe.folder, tmp_path / "copy")
    save_file({"weight": torch.zeros(64)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="must hold weight, bias and fingerprint, got weight"):
        LinearProbe(str(folder)).to("cpu")
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "must be an object with backbone"),
        ('{"a": 1}', "got {'a': 1}"),
    ):
        (folder / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            LinearProbe(str(folder))


def test_the_head_is_written_whole(backbone, tmp_path):
    head = LogisticHead(torch.arange(64.0), torch.tensor(0.5))
    save_probe(tmp_path / "new", backbone, head, ProbeConfig("test_vit", "somewhere", {"auroc": 0.9}))
    state = load_file(tmp_path / "new" / "model.safetensors")
    assert torch.equal(state["weight"], head.weight)
    assert state["bias"] == 0.5
    written = json.loads((tmp_path / "new" / "config.json").read_text())
    assert written == {"backbone": "test_vit", "pretrained": "somewhere", "report": {"auroc": 0.9}}
