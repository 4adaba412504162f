"""Two gloo processes, weights sharded by FSDP2, against the same policy in one piece."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from realgen.functional.flow_sde import FlowSDE
from realgen.parallel import whole
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones import SD3
from realgen.policies.compiled_blocks import compile_blocks

pytestmark = pytest.mark.distributed
PROMPTS = ["a red fox", "old harbour"]


def make(directory: str, lora: LoRA | None, *, guidance_scale: float = 3.0, **settings: Any) -> DiffusionPolicy:
    defaults = {"num_steps": 4, "samples_per_noise": 2, "rollout_batch_size": 5, "step_window": RandomWindow(2)}
    policy = DiffusionPolicy(
        SD3(directory, guidance_scale=guidance_scale, max_sequence_length=4),
        transition=FlowSDE(0.7),
        height=16,
        width=16,
        lora=lora,
        **{**defaults, **settings},
    )
    policy.load()
    return policy


def start(rank: int, port: int) -> DeviceMesh:
    """Join the other rank."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    return init_device_mesh("cpu", (2,))


def shard(policy: DiffusionPolicy, mesh: DeviceMesh) -> None:
    for block in policy.backbone.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(policy.transformer, mesh=mesh, reshard_after_forward=True)


def end() -> None:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def compare(rank: int, port: int, directory: str, lora: LoRA | None, output: Path) -> None:
    """One rank: rollout, score, backward, reference, update and export, sharded and not; each rank its own noise."""
    mesh = start(rank, port)
    policies = sharded, _ = make(directory, lora), make(directory, lora)
    shard(sharded, mesh)
    images, log_probs = [], []
    for policy in policies:
        rollout = policy.rollout(PROMPTS, 4, generator=torch.Generator().manual_seed(rank))
        score = policy.score(rollout, torch.arange(8))
        assert (score.log_probs - rollout.sampled.log_probs).abs().max() < 1e-6
        score.log_probs.sum().backward()
        images.append(rollout.images)
        log_probs.append(score.log_probs.detach())
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(log_probs[0], log_probs[1], rtol=0, atol=1e-6)
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, rollout.policy_state["step_indices"].tolist())
    assert gathered[0] != gathered[1]  # the ranks' rows branched at different steps
    for left, right in zip(*(policy.trainable_parameters().values() for policy in policies), strict=True):
        torch.distributed.all_reduce(right.grad)
        right.grad /= 2
        torch.testing.assert_close(whole(left.grad), right.grad, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            left += 0.01 * left.grad
            right += 0.01 * right.grad
    drawn = [policy.sample(PROMPTS[:1], [0]) for policy in policies]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-5)
    sharded.export(output)
    if rank == 0:
        torch.save(drawn[0], output / "drawn.pt")
    end()


@pytest.mark.parametrize("lora", [LoRA(rank=4, alpha=12.0), None], ids=["lora", "full"])
def test_sharded_equals_whole(sd3: str, stock, tmp_path: Path, lora: LoRA | None) -> None:
    arguments = (free_port(), sd3, lora, tmp_path)
    torch.multiprocessing.start_processes(compare, arguments, nprocs=2, start_method="fork")
    if lora is None:
        stock.transformer = stock.transformer.from_pretrained(tmp_path)
    else:
        stock.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    source = [torch.Generator().manual_seed(0)]
    size = {"height": 16, "width": 16, "num_inference_steps": 4, "guidance_scale": 3.0, "max_sequence_length": 4}
    images = stock(PROMPTS[:1], generator=source, output_type="pt", **size).images
    torch.testing.assert_close(images, torch.load(tmp_path / "drawn.pt"), rtol=0, atol=1e-5)


def compare_compiled(rank: int, port: int, directory: str) -> None:
    """One rank: rollout, score and backward of a policy with a compiled block, sharded, and of a plain one, whole."""
    mesh = start(rank, port)
    torch._dynamo.utils.counters.clear()  # a fork has its parent's
    # One block and four rows in every call, so that two programs do: without gradient and with it.
    settings = {"num_steps": 3, "guidance_scale": 1.0, "samples_per_noise": 1}
    compiled, plain = (make(directory, LoRA(2, 4.0, ["to_q"], "kaiming"), **settings) for _ in range(2))
    compile_blocks(compiled.transformer, compiled.backbone.blocks()[:1])
    shard(compiled, mesh)
    rows = torch.tensor([3, 0])
    scores = []
    for policy in (compiled, plain):
        rollout = policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(rank))
        score = policy.score(rollout, rows)
        torch.testing.assert_close(score.log_probs, rollout.sampled.log_probs[rows], rtol=0, atol=1e-5)
        score.log_probs.sum().backward()
        scores.append(score.log_probs.detach())
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)
    for left, right in zip(*(policy.trainable_parameters().values() for policy in (compiled, plain)), strict=True):
        torch.distributed.all_reduce(right.grad)
        torch.testing.assert_close(whole(left.grad), right.grad / 2, rtol=1e-4, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # something was compiled
    end()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles for the CPU with g++, which is not here")
def test_compiled_and_sharded_equals_plain_and_whole(sd3: str) -> None:
    arguments = (free_port(), sd3)
    torch.multiprocessing.start_processes(compare_compiled, arguments, nprocs=2, start_method="fork")
