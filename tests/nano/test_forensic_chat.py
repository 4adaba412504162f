"""The nano Forensic-Chat: a Qwen2.5-VL that transformers reads, and what it is trained on."""

import json
import math
from pathlib import Path

import pytest
import torch

from experiments.nano import detectors, forensic_chat
from experiments.nano.corpus import HELD_OUT_CROPS
from experiments.nano.detectors import HELD_OUT_SAMPLES, SEEDS, Pictures
from experiments.nano.forensic_chat import (
    SEED,
    answer_loss,
    answer_targets,
    build_network,
    build_processor,
    build_tokenizer,
    main,
    make_forensic_chat,
    train,
)
from realgen.detectors import ForensicChat
from realgen.detectors.forensic_chat import QUESTION
from realgen.functional.corruptions import CHEATS


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network()


@pytest.fixture
def pictures():
    return Pictures(*torch.randint(0, 256, (4, 9, 3, 64, 64), dtype=torch.uint8).unbind())


def test_tokenizer_is_always_the_same_and_loses_nothing():
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    text = "Ünïcode, 中文 and\nnew lines"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    special = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert all(len(tokenizer.encode(token)) == 1 for token in special)
    assert len(tokenizer.encode(QUESTION)) == len(QUESTION.split()) + QUESTION.count(".") + QUESTION.count("?")


def test_conversation_is_qwens():
    """Against the text that the published template gives, written out."""
    processor = build_processor()
    content = [{"type": "image"}, {"type": "text", "text": "Why?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    user = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Why?<|im_end|>\n"
    assert text == f"{system}{user}<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    text = processor.apply_chat_template(own)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"


def test_picture_is_sixteen_tokens_and_the_model_small(network):
    inputs = network.inputs(torch.rand(1, 3, 64, 64))
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert (inputs["input_ids"] == network.model.config.image_token_id).sum() == 16
    assert sum(parameter.numel() for parameter in network.model.parameters()) * 2 <= 3e6


def test_targets_by_hand(network):
    targets = answer_targets(torch.tensor([0.0, 1.0]), network, vocabulary=400)
    spellings = {"real": 0.475, "Real": 0.475, "fake": 0.025, "Fake": 0.025}
    ids = network.processor.tokenizer.convert_tokens_to_ids(list(spellings))
    torch.testing.assert_close(targets[0, ids], torch.tensor(list(spellings.values())))
    torch.testing.assert_close(targets[1, ids], torch.tensor([0.025, 0.025, 0.475, 0.475]))
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    # at these targets' optimum the published rule answers the soft label
    logits = targets[1, ids].log()
    torch.testing.assert_close(torch.sigmoid(logits[2:].mean() - logits[:2].mean()), torch.tensor(0.95))


def test_loss_by_hand():
    """Two image tokens say nothing (ln 4 each), the prompt's end is sure of the right one of four words, or not."""
    targets = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    logits = torch.zeros(1, 5, 4)
    assert answer_loss(logits, targets, image_tokens=2) == pytest.approx(math.log(4))
    logits[0, -1, 1] = 100.0
    assert answer_loss(logits, targets, image_tokens=2) == pytest.approx(math.log(4) / 2)
    logits[0, 2:4] = 7.0 * torch.arange(4)  # what stands between does not count
    assert answer_loss(logits, targets, image_tokens=2) == pytest.approx(math.log(4) / 2)
    logits[0, :2, 1] = 100.0
    assert answer_loss(logits, targets, image_tokens=2) == pytest.approx(0.0)


def test_patches_start_as_cosine_filters_of_a_still_picture(network):
    """The first filter is the mean brightness: norm 1/4 in one frame, shared by both."""
    first = network.model.get_submodule("model.visual.patch_embed.proj").weight[0]
    torch.testing.assert_close(first, torch.full((3, 2, 8, 8), 1 / 8 / 4 / 2))


def test_it_learns(pictures, tmp_path, monkeypatch):
    """Black pictures are real and white ones fake: 12 steps tell them apart."""
    torch.manual_seed(0)
    network = build_network()
    black, white = torch.zeros(8, 3, 64, 64), torch.ones(8, 3, 64, 64)
    labels = torch.cat([torch.zeros(8), torch.ones(8)])
    monkeypatch.setattr(forensic_chat, "draw_batch", lambda *_: (torch.cat([black, white]), labels))
    monkeypatch.setattr(forensic_chat, "AVERAGE", 0.5)
    train(network, pictures, tmp_path, steps=12, batch_size=16, seed=0)
    with torch.no_grad():
        p_fake = network.eval()(torch.cat([black[:1], white[:1]])).softmax(-1)[:, 1]
    assert p_fake[0] < 0.3
    assert p_fake[1] > 0.7


def test_the_folder_is_whole(pictures, tmp_path, monkeypatch):
    for module in (forensic_chat, detectors):  # to train and to evaluate on
        monkeypatch.setattr(module, "make_pictures", lambda *_, **__: pictures)
    figures = make_forensic_chat(tmp_path, pretrained=Path("none"), steps=1, batch_size=16)
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    names = {"balanced_accuracy", "real_crops", "real_round_trip", "real_jpeg_75"}
    names |= {"fake_samples", "fake_samples_jpeg_75", "fake_ai_looking"} | {f"fake_{name}" for name in CHEATS}
    assert set(figures) == names
    assert (tmp_path / "model.safetensors").stat().st_size <= 3e6
    assert ForensicChat(str(tmp_path))(torch.rand(2, 3, 64, 64)).shape == (2,)


def test_the_shipped_one_is_good_enough(nano):
    figures = json.loads((nano / "forensic_chat" / "figures.json").read_text())
    assert figures["balanced_accuracy"] >= 0.85
    assert {f"fake_{name}" for name in CHEATS} <= set(figures)
    assert (nano / "forensic_chat" / "model.safetensors").stat().st_size <= 3e6


def test_seed_is_its_own():
    assert SEED not in SEEDS.values()


def test_command_line_hands_on_its_arguments(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(forensic_chat, "make_forensic_chat", lambda **given: seen.append(given) or {"fake_blur": 1.0})
    main(["--output", "there", "--samples", "5"])
    assert seen == [
        {
            "output": Path("there"),
            "pretrained": Path("data/nano/sd3"),
            "crops": forensic_chat.CROPS,
            "samples": 5,
            "held_out_crops": HELD_OUT_CROPS,
            "held_out_samples": HELD_OUT_SAMPLES,
            "steps": forensic_chat.STEPS,
            "batch_size": forensic_chat.BATCH_SIZE,
        }
    ]
    assert json.loads(capsys.readouterr().out) == {"fake_blur": 1.0}
