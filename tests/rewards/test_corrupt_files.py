"""A file of weights that is cut short or no such file is an error of one line that names it, for every reward."""

import shutil

import pytest
import torch

from realgen.rewards import Aesthetic, Alignment, HPSv2, LongClip, PickScore


@pytest.fixture
def weights(plain_clip, tmp_path):
    """A whole ``.pt`` file."""
    torch.save(plain_clip.state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


@pytest.fixture(
    params=["alignment", "alignment_file", "long_clip", "hpsv2", "pickscore", "aesthetic", "aesthetic_clip"]
)
def reward(request, clip_folder, transformers_clip, architecture, weights, tmp_path):
    """A reward that has read nothing yet; its weights lie in ``tmp_path``."""
    model = str(shutil.copytree(clip_folder, tmp_path / "open_clip"))
    clip = str(shutil.copytree(transformers_clip, tmp_path / "transformers"))
    make = {
        "alignment": lambda: Alignment(model),
        "alignment_file": lambda: Alignment(architecture, pretrained=weights),
        "long_clip": lambda: LongClip(weights, architecture),
        "hpsv2": lambda: HPSv2(weights, architecture),
        "pickscore": lambda: PickScore(clip),
        "aesthetic": lambda: Aesthetic(str(transformers_clip), weights),
        "aesthetic_clip": lambda: Aesthetic(clip, weights),
    }
    return make[request.param]()


@pytest.mark.parametrize("content", ["half", "garbage", "nothing"])
def test_corrupt_weights_are_one_clear_line(reward, content, samples, tmp_path):
    for path in [*tmp_path.rglob("*.safetensors"), *tmp_path.rglob("*.pt")]:
        whole = path.read_bytes()
        path.write_bytes({"half": whole[: len(whole) // 2], "garbage": b"garbage" * 1000, "nothing": b""}[content])
    with pytest.raises(ValueError, match=str(tmp_path)) as error:
        reward(samples)
    assert "\n" not in str(error.value)
