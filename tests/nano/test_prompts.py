"""The prompt shards: what they hold, twice the same bytes, and readable by what trains on them."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from experiments.nano.captions import split_prompts
from experiments.nano.corpus import make_corpus
from experiments.nano.photographs import SUBJECTS
from experiments.nano.prompts import PHOTOGRAPH_SEED, main, write_prompts
from realgen.data.shard_paths import find_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts"))


def members(path):
    """Key -> suffix -> bytes."""
    samples = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return samples


def test_names(shards):
    folder = shards[0].parent.parent
    assert [str(path.relative_to(folder)) for path in shards] == [
        "train/train-000000.tar",
        "validation/validation-000000.tar",
    ]


@pytest.mark.parametrize(("number", "suffixes"), [(0, {"txt", "json"}), (1, {"txt", "json", "png"})])
def test_prompts_and_subjects(shards, number, suffixes):
    samples = members(shards[number]).values()
    assert all(set(sample) == suffixes for sample in samples)
    found = [(sample["txt"].decode(), json.loads(sample["json"])) for sample in samples]
    expected = [(prompt, {"subject": SUBJECTS[index].names[0]}) for index, prompt in split_prompts()[number]]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_validation_goes_round_the_subjects(shards):
    """So that the first pictures of a validation show as many subjects as there are."""
    subjects = [json.loads(sample["json"])["subject"] for sample in members(shards[1]).values()]
    assert subjects == [subject.names[0] for subject in SUBJECTS] * 4


def test_photographs_show_the_subject_of_their_prompt(shards):
    crops = make_corpus(4, seed=PHOTOGRAPH_SEED, held_out=True)
    images = [Image.open(io.BytesIO(sample["png"])) for sample in members(shards[1]).values()]
    assert {(image.format, image.mode, image.size) for image in images} == {("PNG", "RGB", (64, 64))}
    pixels = torch.stack([torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8) for image in images])
    rounds = crops.real.view(-1, 4, 3, 64, 64).transpose(0, 1).flatten(0, 1)  # first crops of all subjects, then second
    assert torch.equal(pixels.view(-1, 64, 64, 3).permute(0, 3, 1, 2), rounds)
    assert crops.subjects.view(-1, 4).T.flatten().tolist() == [*range(len(SUBJECTS))] * 4


def test_same_bytes_again(shards, tmp_path, capsys):
    main(["--output", str(tmp_path)])
    again = capsys.readouterr().out.split()
    assert len(again) == 2
    for path, other in zip(shards, again, strict=True):
        assert path.read_bytes() == (tmp_path / other).read_bytes()


def test_shipped_shards_are_these(shards, repository):
    """In what they say, not in their bytes: another processor may compress a PNG differently."""

    def content(path):
        return [
            {suffix: np.array(Image.open(io.BytesIO(data))).tolist() if suffix == "png" else data
             for suffix, data in sample.items()}
            for sample in members(path).values()
        ]  # fmt: skip

    for path in shards:
        assert content(repository / "data/prompts" / path.parent.name / path.name) == content(path)


def test_the_default_data_config_names_the_shipped_shards(repository):
    settings = yaml.safe_load((repository / "configs/data/prompts.yaml").read_text())["init_args"]
    for name in ("train", "validation"):
        found = find_shards(settings[name], argument=name)
        assert [str(path) for path in found] == [f"data/prompts/{name}/{name}-000000.tar"]
