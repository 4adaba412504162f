"""Samples of given images and rewrites, a detector that answers by brightness, and a tiny open_clip model on disk."""

import json
from dataclasses import replace

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from realgen.detectors import Detector
from realgen.types import Rewrite, Samples

WORDS = ["<pad>", "<unk>", "<start>", "a", "photo", "of", "the", "moon", "cat", "with", "grain", "<end>"]
PREPROCESS = {
    "size": 32,
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


class Brightness(Detector):
    """``p_fake`` = mean of the pixels."""

    def build(self):
        return nn.Linear(1, 1)

    def p_fake(self, network, images):
        return images.mean((1, 2, 3))


@pytest.fixture
def brightness():
    return Brightness()


@pytest.fixture
def make_samples():
    def make(images, prompts, group_size):
        return Samples(prompts=tuple(prompts), group_size=group_size, images=images)

    return make


@pytest.fixture
def samples(make_samples):
    """Two prompts, three images each; image i is flat at i / 10."""
    images = (torch.arange(6) / 10).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    return make_samples(images, ["a photo of the moon", "a cat with grain"], group_size=3)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A random CLIP in open_clip's local-dir layout, with a word tokenizer whose end token has the largest id."""
    folder = tmp_path_factory.mktemp("clip")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, WORDS.index(word)) for word in ("<start>", "<end>")]
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": 8,
            "vocab_size": len(WORDS),
            "hf_tokenizer_name": "here",
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    whole = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}")
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in model.state_dict().items()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def scrambled(network, seed=1, amount=0.1):
    """The network with every weight moved, so that no two inputs look alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="session")
def architecture(tmp_path_factory):
    """Name of a tiny architecture that open_clip knows from now on, with OpenAI's tokenizer and quick GELU."""
    name = "realgen-test-plain-clip"
    config = {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder = tmp_path_factory.mktemp("architectures")
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return name


@pytest.fixture(scope="session")
def plain_clip(architecture):
    """A random open_clip model of that architecture."""
    torch.manual_seed(0)
    return scrambled(open_clip.CLIP(**open_clip.get_model_config(architecture)))


@pytest.fixture(scope="session")
def transformers_clip(tmp_path_factory):
    """A random ``CLIPModel`` with a word tokenizer and its image processor, as transformers saves them."""
    folder = tmp_path_factory.mktemp("transformers_clip")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, WORDS.index(word)) for word in ("<start>", "<end>")]
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<end>", unk_token="<unk>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(WORDS), "max_position_embeddings": 10, "eos_token_id": len(WORDS) - 1}
    config = CLIPConfig(
        text_config={**text, "bos_token_id": 2, "pad_token_id": len(WORDS) - 1},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    scrambled(CLIPModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def rewritten(samples):
    """Makes the samples' rewrites of texts; ``None`` stands for a broken format, the prompt itself for not called."""

    def make(texts):
        rewrites = tuple(
            Rewrite(
                text=text or prompt,
                completion="" if text == prompt else f"<think>-</think><answer>{text}</answer>" if text else "-",
                formatted=text not in {None, prompt},
                truncated=False,
                skipped=text == prompt,
            )
            for prompt, text in zip(samples.row_prompts, texts, strict=True)
        )
        return replace(samples, rewrites=rewrites)

    return make
