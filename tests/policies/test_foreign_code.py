"""Model folders that bring Python files: none is run, and nothing asks on standard input whether it may."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from realgen.rewards import Alignment
from tests.helpers.forked import forked

ROOT = Path(__file__).resolve().parent.parent.parent
LOADERS = {"from_pretrained", "LLM"}
OWN_CLASS = "transformer_class"
"""A class of diffusers itself, which no file of a folder can replace, and which knows no such argument."""

CODE = """
import pathlib
pathlib.Path({ran!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PretrainedConfig
class Config(LlamaConfig):
    model_type = "foreign"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
MAPS = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that asks for its own code wherever transformers looks for one."""
    place = tmp_path / "model"
    place.mkdir()
    for name in ("code", "generate"):
        (place / f"{name}.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    (place / "custom_generate").mkdir()
    (place / "custom_generate" / "generate.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    (place / "config.json").write_text(json.dumps({"model_type": "foreign", "auto_map": MAPS}))
    tokenizer = {"tokenizer_class": "Tokenizer", "auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}}
    (place / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (place / "preprocessor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "code.Tokenizer"}}))
    (place / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "code.Tokenizer"}}))
    return place


LOADS = """
from transformers import AutoProcessor, AutoTokenizer, CLIPModel
from realgen.detectors.transformers_model import load_pretrained, load_processor
from realgen.policies import PromptPolicy
from realgen.rewards import Alignment
loads = {{
    "language model": lambda: PromptPolicy(folder).load(),
    "tokenizer": lambda: load_processor(AutoTokenizer, folder),
    "processor": lambda: load_processor(AutoProcessor, folder),
    "model of another kind": lambda: load_pretrained(CLIPModel, folder),
    "tokenizer of open_clip": lambda: Alignment(folder + "/tokenizer").build(),
    "trusted by open_clip's settings": lambda: Alignment(folder + "/trusted").build(),
    "text tower of open_clip": lambda: Alignment(folder + "/tower").build(),
}}
folder = {folder!r}
for what, load in loads.items():
    try:
        load()
    except ValueError as error:
        print(what, "refused:", error)
"""


def write_open_clip(folder: Path) -> None:
    """Folders in open_clip's layout whose text tower or tokenizer is another's, the second one with leave."""
    import open_clip
    import torch

    text: dict[str, Any] = {"context_length": 8, "width": 8, "heads": 1, "layers": 1, "vocab_size": 8}
    vision = {"image_size": 8, "layers": 1, "width": 64, "patch_size": 8}
    weights = open_clip.CLIP(8, vision, text).state_dict()
    ways = {
        "tokenizer": {"hf_tokenizer_name": "x"},
        "trusted": {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
        "tower": {"hf_tokenizer_name": "x", "hf_model_name": str(folder), "hf_model_pretrained": False},
    }
    for name, more in ways.items():
        place = folder / name
        place.mkdir()
        for path in folder.iterdir():
            if path.is_file():
                shutil.copy(path, place)
        config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text | more}
        (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        torch.save(weights, place / "open_clip_pytorch_model.bin")


def run(code: str) -> str:
    return forked(lambda: exec(code, {}), ROOT, given="y\n" * 20).stdout


@pytest.mark.attack("model folders", "Python files in a folder of any kind, and yes on standard input")
def test_code_of_a_folder_is_not_run(folder: Path) -> None:
    write_open_clip(folder)
    said = run(LOADS.format(folder=str(folder)))
    assert said.count("refused:") == 7, said
    assert "Do you wish to run the custom code" not in said
    assert not (folder.parent / "ran").exists()


def test_a_config_key_lets_a_language_model_bring_its_code(folder: Path) -> None:
    run(f"from realgen.policies import PromptPolicy; PromptPolicy({str(folder)!r}, trust_remote_code=True).load()")
    assert (folder.parent / "ran").exists()


def test_open_clip_takes_no_scheme_beside_a_folder() -> None:
    with pytest.raises(ValueError, match=r"model must be a folder with .*, or an open_clip name"):
        Alignment("hf-hub:someone/model", pretrained="weights.pt")


def loading_calls(source: str) -> list[tuple[int, str | None]]:
    """Line of each call that loads a model in transformers' or diffusers' way, and what it says of foreign code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in LOADERS:
            if f".{OWN_CLASS}." in ast.unparse(node.func):
                continue
            said = [ast.unparse(word.value) for word in node.keywords if word.arg == "trust_remote_code"]
            found.append((node.lineno, said[0] if said else None))
    return found


def test_loading_calls_are_found() -> None:
    source = "A.from_pretrained(x)\nB.from_pretrained(x, trust_remote_code=False)\nLLM(trust_remote_code=True)"
    assert loading_calls(source) == [(1, None), (2, "False"), (3, "True")]


def test_every_loading_call_says_whether_foreign_code_is_run() -> None:
    calls = {
        f"{path.relative_to(ROOT)}:{line}": said
        for path in sorted((ROOT / "realgen").rglob("*.py"))
        for line, said in loading_calls(path.read_text())
    }
    assert len(calls) >= 6
    asked = {place for place, said in calls.items() if said == "trust_remote_code"}
    assert {place.partition(":")[0] for place in asked} == {"realgen/policies/language_model.py"}
    assert {place: said for place, said in calls.items() if said != "False" and place not in asked} == {}
