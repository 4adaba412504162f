"""Forensic-Chat against plain transformers with PIL pictures, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from experiments.nano.corpus import make_corpus
from experiments.nano.detectors import draw_samples
from realgen.detectors import ForensicChat
from realgen.functional.images import from_uint8, to_uint8

WORDS = ("fake", "Fake", "real", "Real")


@pytest.fixture
def folder(tiny_forensicchat):
    return Path(tiny_forensicchat.pretrained)


@pytest.fixture
def network(tiny_forensicchat):
    return tiny_forensicchat.network


def pil(image):
    return Image.fromarray(to_uint8(image).permute(1, 2, 0).numpy())


@torch.no_grad()
def plain_logits(folder, image, question):
    """Logits of the four words after the prompt, by transformers alone on a PIL picture."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image", "image": pil(image)}, {"type": "text", "text": question}]
    encoded = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    logits = model(**encoded).logits[0, -1]
    return {word: float(logits[processor.tokenizer.convert_tokens_to_ids(word)]) for word in WORDS}


def test_published_rule_by_plain_transformers(folder, images):
    question = "A photograph, or drawn by a machine? real or fake?"
    plain = [plain_logits(folder, image, question) for image in images[:3]]
    f, g = (torch.tensor([(p[low] + p[high]) / 2 for p in plain]) for low, high in (("fake", "Fake"), ("real", "Real")))
    reward = g.exp() / (f.exp() + g.exp())
    assert reward.std() > 1e-3
    p_fake = ForensicChat(str(folder), question=question, dtype="float32")(images[:3])
    torch.testing.assert_close(1 - p_fake, reward, atol=1e-5, rtol=0)


def test_spellings_are_averaged_as_logits_and_can_be_chosen(folder, images):
    plain = plain_logits(folder, images[0], "fake?")
    detector = ForensicChat(str(folder), "fake?", dtype="float32", real_words=("Real",), fake_words=("Fake", "fake"))
    logits = detector.network(images[:1])[0].tolist()
    assert logits == pytest.approx([plain["Real"], (plain["Fake"] + plain["fake"]) / 2], abs=1e-4)


def test_question_reaches_the_prompt(folder, images):
    one, other = (ForensicChat(str(folder), question=text, dtype="float32") for text in ("Is it real?", "Is it fake?"))
    tokenizer = one.network.processor.tokenizer
    text = tokenizer.decode(one.network.inputs(images[:1])["input_ids"][0])
    assert "<|vision_end|>Is it real?<|im_end|>\n<|im_start|>assistant\n" in text
    assert text.endswith("assistant\n")
    assert text.count("<|im_start|>system") == 1
    assert (one(images) - other(images)).abs().max() > 1e-3


def test_images_of_many_sizes_are_padded_on_the_left(network):
    # 40 x 48 pixels grow to 64 x 80 (20 tokens), 64 x 64 stay (16), 80 x 160 shrink to 32 x 80 (10)
    pictures = [torch.rand(3, *size) for size in ((40, 48), (64, 64), (80, 160))]
    inputs = network.inputs(pictures)
    pad = network.processor.tokenizer.pad_token_id
    padding = (inputs["input_ids"] == pad).sum(1)
    assert padding.tolist() == [0, 4, 10]
    for row, count in zip(inputs["input_ids"], padding.tolist(), strict=True):
        assert bool((row[:count] == pad).all())
    assert (inputs["attention_mask"] == 0).sum(1).tolist() == [0, 4, 10]
    assert inputs["input_ids"][:, -20:].unique(dim=0).shape[0] == 1
    with torch.no_grad():
        together, alone = network(pictures), torch.cat([network([picture]) for picture in pictures])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.std() > 1e-3


def test_pixels_are_those_of_the_pil_processor(network, images):
    """Bicubic kernels differ by one level in 255 at most, and hardly ever."""
    sizes = {"patch_size": 8, "min_pixels": 4096, "max_pixels": 4096}
    expected = Qwen2VLImageProcessorPil(**sizes)([pil(image) for image in images], return_tensors="pt")["pixel_values"]
    pixels = network.inputs(images)["pixel_values"]
    gap = (pixels - expected).abs() * 255 * 0.27577711
    assert gap.max() <= 1.1
    assert gap.mean() < 0.1


@pytest.mark.parametrize(("limits", "grid"), [({}, [8, 8]), ({"min_pixels": 1, "max_pixels": 1024}, [4, 4])])
def test_pixel_limits(folder, limits, grid):
    network = ForensicChat(str(folder), dtype="float32", **limits).network
    assert network.inputs(torch.rand(1, 3, 64, 64))["image_grid_thw"].tolist() == [[1, *grid]]


