import json
import os
from dataclasses import asdict

import pytest
import torch
from torch import nn

from realgen.detectors import EffortConfig
from realgen.detectors.checkpoint import load_exactly, locate, read_config, read_state_dict, save


def test_save_writes_two_files_that_are_found_again(effort_network, tmp_path):
    folder = save(effort_network, tmp_path / "new" / "folder")
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    files = locate(str(folder))
    assert read_config(files.config, EffortConfig) == effort_network.config
    state = read_state_dict(files.weights)
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
        ("[1]", "must hold a JSON object, got list"),
        ("{", "is not JSON"),
    ],
)
def test_config_mistakes(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path / "config.json", EffortConfig)


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


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"model": {}, "extra": Payload(tmp_path / "mark")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "mark").exists()


def test_files_that_hold_no_weights(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_state_dict(tmp_path / "text.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="must hold a state dict"):
        read_state_dict(tmp_path / "list.pth")
