import json
import os
import pickle
import random
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from realgen.detectors import Effort, EffortConfig, OmniAIDConfig
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict, save


def test_save_writes_two_files_that_are_found_again(effort_network, tmp_path):
    folder = save(effort_network, tmp_path / "new" / "folder")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    weights, config = locate(str(folder))
    assert read_config(config, EffortConfig) == effort_network.config
    state = read_state_dict(Path(weights))
    assert state.keys() == effort_network.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in effort_network.state_dict().items())


def test_what_is_not_there_is_named(effort_network, tmp_path):
    with pytest.raises(ValueError, match="'no/such/place' does not exist"):
        locate("no/such/place")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' has no model\.safetensors"):
        locate(str(tmp_path / "empty"))
    folder = save(effort_network, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"needs its network's config; .*config.json' does not exist"):
        locate(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hidden_sise": 8}', "'hidden_sise', which EffortConfig does not know; nearest: hidden_size"),
        ('{"zzz": 8}', "'zzz', which EffortConfig does not know; known: hidden_size, "),
        ('{"rank": "1"}', "rank must be int, got '1'"),
        ('{"rank": true}', "rank must be int, got True"),
        ('{"layer_norm_eps": "small"}', "layer_norm_eps must be float, got 'small'"),
        ("[1]", "must hold a JSON object, got list"),
        ("{", "is not JSON"),
    ],
)
def test_config_mistakes(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "config.json", EffortConfig)


@pytest.mark.attack("weights", "a config.json of deep lists, endless numbers, or that is no file")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "config.json is not JSON: it is nested deeper than 64 levels"),
        ('{"rank": ' + "[" * 100 + "]" * 100 + "}", "config.json is not JSON: it is nested deeper than 64 levels"),
        ('{"rank": ' + "9" * 5000 + "}", "config.json is not JSON: Exceeds the limit"),
        ('{"layer_norm_eps": ' + "9" * 400 + "}", "config.json: layer_norm_eps must be float, got 99"),
        ('{"rank": "\xff"}', "config.json is not JSON: it is not UTF-8"),
        (None, "config.json: the file cannot be read .it is no regular file"),
    ],
)
def test_hostile_configs_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "config.json"
    os.mkfifo(path) if text is None else path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        read_config(path, EffortConfig)


def test_config_keys_left_out_keep_their_defaults(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"rank": 2}))
    assert asdict(read_config(tmp_path / "config.json", EffortConfig)) == {**asdict(EffortConfig()), "rank": 2}


def test_weights_that_do_not_fit_are_named(tmp_path):
    network = nn.Linear(2, 3)
    state = {"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}
    with pytest.raises(ValueError, match="does not fit Linear") as error:
        load_exactly(network, state, tmp_path / "file")
    assert "missing: bias" in str(error.value)
    assert "unknown: extra" in str(error.value)
    assert "of another shape: weight (3, 4) (expected (3, 2))" in str(error.value)


def test_ignored_weights_are_not_missed_and_not_loaded(tmp_path):
    network = nn.Linear(2, 2)
    state = {"weight": torch.ones(2, 2), "bias": torch.ones(2), "deep.U_r": torch.zeros(9)}
    load_exactly(network, state, tmp_path, ignored=("U_r",))
    assert torch.equal(network.weight, torch.ones(2, 2))


def test_many_names_are_cut_short(tmp_path):
    with pytest.raises(ValueError, match="and 12 more"):
        load_exactly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(10))), {}, tmp_path)


