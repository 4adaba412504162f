"""GRPO variants, one per file: rewards to advantages, scored decisions to a loss."""

from realgen.objectives.base import Objective
from realgen.objectives.crd import CRD
from realgen.objectives.dgpo import DGPO
from realgen.objectives.diffusion_nft import DiffusionNFT
from realgen.objectives.flow_dppo import FlowDPPO
from realgen.objectives.forward_process import ForwardProcess
from realgen.objectives.grpo import GRPO
from realgen.objectives.grpo_guard import GRPOGuard
from realgen.objectives.gspo import GSPO
from realgen.objectives.pepg import PEPG
from realgen.objectives.ram import RAM
from realgen.objectives.tempflow import TempFlowGRPO

__all__ = [
    "CRD",
    "DGPO",
    "GRPO",
    "GSPO",
    "PEPG",
    "RAM",
    "DiffusionNFT",
    "FlowDPPO",
    "ForwardProcess",
    "GRPOGuard",
    "Objective",
    "TempFlowGRPO",
]