def test_bfloat16_weights_and_float32_logits(folder, tiny_forensicchat, images):
    detector = ForensicChat(str(folder))
    assert {parameter.dtype for parameter in detector.network.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        logits = detector.network(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(detector(images), tiny_forensicchat(images), atol=0.05, rtol=0)


@pytest.mark.parametrize("template_file", ["chat_template.json", "tokenizer_config.json"])
def test_reads_the_layout_that_qwen_published(folder, tiny_forensicchat, images, tmp_path, template_file):
    """As transformers 4 wrote it: a flat config, weights in shards, a preprocessor config, the template elsewhere."""
    old = tmp_path / "published"
    old.mkdir()
    config = json.loads((folder / "config.json").read_text())
    text, vision = config.pop("text_config"), config.pop("vision_config")
    rope = text.pop("rope_parameters")
    text = {name: value for name, value in text.items() if name not in {"model_type", "layer_types", "dtype"}}
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    flat = {**config, **text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling, "torch_dtype": "float32"}
    vision = {**vision, "model_type": "qwen2_5_vl", "in_chans": 3}
    del vision["rope_parameters"]
    (old / "config.json").write_text(json.dumps({**flat, "vision_config": vision}))
    state = load_file(folder / "model.safetensors")
    assert {name.partition(".")[0] for name in state} == {"model", "visual"}  # where the published weights have them
    index = {}
    for number, part in enumerate(("model", "visual"), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        shard = {name: value for name, value in state.items() if name.startswith(part)}
        save_file(shard, old / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
    (old / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    image = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    size = image.pop("size")
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    (old / "preprocessor_config.json").write_text(
        json.dumps({**image, **limits, "processor_class": "Qwen2_5_VLProcessor"})
    )
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (old / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "padding_side": "right"}))
    shutil.copy(folder / "tokenizer.json", old)
    template = {"chat_template": (folder / "chat_template.jinja").read_text()}
    there = json.loads((old / template_file).read_text()) if (old / template_file).exists() else {}
    (old / template_file).write_text(json.dumps(there | template))
    p_fake = ForensicChat(str(old), dtype="float32", batch_size=4)(images)
    torch.testing.assert_close(p_fake, tiny_forensicchat(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("words", ["real_words", "fake_words"])
def test_a_word_of_several_tokens_is_named(folder, words):
    detector = ForensicChat(str(folder), **{words: ("fake", "counterfeit")})
    with pytest.raises(ValueError, match=rf"{words} must be words of one token each; 'counterfeit' is \d+ tokens"):
        detector.build()
    with pytest.raises(ValueError, match=f"{words} must hold at least one word"):
        ForensicChat(str(folder), **{words: ()}).build()


@pytest.mark.parametrize("missing", ["data/nano/nothing", "./nothing", "/nothing/here", "nothing", ""])
def test_a_missing_folder_says_what_to_do(missing, repository):
    with pytest.raises(ValueError, match=r"there is no folder .*\. The nano one is trained .* -m experiments") as error:
        ForensicChat(missing)
    assert "\n" not in str(error.value)


def test_the_missing_folder_of_the_published_model_has_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(ValueError, match=r"'models/forensic_chat'\. Fetch it .* lokiz666/.*--dry-run` tells"):
        ForensicChat("models/forensic_chat")


def test_a_hub_id_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    detector = ForensicChat("nobody/nothing-of-that-name")
    with pytest.raises(
        ValueError,
        match=r"must hold a Qwen-VL, .*'nobody/nothing-of-that-name'.*hf download nobody/nothing-of-that-name",
    ) as error:
        detector.build()
    assert "\n" not in str(error.value)


def test_a_folder_of_something_else(nano, tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with config\.json"):
        ForensicChat(str(tmp_path))
    with pytest.raises(ValueError, match=r"has model_type 'clip_text_model'"):
        ForensicChat(str(nano / "sd3" / "text_encoder")).build()


def test_a_folder_without_a_processor(folder):
    for path in folder.glob("*processor*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"must hold a Qwen-VL, from 2\.5 on, and its processor"):
        ForensicChat(str(folder)).build()


@pytest.mark.parametrize("problem", ["missing", "unknown", "of another shape"])
def test_weights_that_do_not_fit_are_refused_by_name(folder, problem):
    name = "visual.blocks.0.attn.proj.weight"
    state = load_file(folder / "model.safetensors")
    weight = state.pop(name)
    if problem != "missing":
        state[name] = weight[:-1].clone() if problem == "of another shape" else weight
    if problem == "unknown":
        name = "visual.blocks.7.attn.proj.weight"
        state[name] = weight.clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"does not fit Qwen2_5_VLForConditionalGeneration; {problem}: .*{name}"):
        ForensicChat(str(folder)).build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " "}, "question must be a text"),
        ({"min_pixels": 0}, "min_pixels must be at least 1"),
        ({"max_pixels": 0}, "max_pixels no smaller, got None and 0"),
        ({"min_pixels": 100, "max_pixels": 99}, "max_pixels no smaller, got 100 and 99"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_refuses_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        ForensicChat(str(folder), **arguments)


def test_the_shipped_model_tells_photographs_from_samples(nano):
    photographs = from_uint8(make_corpus(1, seed=31337, held_out=True).real)
    prompts = ["a cat", "a cup of coffee", "coins", "grass", "a brick wall", "a rocket"]
    samples = from_uint8(draw_samples(nano / "sd3", prompts, seed=31337))
    detector = ForensicChat(str(nano / "forensic_chat"), dtype="float32")
    assert detector(photographs).mean() < 0.35
    assert detector(samples).mean() > 0.65
