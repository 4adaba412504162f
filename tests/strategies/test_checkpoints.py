"""A checkpoint of two ranks resumes on one and back, whatever the strategy, with all that it holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import Strategy
from torch.utils._pytree import tree_leaves

from realgen.callbacks import EMA
from realgen.cli.finishing import load_checkpoint
from realgen.modules import GRPOModule
from realgen.objectives import GRPO
from realgen.parallel import local_part
from realgen.policies.whole_weights import gathered_weights
from realgen.strategies import FSDP2
from realgen.strategies.checkpoint import gathered, read_folder, write_folder
from tests.modules.test_resume import assert_same
from tests.strategies.ranks import fit, make_policy, on_ranks

LAST = Path("checkpoints", "last.ckpt")
NO_PENALTY = {"objective": GRPO(clip_low=0.2, clip_high=0.2, kl_coef=0.0)}


class Look(Callback):
    """Writes down, on the first rank, what the run has at its start and at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, lightning: Trainer, module: GRPOModule, *args: Any) -> None:
        self.look("start", lightning, module)

    def on_train_end(self, lightning: Trainer, module: GRPOModule) -> None:
        self.look("end", lightning, module)

    def look(self, moment: str, lightning: Trainer, module: GRPOModule) -> None:
        (optimizer,) = lightning.optimizers
        (average,) = (callback for callback in lightning.callbacks if isinstance(callback, EMA))
        seen = {
            "weights": gathered_weights(module.policy, trained_only=True),
            "optimizer": gathered(optimizer.state_dict(), keep=True),
            "average": gathered({plain(name): each for name, each in average.weights.items()}, keep=True),
            "updates": average.updates,
            "iteration": module.iteration,
        }
        if lightning.is_global_zero:
            torch.save(copy.deepcopy(seen), self.folder / f"{moment}.pt")


def plain(name: str) -> str:
    return name.replace("_fsdp_wrapped_module.", "")


def train(rank: int, directory: str, folder: Path, strategy: Any, iterations: int, ckpt: Path | None) -> None:
    fit(
        folder,
        make_policy(directory, num_steps=2),
        strategy=strategy,
        iterations=iterations,
        ckpt=ckpt,
        callbacks=[Look(folder)],
        exports=False,
    )


def seen(folder: Path, moment: str) -> dict[str, Any]:
    return torch.load(folder / f"{moment}.pt", weights_only=True)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_one_rank_and_back(sd3: str, tmp_path: Path) -> None:
    """Shards of two ranks; a file of one; shards of two with another setting; a single device without any."""
    one, two, three, four = (tmp_path / name for name in ("one", "two", "three", "four"))
    for folder in (one, two, three, four):
        folder.mkdir()
    assert on_ranks(train, sd3, one, FSDP2(), 1, None) == [0, 0]
    first = seen(one, "end")
    assert first["iteration"] == first["updates"] == 1
    assert int(first["optimizer"]["state"][0]["step"]) == 1

    assert on_ranks(train, sd3, two, FSDP2(sharded_checkpoints=False), 2, one / LAST, ranks=1) == [0]
    assert_same(seen(two, "start"), first)
    second = seen(two, "end")
    assert second["iteration"] == 2
    assert not torch.equal(next(iter(second["average"].values())), next(iter(first["average"].values())))

    assert on_ranks(train, sd3, three, FSDP2(reshard_after_forward=False), 3, two / LAST) == [0, 0]
    assert_same(seen(three, "start"), second)

    file = tmp_path / "whole.ckpt"
    torch.save(read_folder(three / LAST, lambda _, size, dtype: torch.empty(size, dtype=dtype)), file)
    train(0, sd3, four, "auto", 4, file)
    assert_same(seen(four, "start"), seen(three, "end"))

    stored = torch.load(file, weights_only=True)
    plain_file = torch.load(four / LAST, weights_only=True)
    assert stored.keys() == plain_file.keys()
    for part in ("state_dict", "optimizer_states"):
        assert_same(shapes(stored[part]), shapes(plain_file[part]))
    assert all(".lora_" in name for name in stored["state_dict"])
    assert {path.name for path in (one / LAST).iterdir()} >= {".metadata", "meta.pt", "__0_0.distcp", "__1_0.distcp"}


