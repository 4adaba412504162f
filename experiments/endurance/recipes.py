"""The recipes of the embedded world, shortened to seconds, with all that a run writes."""

from __future__ import annotations

from dataclasses import dataclass

# Two iterations in an epoch, after which there is a checkpoint; a validation after every other one, and the last.
GRPO = (
    "--data.prompts_per_iteration=2",
    "--data.validation_batch_size=2",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=2",
    "--callbacks.samples.every_n_iterations=2",
)
REWRITING = (*GRPO, "--trainer.max_epochs=2", "--callbacks.rewrites.every_n_iterations=2")

ADVERSARIAL = (
    *GRPO,
    "--trainer.max_epochs=3",
    "--model.group_size=4",
    "--callbacks.learn_omniaid.threshold=0",  # the detector trains in every iteration once it can be measured
    "--callbacks.learn_omniaid.max_passes=2",
    "--callbacks.learn_omniaid.target_accuracy=1",
    "--callbacks.learn_omniaid.pairs.held_out=0.4",
    "--callbacks.learn_omniaid.pairs.replay=3",
)


@dataclass(frozen=True)
class Recipe:
    """One command."""

    name: str
    words: tuple[str, ...]
    """Arguments that shorten it."""
    module: str = "realgen.fit"
    go_on: tuple[str, ...] = ("--ckpt_path=last",)
    """What lets the command go on where there is something, given at every start as in a job script."""
    longer: tuple[str, ...] = ()
    """What makes a finished run go on."""
    whole: bool = False
    """Whether it is started twice and loses its disk, too; the others differ from it in nothing that matters there."""

    def command(self, run_dir: object, *more: str) -> list[str]:
        """Return module and arguments of the run in a folder."""
        config = f"--config=configs/{self.name}.yaml"
        return [self.module, config, *self.words, f"--run_dir={run_dir}", *self.go_on, *more]


DEFAULT = Recipe(
    "diffusion",
    (*GRPO, "--trainer.max_epochs=3", "--model.group_size=4", "--model.updates_per_epoch=2"),
    longer=("--trainer.max_epochs=4",),
    whole=True,
)
OTHERS = (
    Recipe("diffusion_nft", (*GRPO, "--trainer.max_epochs=2", "--model.group_size=4")),  # weights that lag behind
    Recipe("llm", (*REWRITING, "--model.group_size=4", "--model.policy.max_tokens=32")),
    Recipe("joint", (*REWRITING, "--model.policy.rewriter.max_tokens=32", "--model.policy.images_per_rewrite=2")),
    Recipe("two_stage", (*REWRITING, "--model.group_size=4", "--model.policy.rewriter.max_tokens=32")),
    Recipe("adversarial", ADVERSARIAL),
    Recipe("detector", ("--trainer.limit_train_batches=4", "--trainer.limit_val_batches=2", "--trainer.max_epochs=3")),
    Recipe("realbench", ("--num_prompts=4",), module="realgen.realbench", go_on=(), whole=True),
)
