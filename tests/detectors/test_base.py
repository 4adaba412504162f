"""The contract that every detector keeps; a new one joins by existing (and by a fixture ``tiny_<name>``)."""

import importlib
import inspect
import pkgutil

import jaxtyping
import pytest
import torch
from torch import nn

import realgen.detectors
from realgen.detectors import Detector


def subclasses(base):
    """All detectors of the package, whichever file they live in."""
    for module in pkgutil.iter_modules(realgen.detectors.__path__, "realgen.detectors."):
        importlib.import_module(module.name)
    found = [cls for child in base.__subclasses__() for cls in (child, *subclasses(child))]
    ours = {cls for cls in found if cls.__module__.startswith("realgen.") and not inspect.isabstract(cls)}
    return sorted(ours, key=lambda cls: cls.__name__)


DETECTORS = subclasses(Detector)


@pytest.fixture(params=DETECTORS, ids=lambda cls: cls.__name__)
def detector(request):
    return request.getfixturevalue(f"tiny_{request.param.__name__.lower()}")


def test_the_walk_finds_the_detectors():
    assert {"OmniAID", "Effort"} <= {cls.__name__ for cls in DETECTORS}


def test_answers_one_probability_per_image(detector, images):
    p_fake = detector(images)
    assert p_fake.shape == (6,)
    assert p_fake.dtype == torch.float32
    assert bool(((p_fake >= 0) & (p_fake <= 1)).all())
    assert p_fake.std() > 1e-3, "a detector that answers the same for all images proves nothing here"


def test_batch_equals_one_by_one(detector, images):
    alone = torch.cat([detector(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(detector(images), alone, atol=1e-5, rtol=0)


def test_order_of_the_batch_does_not_matter(detector, images):
    torch.testing.assert_close(detector(images.flip(0)).flip(0), detector(images), atol=1e-5, rtol=0)


def test_is_frozen_in_eval_mode_and_without_gradient(detector, images):
    assert not isinstance(detector, nn.Module)
    p_fake = detector(images.requires_grad_())
    assert not p_fake.requires_grad
    assert not any(module.training for module in detector.network.modules())
    assert not any(parameter.requires_grad for parameter in detector.network.parameters())


def test_two_calls_agree(detector, images):
    assert torch.equal(detector(images), detector(images))


def test_broken_image_is_nan_and_alone_in_it(detector, images):
    broken = images.clone()
    broken[2, :, 5] = torch.nan
    p_fake = detector(broken)
    assert p_fake.isnan().tolist() == [False, False, True, False, False, False]
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(p_fake[others], detector(images)[others], atol=1e-5, rtol=0)


def test_the_trainers_autocast_does_not_change_the_answer(detector, images):
    exact = detector(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(detector(images), exact)


def test_takes_images_of_any_floating_type(detector, images):
    torch.testing.assert_close(detector(images.double()), detector(images), atol=1e-6, rtol=0)
    assert detector(images.bfloat16()).dtype == torch.float32


def test_moves(detector, images):
    before = detector(images)
    assert detector.to("cpu") is detector
    assert torch.equal(detector(images), before)


@pytest.mark.parametrize("content", ["half", "garbage", "nothing"])
def test_corrupt_weights_are_one_clear_line(detector, content, tmp_path, images):
    for path in tmp_path.rglob("*.safetensors"):
        whole = path.read_bytes()
        path.write_bytes({"half": whole[: len(whole) // 2], "garbage": b"garbage" * 1000, "nothing": b""}[content])
    with pytest.raises(ValueError, match=str(tmp_path)) as error:
        detector(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [2.0, -1.0])
def test_refuses_what_is_no_image(detector, value):
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        detector(torch.full((1, 3, 8, 8), value))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"images must have shape \[batch, 3, height, width\], got \[3, 8, 8\]"),
        (torch.zeros(1, 4, 8, 8), r"images must have shape .* got \[1, 4, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"images must be floating in \[0, 1\], got torch.uint8"),
        (torch.full((1, 3, 8, 8), torch.inf), r"images must lie in \[0, 1\]"),
    ],
)
def test_refuses_other_shapes_types_and_ranges(images, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # off as in training, or it objects first
    with pytest.raises(ValueError, match=message):
        Lying(0.5)(images)


class Lying(Detector):
    """Answers what it is told to."""

    def __init__(self, answer, batch_size=1):
        super().__init__(batch_size)
        self.answer = answer

    def build(self):
        return nn.Linear(1, 1)

    def p_fake(self, network, images):
        return torch.full((len(images),), self.answer)


@pytest.mark.parametrize("answer", [-0.01, 1.01, torch.inf])
def test_an_answer_outside_the_range_is_an_error_not_clamped(answer):
    with pytest.raises(ValueError, match=r"Lying answered outside \[0, 1\]"):
        Lying(answer)(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("answer", [0.0, 1.0])
def test_the_ends_of_the_range_are_answers(answer):
    assert Lying(answer)(torch.zeros(2, 3, 4, 4)).tolist() == [answer, answer]


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        Lying(0.5, batch_size=0)


def test_a_detector_without_p_fake_is_refused_when_it_is_made() -> None:
    class Forgetful(Detector):
        def build(self) -> nn.Module:
            return nn.Linear(2, 2)

    with pytest.raises(TypeError, match="p_fake"):
        Forgetful()
