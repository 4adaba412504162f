"""Who writes is a part: whatever it is, the trained model scores what was written."""

import pytest
import torch

from realgen.policies import LoRA, TextEngine, TransformersEngine
from realgen.policies.rewriting import rewrite_statistics
from realgen.policies.text_engine import Completions

PROMPTS = ("a cat", "")


class Typist(TextEngine):
    """Writes the same three tokens in every row that it is asked for, and is sure of them."""

    def __init__(self) -> None:
        self.checked, self.tasks = [], []

    def check(self, *, lora, temperatures, top_p):
        self.checked.append((lora, temperatures, top_p))
        if top_p == 0.123:
            raise ValueError("not with me")

    def write(self, task):
        self.tasks.append(task)
        mask = torch.tensor([[bool(chat)] * 3 for chat in task.chats])
        tokens = torch.tensor([8, 16, task.chat.end_ids[0]]).expand(len(mask), 3)
        return Completions(
            tokens=tokens.where(mask, task.chat.pad_id),
            mask=mask,
            ended=mask[:, 0],
            log_probs=torch.zeros(mask.shape),
            entropy=torch.zeros(mask.shape),
            kept=None,
        )


def test_an_engine_learns_all_that_it_needs(make_rewriter, tiny_llm):
    engine, told = Typist(), []
    policy = make_rewriter(engine=engine, temperature=0.8, eval_temperature=0.5, rollout_batch_size=3)
    assert engine.checked == [(LoRA(rank=4, alpha=8.0), (0.8, 0.5), 1.0)]

    def progress(*report):
        return told.append(report)

    policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0), progress=progress)
    policy.rewrite(PROMPTS, [0, 1], progress=progress)
    rollout, deployed = engine.tasks
    chat = policy.chat.encode("a cat")
    assert rollout.chats == [chat, chat, [], []]
    expected = torch.rand(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rollout.uniforms, expected)
    assert (rollout.temperature, deployed.temperature, rollout.top_p, rollout.batch_size) == (0.8, 0.5, 1.0, 3)
    assert (rollout.model, rollout.pretrained, rollout.chat) == (policy.model, tiny_llm, policy.chat)
    rollout.progress(1, 5)
    deployed.progress(2, 3)
    assert told == [("rollout", 1, 5), ("sample", 2, 3)]


def test_the_ratio_of_the_first_update_is_one_whatever_the_engine_claims(make_rewriter, stir):
    policy = make_rewriter(engine=Typist())
    stir(policy)
    rollout = policy.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0))
    assert rollout.mask.sum(1).tolist() == [3, 3, 0, 0]
    score = policy.score(rollout, torch.arange(4))
    assert torch.equal(score.log_probs.detach()[rollout.mask], rollout.sampled.log_probs[rollout.mask])
    gap = rewrite_statistics(rollout)["sampler_gap_max"]
    assert gap == pytest.approx(float(-rollout.sampled.log_probs[rollout.mask].min()))  # it claimed to be certain
    assert gap > 1


def test_an_engine_may_refuse(make_rewriter):
    with pytest.raises(ValueError, match="not with me"):
        make_rewriter(engine=Typist(), top_p=0.123)


def test_transformers_write_where_nothing_else_does(make_rewriter):
    named, default = make_rewriter(engine=TransformersEngine()), make_rewriter()
    assert isinstance(default.engine, TransformersEngine)
    first, second = (p.rollout(PROMPTS, 2, generator=torch.Generator().manual_seed(0)) for p in (named, default))
    assert torch.equal(first.policy_state["tokens"], second.policy_state["tokens"])
