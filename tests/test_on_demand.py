"""Frozen networks that wait on the CPU: what is copied where, and what stays as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from realgen.on_demand import on_device
from realgen.rewards import JpegSize, Realism, WeightedSum
from tests.helpers.toy_detector import ColorDetector

ELSEWHERE = torch.device("meta")


@pytest.fixture(autouse=True)
def parameters_stay_the_same() -> Iterator[None]:
    """As on a GPU: for the meta device ``nn.Module`` makes new ones unless it may swap what they hold."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


class Tied(nn.Module):
    """Two layers with one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def places(network: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*network.parameters(), *network.buffers())}


def addresses(network: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers())]


def test_a_network_is_elsewhere_inside_and_untouched_behind() -> None:
    networks = [Tied(), nn.BatchNorm1d(3)]
    before = [addresses(network) for network in networks]

    def fail() -> None:
        with on_device(networks, ELSEWHERE):
            assert [places(network) for network in networks] == [{"meta"}, {"meta"}]
            assert networks[0].first.weight is networks[0].second.weight
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert [places(network) for network in networks] == [{"cpu"}, {"cpu"}]
        assert [addresses(network) for network in networks] == before
    assert networks[0].first.weight is networks[0].second.weight
    with on_device(networks, torch.device("cpu")):
        assert [addresses(network) for network in networks] == before


def test_a_reward_that_waits_computes_where_it_was_moved_to() -> None:
    detector = ColorDetector()
    reward = WeightedSum({"realism": Realism(detector), "size": JpegSize()})
    for network in reward.networks:
        network.wait_on_cpu()
    reward.to(ELSEWHERE)
    assert (places(detector.network), detector.device) == ({"cpu"}, ELSEWHERE)
    with detector.present():
        assert places(detector.network) == {"meta"}
    assert not Realism(detector).overlaps(ELSEWHERE)
