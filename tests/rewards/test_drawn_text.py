"""Drawn text on a stand-in with RapidOCR's calls, and on RapidOCR itself where it is installed."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.functional import pil_to_tensor

from realgen.rewards import DrawnText
from realgen.rewards.drawn_text import LONGEST, likeness, plain

ENGINE = """
from types import SimpleNamespace
started, seen, texts = [], [], []
class RapidOCR:
    def __init__(self, params):
        if "bad_det" in params["Det.model_path"]:
            raise RuntimeError("no protobuf\\nat byte 0")
        started.append(params)
    def __call__(self, pixels):
        seen.append(pixels)
        found = texts.pop(0)
        return SimpleNamespace() if found == "no list" else SimpleNamespace(txts=found)
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A package ``rapidocr`` with models in its wheel; ``texts`` are what it will read."""
    for package, code in {"rapidocr": ENGINE, "onnxruntime": ""}.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code)
    (tmp_path / "rapidocr/models").mkdir()
    for model in ("PP-OCRv6_det_small", "PP-OCRv6_rec_small", "ch_ppocr_mobile_v2.0_cls_mobile"):
        (tmp_path / f"rapidocr/models/{model}.onnx").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for package in ("rapidocr", "onnxruntime"):
        monkeypatch.delitem(sys.modules, package, raising=False)
    import rapidocr

    yield rapidocr
    del sys.modules["rapidocr"]


def asked(samples, *fields):
    return replace(samples, metadata=fields)


@pytest.mark.parametrize(
    ("wanted", "read", "score"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "xabcdx", 1.0),
        ("abcd", "abxd", 0.75),
        ("abcd", "abc", 0.75),
        ("abcd", "badc", 0.25),  # insert a, replace a by c, delete c
        ("abcd", "xyz", 0.0),
        ("abcd", "", 0.0),
        ("abcd", "abxd" * 1000, 0.0),
    ],
)
def test_one_minus_the_edit_distance_by_hand(wanted, read, score):
    assert likeness(wanted, read) == score


def test_forms_of_a_letter_are_one():
    assert plain("\uff2fpen\u3000 Daily\n") == "opendaily"


def test_each_image_is_read_for_its_prompts_text(samples, engine):
    engine.texts += [("Open", "Daily"), ("OPEN",), None, ("exit",), "no list", ("E X I T",)]
    reward = DrawnText(threads=2)
    total = reward(asked(samples, {"text": "open daily"}, {"text": "Exit"})).total
    assert total.tolist() == [[1.0, pytest.approx(4 / 9), 0.0], [1.0, 0.0, 1.0]]
    (params,) = engine.started
    assert params["Det.model_path"].endswith("rapidocr/models/PP-OCRv6_det_small.onnx")
    assert params["Rec.model_path"].endswith("rapidocr/models/PP-OCRv6_rec_small.onnx")
    assert params["EngineConfig.onnxruntime.intra_op_num_threads"] == 2
    assert params["Global.use_cls"] is False


def test_the_engine_sees_eight_bits_with_blue_first(engine):
    engine.texts.append(None)
    image = torch.stack([torch.full((2, 4), value / 255) for value in (10, 20, 30)])
    assert DrawnText().read(image) == ""
    assert engine.seen[0].dtype == np.uint8
    assert engine.seen[0].shape == (2, 4, 3)
    assert engine.seen[0][0, 0].tolist() == [30, 20, 10]


def test_a_broken_image_is_not_read(samples, engine):
    engine.texts += [("a",)] * 5
    images = samples.images.clone()
    images[1, 0, 0, 0] = torch.nan
    scores = DrawnText("sign").score(replace(asked(samples, {"sign": "a"}, {"sign": "a"}), images=images))
    assert scores.isnan().tolist() == [False, True, False, False, False, False]


def test_it_overlaps_with_a_gpu(engine):
    assert DrawnText().overlaps(torch.device("cuda"))
    assert not DrawnText().overlaps(torch.device("cpu"))


@pytest.mark.attack("prompts", "a text to be drawn that is missing, empty, endless, no text, or grows when it is read")
@pytest.mark.parametrize(
    "text", [None, "", " \n\u3000", 7, ["a"], {"a": 1}, "a" * (LONGEST + 1), "a" + " " * LONGEST, "\ufdfa" * LONGEST]
)
def test_texts_that_are_none_are_refused(text, samples, engine):
    with pytest.raises(ValueError, match=r"field 'text' of 'a cat with grain' must be a text of 1 to 500"):
        DrawnText().score(asked(samples, {"text": "moon"}, {} if text is None else {"text": text}))
    assert engine.seen == []


def test_models_that_are_missing_are_named(engine, tmp_path):
    (tmp_path / "own").mkdir()
    with pytest.raises(ValueError, match=r"one \*_det_\*\.onnx and one \*_rec_\*\.onnx, got '.*own'"):
        DrawnText(models=str(tmp_path / "own"))
    for name in ("bad_det_a", "bad_rec_a"):
        (tmp_path / f"own/{name}.onnx").touch()
    with pytest.raises(ValueError, match=r"rapidocr cannot read .*bad_det_a\.onnx, .*: no protobuf"):
        DrawnText(models=str(tmp_path / "own")).read(torch.zeros(3, 4, 4))
    (tmp_path / "own/b_rec_b.onnx").touch()
    with pytest.raises(ValueError, match=r"and one \*_rec_\*\.onnx, got"):
        DrawnText(models=str(tmp_path / "own"))


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setattr("realgen.rewards.drawn_text.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'realgen\[ocr\]'"):
        DrawnText()


def test_threads_must_be_positive():
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        DrawnText(threads=0)


def test_rapidocr_reads_a_sign(samples):
    pytest.importorskip("rapidocr", reason="needs the extra ocr")
    picture = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(picture).text((20, 20), "OPEN 24", fill="darkred", font=ImageFont.load_default(60))
    drawn = pil_to_tensor(picture).float() / 255
    images = torch.stack([drawn, torch.full_like(drawn, 0.5)])
    signs = replace(samples, prompts=("a sign",), group_size=2, images=images, metadata=({"text": "Open 24"},))
    assert DrawnText().score(signs).tolist() == [1.0, 0.0]
