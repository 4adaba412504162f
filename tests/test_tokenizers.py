"""A tokenizer that does not belong to its text encoder is refused, wherever one is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from realgen.checks import check_tokenizer
from realgen.detectors import ForensicChat
from realgen.policies.backbones import SD3
from realgen.policies.language_model import load_language_model
from realgen.rewards import Alignment, VlmRating

NANO = Path("data/nano")
READERS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "diffusion": ("sd3", "tokenizer_2", lambda folder: SD3(folder).load()),
    "language model": ("llm", ".", lambda folder: load_language_model(folder, torch.float32, local_files_only=True)),
    "CLIP": ("clip", ".", lambda folder: Alignment(folder).build()),
    "rating": ("forensic_chat", ".", lambda folder: VlmRating(folder).build()),
    "Forensic-Chat": ("forensic_chat", ".", lambda folder: ForensicChat(folder).build()),
}
each_reader = pytest.mark.parametrize(("model", "inside", "read"), READERS.values(), ids=list(READERS))


@each_reader
def test_a_folder_without_its_file(model: str, inside: str, read: Callable[[str], Any], tmp_path: Path) -> None:
    folder = shutil.copytree(NANO / model, tmp_path / model)
    (folder / inside / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json") as found:
        read(str(folder))
    assert str((folder / inside).resolve()) in str(found.value)


@each_reader
def test_a_tokenizer_of_two_words(model: str, inside: str, read: Callable[[str], Any], tmp_path: Path) -> None:
    folder = shutil.copytree(NANO / model, tmp_path / model)
    file = folder / inside / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] = {"type": "WordLevel", "vocab": {"<unk>": 0, "<|endoftext|>": 1}, "unk_token": "<unk>"}
    content["added_tokens"] = []
    file.write_text(json.dumps(content))
    settings = folder / inside / "tokenizer_config.json"
    other = {"tokenizer_class": "TokenizersBackend", "unk_token": "<unk>"}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **other}))
    with pytest.raises(ValueError, match=r"its tokenizer\.json is not that of the model"):
        read(str(folder))


class Words:
    """A tokenizer of whole words."""

    unk_token_id = 0

    def __init__(self, words: list[str], name_or_path: str = "org/model") -> None:
        self.words, self.name_or_path = words, name_or_path

    def __len__(self) -> int:
        return len(self.words) + 1

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.words.index(word) + 1 if word in self.words else 0 for word in text.split()]}


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        (["a", "photo", "of", "two", "dogs", "on", "the", "grass"], 8, "has 9 tokens, and its text encoder knows 8"),
        (["a", "photo"], 9, "knows 2 of the 8 tokens of 'a photo of two dogs on the grass'"),
    ],
)
def test_what_it_is_held_against(words: list[str], rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^processor: the Words in org/model {message}"):
        check_tokenizer(Words(words), rows, "processor")


def test_one_that_knows_most_words_passes() -> None:
    check_tokenizer(Words(["a", "photo", "of", "on", "the"]), 9)
