"""How GRPO runs on several GPUs: what each rank holds of the policy, and its checkpoints."""

from realgen.strategies.fsdp2 import FSDP2

__all__ = ["FSDP2"]