class Payload:
    """Pickles to a call that leaves a mark when it is run."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def one_line(path):
    """What reading the file says."""
    with pytest.raises(ValueError, match=str(path)) as error:
        read_state_dict(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.attack("weights", "code in a .pth file")
def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"model": {}, "extra": Payload(tmp_path / "mark")}, tmp_path / "bad.pth")
    message = one_line(tmp_path / "bad.pth")
    assert "refers to posix.mkdir, which is not run; save the state dict as safetensors" in message
    assert not (tmp_path / "mark").exists()


@pytest.mark.attack("weights", "a bare pickle named .pth")
@pytest.mark.filterwarnings("ignore")  # torch's, about the protocol of the pickle
def test_a_bare_pickle_is_not_run(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    assert "cannot be read as weights alone" in one_line(tmp_path / "bad.pth")
    assert not (tmp_path / "mark").exists()


@pytest.mark.attack("weights", "a file that is cut off")
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_cut_short(effort_network, tmp_path, suffix, share):
    path = tmp_path / f"file{suffix}"
    state = effort_network.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    one_line(path)


@pytest.mark.attack("weights", "flipped bytes")
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's, about the protocol that a flipped byte seems to name
def test_flipped_bytes_are_read_or_refused(tmp_path, legacy):
    """Whatever the unpickler stumbles over; a zip file notices by its checksums, a file of old torch may not."""
    generator, path, messages = random.Random(0), tmp_path / "file.pth", []
    torch.save({f"{i}": torch.randn(4) for i in range(4)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(5):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        path.write_bytes(broken)
        try:
            read_state_dict(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_files_that_hold_no_weights(tmp_path, name):
    (tmp_path / name).write_text("no weights")
    one_line(tmp_path / name)


@pytest.mark.attack("weights", "a file that holds other things")
def test_files_that_hold_other_things(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "must hold a state dict" in one_line(tmp_path / "list.pth")
    torch.save({"module.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "twice.pth")
    assert "holds weights twice" in one_line(tmp_path / "twice.pth")


@pytest.mark.attack("weights", "weights that are no numbers")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named(tmp_path, value):
    with pytest.raises(ValueError, match=r"does not fit Linear; not finite: bias\."):
        load_exactly(nn.Linear(1, 1), {"weight": torch.ones(1, 1), "bias": torch.full((1,), value)}, tmp_path)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_wrapped_state_dicts_are_found(tmp_path, key):
    torch.save({key: {"module.vision_model.a": torch.ones(1)}, "epoch": 1}, tmp_path / "file.pth")
    assert read_state_dict(tmp_path / "file.pth") == {"a": torch.ones(1)}


def test_a_config_can_be_given_in_place_of_a_file(effort_network, tmp_path):
    given = replace(effort_network.config, rank=5)
    assert read_config(locate(str(save(effort_network, tmp_path)), given)[1], EffortConfig).rank == 5
    with pytest.raises(TypeError, match=r"config must be an EffortConfig, got OmniAIDConfig\("):
        read_config(OmniAIDConfig(), EffortConfig)


def test_a_merged_network_is_not_saved(effort_network, tmp_path):
    with pytest.raises(ValueError, match="a merged EffortNetwork cannot be saved"):
        save(effort_network.merge(), tmp_path)


@pytest.mark.attack("weights", "a detector's config.json that asks for more than all memory")
def test_a_config_is_held_against_the_weights_before_anything_is_allocated(effort_network, tmp_path):
    folder = save(effort_network, tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "intermediate_size": 10**12}))
    with pytest.raises(ValueError, match="of another shape"):
        Effort(str(folder)).build()


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads what Linux tells of mapped files")
def test_weights_are_mapped_and_not_read_into_memory(effort_network, tmp_path):
    state = effort_network.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)  # cannot be mapped, and is read
    for name, mapped in (("w.safetensors", True), ("w.pth", True), ("old.pth", False)):
        read = read_state_dict(tmp_path / name)
        with open("/proc/self/maps") as maps:
            assert (str(tmp_path / name) in maps.read()) == mapped
        assert all(torch.equal(value, read[key]) for key, value in state.items())


def test_a_network_does_not_hang_on_the_file_that_it_was_read_from(effort_network, tmp_path):
    """Weights are copied out of the mapping: a file may be replaced while its detector lives."""
    torch.save(effort_network.state_dict(), tmp_path / "w.pth")
    expected = {name: value.clone() for name, value in effort_network.state_dict().items()}
    load_exactly(effort_network, read_state_dict(tmp_path / "w.pth"), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"")
    assert all(torch.equal(value, expected[name]) for name, value in effort_network.state_dict().items())


def test_a_detector_on_the_hub_is_fetched_when_it_is_read(effort_network, tmp_path, monkeypatch) -> None:
    """Not by its constructor; and its config is given, as there is none beside it."""
    folder, asked = save(effort_network, tmp_path), []
    address = "hf-hub:someone/detectors/effort/model.safetensors"
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda *words: asked.append(words) or str(folder / "model.safetensors")
    )
    with pytest.raises(ValueError, match="needs its network's config; give config, or a JSON file"):
        Effort(address)
    with pytest.raises(
        ValueError, match="checkpoint must be a file, or hf-hub:OWNER/REPOSITORY/FILE; got 'hf-hub:a/b'"
    ):
        Effort("hf-hub:a/b", config=str(folder / "config.json"))
    detector = Effort(address, config=str(folder / "config.json"))
    assert asked == []
    read = detector.build()
    assert asked == [("someone/detectors", "effort/model.safetensors")]
    assert all(torch.equal(weight, read.state_dict()[name]) for name, weight in effort_network.state_dict().items())


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [
        (
            "models/checkpoint_omniaid_v2.pth",
            "hf download Yunncheng/OmniAID ckpt/checkpoint_omniaid_v2.pth .*--dry-run",
        ),
        ("models/omniaid_realgen.pth", "hf download lokiz666/Realgen-detection-models .* and move its file there"),
        ("models/effort.pth", "https://github.com/YZY-stack/Effort-AIGI-Detection says where it is"),
    ],
)
def test_published_weights_that_are_missing_are_named_with_their_command(checkpoint, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"{checkpoint}' does not exist\. .*{told}"):
        locate(checkpoint)


def test_a_file_of_one_s_own_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'models/mine.safetensors' does not exist\.$"):
        locate("models/mine.safetensors")