def shapes(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shapes(child) for key, child in value.items()}
    if isinstance(value, list):
        return [shapes(child) for child in value]
    return [str(value.dtype), *value.shape] if isinstance(value, torch.Tensor) else value


def refuse(rank: int, directory: str, folder: Path, ckpt: Path) -> None:
    from realgen.policies import LoRA

    policy = make_policy(directory, num_steps=2, lora=LoRA(rank=4, targets=["to_q"]))
    with pytest.raises(ValueError, match=r"the checkpoint holds, but the policy does not train, \d+ of the policy's"):
        fit(folder, policy, strategy=FSDP2(), iterations=2, ckpt=ckpt)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_checkpoint_of_another_policy_is_refused(sd3: str, tmp_path: Path) -> None:
    assert on_ranks(train, sd3, tmp_path, FSDP2(), 1, None, ranks=1) == [0]
    assert on_ranks(refuse, sd3, tmp_path / "other", tmp_path / LAST, ranks=1) == [0]


def held(value: Any) -> int:
    """Bytes of the tensors, of sharded ones of this rank's part alone."""
    return sum(local_part(leaf).nbytes for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor))


def train_whole_network(rank: int, directory: str, folder: Path, sharded: bool) -> None:
    """Write down what each rank holds of a checkpoint's averages and of an export."""
    sizes: dict[str, int] = {}

    def saves(name: str, save: Callable[..., Any], checkpoint: dict[str, Any], *args: Any, **settings: Any) -> Any:
        sizes[name] = held(checkpoint["callbacks"]["EMA"])
        return save(checkpoint, *args, **settings)

    def exports(*args: Any, **settings: Any) -> Any:
        weights = gathered_weights(*args, **settings)
        sizes["export"] = held(weights)
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realgen.strategies.base.write_folder", partial(saves, "folder", write_folder))
        save = Strategy.save_checkpoint
        patch.setattr(Strategy, "save_checkpoint", lambda self, *args: saves("file", partial(save, self), *args))
        patch.setattr("realgen.policies.diffusion_model.gathered_weights", exports)
        strategy = FSDP2(sharded_checkpoints=sharded)
        policy = make_policy(directory, num_steps=2, lora=None)
        fit(folder, policy, strategy=strategy, iterations=1, **NO_PENALTY)
    sizes["trained"] = sum(4 * weight.numel() for weight in policy.trainable_parameters().values())
    torch.save(sizes, folder / f"{rank}.pt")


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("sharded", [True, False])
def test_no_rank_holds_what_it_does_not_write(sd3: str, tmp_path: Path, sharded: bool) -> None:
    assert on_ranks(train_whole_network, sd3, tmp_path, sharded) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    whole = first["trained"]
    assert first["export"] >= whole  # buffers too
    assert second["export"] == 0
    if sharded:
        assert first["folder"] + second["folder"] == whole
        assert whole / 3 < second["folder"] < 2 * whole / 3
        assert (tmp_path / LAST / "meta.pt").stat().st_size < whole / 10
    else:
        assert (first["file"], second["file"]) == (whole, 0)
    (tmp_path / "on").mkdir()
    assert on_ranks(resume_whole_network, sd3, tmp_path / "on", tmp_path / LAST, ranks=1) == [0]


def resume_whole_network(rank: int, directory: str, folder: Path, ckpt: Path) -> None:
    policy, seen = make_policy(directory, num_steps=2, lora=None), Look(folder)
    fit(folder, policy, strategy=FSDP2(), iterations=2, ckpt=ckpt, callbacks=[seen], exports=False, **NO_PENALTY)
    stored = load_checkpoint(ckpt)["callbacks"]["EMA"]["weights"]
    assert_same(torch.load(folder / "start.pt", weights_only=True)["average"], stored)
