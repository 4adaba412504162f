"""The plan's FLOPs against PyTorch's own counter: on a real iteration, and on real calls of every backbone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule

from realgen.cli.realgen_cli import RealGenCLI
from realgen.functional.flow_sde import FlowSDE
from realgen.modules import GRPOModule
from realgen.phases import PhaseClock
from realgen.plan import read_recipe
from realgen.planning import make_plan
from realgen.planning.architecture import find_architecture, load_on_meta
from realgen.planning.dry_run import CallKind
from realgen.planning.meter import flop_counter, metered, total
from realgen.planning.unit_costs import find_unit_costs
from realgen.policies import DiffusionPolicy, LoRA, RandomWindow
from realgen.policies.backbones.base import Backbone
from tests.helpers import tiny_pipelines

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ["--config", str(ROOT / "configs" / "diffusion.yaml")]
SMALL = [
    *("--data.prompts_per_iteration=2", "--model.group_size=4", "--model.updates_per_epoch=2"),
    *("--model.inner_epochs=2", "--model.microbatch_size=3", "--model.policy.num_steps=4"),
    *("--model.policy.step_window.size=2", "--model.policy.step_window.start_min=1"),
    *("--model.policy.step_window.start_max=1", "--model.policy.height=32", "--model.policy.width=48"),
    *("--model.policy.rollout_batch_size=3", "--model.policy.decode_batch_size=3"),
    *("--model.policy.backbone.guidance_scale=2", "--model.policy.guided_window=false"),
    *("--model.policy.gradient_checkpointing=true", "--model.policy.prompts_per_chunk=1"),
]
"""Two samples share a noise, the window is in the middle, and guidance holds outside of it only."""
ALONE = [
    *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"),
    *("--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"),
    *("--callbacks={}", "--model.overlap_rewards=false"),
]


NFT = [
    *("--config", str(ROOT / "configs" / "diffusion_nft.yaml"), "--data.prompts_per_iteration=2"),
    *("--model.group_size=4", "--model.microbatch_size=3", "--model.policy.num_steps=4", "--model.policy.height=32"),
    *("--model.policy.width=48", "--model.policy.rollout_batch_size=3"),
]
"""In the second iteration the weights that sample lag, and score the draws too."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "more"),
    [([*RECIPE, *SMALL], []), (NFT, ["--trainer.limit_train_batches=2"])],
    ids=["window", "draws"],
)
def test_an_iteration_has_the_flops_of_its_plan(
    arguments: list[str], more: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    plan = make_plan(read_recipe(arguments))

    counter = flop_counter()
    flops = partial(PhaseClock, now=lambda: float(counter.get_total_flops()))
    monkeypatch.setattr("realgen.modules.grpo_module.PhaseClock", flops)
    cli = RealGenCLI(GRPOModule, LightningDataModule, argv=[*arguments, *ALONE, *more, f"--run_dir={tmp_path / 'run'}"])
    with counter:
        cli.trainer.fit(cli.model, cli.datamodule)

    logged = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    for phase in ("rollout", "reward", "reference", "update"):
        planned = sum(total(row.work or {}) for row in plan.rows if row.phase == phase)
        assert planned == pytest.approx(logged[f"seconds/{phase}"], rel=0.02), phase
    assert sum(row.evals or 0 for row in plan.rows) == logged["transformer_evals"]


def tiny_policy(backbone: type[Backbone], directory: Path) -> DiffusionPolicy:
    tiny = tiny_pipelines.TINY[tiny_pipelines.module_of(backbone)]
    policy = DiffusionPolicy(
        backbone(str(directory), **tiny.guided),
        transition=FlowSDE(0.7),
        step_window=RandomWindow(2),
        num_steps=4,
        height=tiny_pipelines.SIZE,
        width=2 * tiny_pipelines.SIZE,
        lora=LoRA(rank=2),
        gradient_checkpointing=True,
    )
    return policy


@pytest.mark.parametrize("backbone", tiny_pipelines.backbone_classes(), ids=tiny_pipelines.module_of)
def test_calls_of_every_backbone_have_the_flops_of_their_costs(backbone: type[Backbone], tmp_path: Path) -> None:
    tiny_pipelines.write(tiny_pipelines.module_of(backbone), tmp_path)
    prompt, rows = "a cat, asleep", 2
    planned, real = tiny_policy(backbone, tmp_path), tiny_policy(backbone, tmp_path)
    load_on_meta(planned, find_architecture(str(tmp_path)))
    kinds = [CallKind(phase, True, False) for phase in ("rollout", "reference", "update")]
    costs = find_unit_costs(planned, kinds, prompt=prompt)

    real.load()
    real.backbone.encode_prompts([""])  # with it the negative prompt, which is embedded once in a run
    counter, counts = flop_counter(), [0]

    def counted() -> int:
        counts.append(counter.get_total_flops())
        return counts[-1] - counts[-2]

    latents, timesteps = torch.randn(rows, *real.latent_shape), torch.full((rows,), 500.0)
    with counter:
        with torch.no_grad():
            conditioning = real.backbone.encode_prompts([prompt] * rows)
            found = {"text": counted()}
            real.backbone.velocity(latents, timesteps, conditioning)
            found["rollout"] = counted()
            with real.reference():
                real.backbone.velocity(latents, timesteps, conditioning)
            found["reference"] = counted()
            real.backbone.decode(latents)
            found["decode"] = counted()
        velocity = real.backbone.velocity(latents, timesteps, conditioning)
        found["forward"] = counted()
        velocity.sum().backward()
        found["backward"] = counted()
    one = {name: part[:1] for name, part in conditioning.items()}
    with metered() as meter:
        velocity = real.backbone.velocity(latents[:1], timesteps[:1], one)
        held = meter.held
        velocity.backward(torch.zeros_like(velocity))
    update = costs.velocity[kinds[2]]
    assert (update.held, update.peak) == (held, meter.peak)

    expected = {
        "text": total(costs.text.work),
        "rollout": rows * total(costs.velocity[kinds[0]].work),
        "reference": rows * total(costs.velocity[kinds[1]].work),
        "decode": rows * total(costs.decode.work),
        "forward": rows * total(update.work),
        "backward": rows * total(costs.velocity[kinds[2]].backward),
    }
    for name, flops in expected.items():
        assert flops == pytest.approx(found[name], rel=0.02), name
