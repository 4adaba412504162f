"""A tiny random Qwen3 that rewrites: against transformers, PEFT and itself."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from realgen.modules.on_policy import OnPolicyError
from realgen.modules.policy_update import PolicyUpdate
from realgen.objectives import GRPO
from realgen.policies import LoRA, Policy, PromptPolicy
from realgen.policies.rewriting import rewrite_statistics

PROMPTS = ("a cat", "an orange flower by the lake", "галактика")
ROWS = torch.arange(12)


def roll(policy: PromptPolicy, seed: int = 0, prompts=PROMPTS, group_size: int = 4, **how):
    return policy.rollout(prompts, group_size, generator=torch.Generator().manual_seed(seed), **how)


class Draws(Policy):
    """An image policy whose images are as bright as their text is long; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def load(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def rollout_chunks(self, prompts, group_size, **how):
        return None

    def score(self, rollout, rows):
        return None

    def reference(self):
        return None

    def sample(self, prompts, seeds, *, progress=None):
        self.asked.append((list(prompts), list(seeds)))
        brightness = torch.tensor([min(1.0, len(prompt) / 100) for prompt in prompts])
        return brightness.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

    def export(self, directory):
        return directory


def test_a_rollout_has_a_text_and_tokens_for_every_row(make_rewriter):
    rollout = roll(make_rewriter())
    rows, decisions = rollout.mask.shape
    assert rows == len(rollout.rewrites) == 12
    assert rollout.row_prompts == [prompt for prompt in PROMPTS for _ in range(4)]
    assert rollout.images.shape == (12, 3, 0, 0)
    assert rollout.sampled.log_probs.shape == (12, decisions)
    assert 1 <= decisions <= 10
    assert bool((rollout.mask.long().diff(dim=1) <= 0).all())  # no gap inside a completion
    assert len(set(rollout.mask.sum(1).tolist())) > 1
    assert bool((rollout.sampled.log_probs[rollout.mask] < 0).all())
    assert {rewrite.truncated for rewrite in rollout.rewrites} == {True, False}
    # Random weights never keep to the format, so the image model would get the prompt itself.
    assert rollout.row_texts == rollout.row_prompts
    assert not any(rewrite.formatted or rewrite.skipped for rewrite in rollout.rewrites)


def test_log_probs_are_those_of_plain_transformers_row_by_row(make_rewriter, tiny_llm, stir):
    policy = make_rewriter(temperature=0.7)
    stir(policy)
    rollout = roll(policy)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    for row, (prompt, rewrite) in enumerate(zip(rollout.row_prompts, rollout.rewrites, strict=True)):
        turn = [{"role": "user", "content": prompt}]
        head = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        size = int(rollout.mask[row].sum())
        tail = rollout.policy_state["tokens"][row, len(head) : len(head) + size]
        said = tail if rewrite.truncated else tail[:-1]
        assert tokenizer.decode(said, clean_up_tokenization_spaces=False) == rewrite.completion
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*head, *tail.tolist()]])).logits[0, len(head) - 1 : -1]
        expected = (logits / 0.7).log_softmax(-1).gather(1, tail[:, None])[:, 0]
        torch.testing.assert_close(rollout.sampled.log_probs[row, :size], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.8}], ids=["plain", "nucleus"])
def test_scores_are_those_of_the_rollout_to_the_bit(make_rewriter, stir, dtype, settings):
    policy = make_rewriter(dtype=dtype, score_batch_size=5, **settings)
    stir(policy)
    rollout = roll(policy)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for rows in (ROWS, order, *order.split(4), *ROWS.split(1)):
        score = policy.score(rollout, rows)  # with gradient
        assert score.log_probs.requires_grad
        assert score.log_probs.dtype == torch.float32
        mask = rollout.mask[rows]
        assert torch.equal(score.log_probs.detach()[mask], rollout.sampled.log_probs[rows][mask])
        assert bool(score.log_probs.isfinite().all())


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.8}], ids=["plain", "nucleus"])
def test_the_cached_sampler_agrees_with_the_score(make_rewriter, stir, settings):
    policy = make_rewriter(**settings)
    stir(policy)
    rollout = roll(policy)
    gap = (rollout.policy_state["sampler_log_probs"] - rollout.sampled.log_probs)[rollout.mask].abs()
    assert gap.max() < 5e-5


def test_an_update_that_is_the_only_one_needs_no_score_of_its_rollout(make_rewriter, stir):
    """The same gradient to the bit, one scoring pass less; the check compares with what drew the tokens."""
    gradients, passes, deviations = [], [], []
    for old in ("rollout", "update"):
        policy = make_rewriter(temperature=0.7, mask_truncated=True)
        policy.scores_rollouts = old == "rollout"
        stir(policy)
        calls = []
        policy.model.register_forward_hook(lambda *call, calls=calls: calls.append(call))
        rollout = roll(policy)
        sampled = len(calls)
        update = PolicyUpdate(
            policy, GRPO(0.2, 0.2), rollout, torch.linspace(-1, 1, 12), None,
            microbatch_size=12, tolerance=None, skip_zero_advantages=False, old=old,
        )  # fmt: skip
        loss, values = update.gradients(ROWS, policy, torch.Tensor.backward, first_update=True)
        loss.backward()
        assert values["objective/ratio_max_deviation"] == 0
        assert ("sampler_gap_max" in rewrite_statistics(rollout)) == (old == "rollout")
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable_parameters().values()]))
        passes.append(sampled)
        deviations.append(float(update.deviation))
    assert torch.equal(*gradients)
    assert bool(gradients[0].any())
    assert passes[0] - passes[1] == 2  # 12 rows by 8
    assert deviations[0] == 0 < deviations[1] < 5e-5


def test_tokens_that_another_policy_drew_are_told_without_a_score_of_the_rollout(make_rewriter, stir):
    policy = make_rewriter()
    policy.scores_rollouts = False
    rollout = roll(policy)
    stir(policy)
    update = PolicyUpdate(
        policy, GRPO(0.2, 0.2), rollout, torch.ones(12), None,
        microbatch_size=12, tolerance=None, skip_zero_advantages=False, old="update",
    )  # fmt: skip
    with pytest.raises(OnPolicyError, match=r"on_policy_tolerance=0\.001"):
        update.gradients(ROWS, policy, torch.Tensor.backward, first_update=True)


def test_drawn_tokens_stay_in_their_nucleus_however_far_the_policy_goes(make_rewriter, stir):
    policy = make_rewriter(top_p=0.5)
    rollout = roll(policy)
    stir(policy)
    stir(policy, seed=1)
    log_probs = policy.score(rollout, ROWS).log_probs
    log_probs.sum().backward()
    assert bool(log_probs.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in policy.trainable_parameters().values())


def test_the_nucleus_is_a_distribution(make_rewriter):
    """Of every first token that the nucleus allows, the probabilities add up to one."""
    policy = make_rewriter(top_p=0.3, max_tokens=1)
    rollout = roll(policy, prompts=("a cat",), group_size=400)
    pairs = zip(
        rollout.policy_state["tokens"][:, -1].tolist(), rollout.sampled.log_probs[:, 0].exp().tolist(), strict=True
    )
    assert sum(dict(pairs).values()) == pytest.approx(1, abs=0.02)
    assert len(dict.fromkeys(rollout.policy_state["tokens"][:, -1].tolist())) < 40


def test_rollouts_are_repeatable_and_do_not_depend_on_chunks(make_rewriter):
    first, again, other = roll(make_rewriter()), roll(make_rewriter()), roll(make_rewriter(), seed=1)
    assert torch.equal(first.policy_state["tokens"], again.policy_state["tokens"])
    assert torch.equal(first.sampled.log_probs, again.sampled.log_probs)
    assert first.rewrites != other.rewrites
    for size in (1, 5):
        chunked = roll(make_rewriter(rollout_batch_size=size))
        assert chunked.rewrites == first.rewrites
        assert torch.equal(chunked.mask, first.mask)
        assert torch.equal(chunked.policy_state["tokens"], first.policy_state["tokens"])


def test_the_global_generator_is_left_alone(make_rewriter):
    policy = make_rewriter()
    torch.manual_seed(0)
    roll(policy)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_greedy_rewrites_are_those_of_generate(make_rewriter, tiny_llm):
    policy = make_rewriter(eval_temperature=0.0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(tiny_llm)
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    inputs = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**inputs, do_sample=False, max_new_tokens=10)[:, inputs["input_ids"].shape[1] :]
    ends = set(model.generation_config.eos_token_id)
    for row, rewrite in zip(written.tolist(), policy.rewrite(PROMPTS, [0, 1, 2]), strict=True):
        end = next((i for i, token in enumerate(row) if token in ends), len(row))
        assert rewrite.completion == tokenizer.decode(row[:end], clean_up_tokenization_spaces=False)


def test_a_seed_chooses_the_rewrite_whatever_stands_beside_it(make_rewriter):
    policy = make_rewriter()
    together = policy.rewrite(PROMPTS, [3, 4, 5])
    assert together == [policy.rewrite([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, (3, 4, 5), strict=True)]
    assert policy.rewrite(PROMPTS[:1], [3]) != policy.rewrite(PROMPTS[:1], [9])
    with pytest.raises(ValueError, match="seeds must be as many as prompts, 3, got 1"):
        policy.rewrite(PROMPTS, [0])


def test_truncated_completions_count_only_if_they_should(make_rewriter):
    plain, masked = roll(make_rewriter()), roll(make_rewriter(mask_truncated=True))
    truncated = torch.tensor([rewrite.truncated for rewrite in plain.rewrites])
    assert torch.equal(masked.mask, plain.mask & ~truncated[:, None])
    assert bool(plain.mask[truncated].all())
    assert masked.rewrites == plain.rewrites


def test_prompts_that_cannot_be_rewritten_are_drawn_as_they_are(make_rewriter):
    policy = make_rewriter()
    prompts = ("", "a cat", "word " * 5000, "\x00")
    rollout = roll(policy, prompts=prompts, group_size=2)
    skipped = [prompt != "a cat" for prompt in prompts for _ in range(2)]
    assert [rewrite.skipped for rewrite in rollout.rewrites] == skipped
    assert rollout.row_texts == rollout.row_prompts
    assert (~rollout.mask.any(1)).tolist() == skipped
    alone = roll(policy, prompts=("a cat",), group_size=2)
    assert torch.equal(policy.score(rollout, torch.arange(8)).log_probs.isfinite().all(), torch.tensor(True))
    assert alone.mask.shape[0] == 2


def test_nothing_but_unusable_prompts_gives_no_decision(make_rewriter):
    rollout = roll(make_rewriter(), prompts=("", " "), group_size=2)
    assert rollout.mask.shape == (4, 1)
    assert not rollout.mask.any()


@pytest.mark.parametrize("settings", [{}, {"lora": None, "keep_reference": True}], ids=["lora", "full"])
def test_the_reference_is_the_start(make_rewriter, stir, settings):
    policy = make_rewriter(**settings)
    rollout = roll(policy)
    with torch.no_grad():
        start = policy.score(rollout, ROWS).log_probs
        stir(policy)
        moved = policy.score(rollout, ROWS).log_probs
        with policy.reference():
            reference = policy.score(rollout, ROWS).log_probs
        again = policy.score(rollout, ROWS).log_probs
    assert torch.equal(reference, start)
    assert torch.equal(again, moved)
    assert (moved - start).abs().max() > 1e-3


def test_full_training_without_a_copy_has_no_reference(make_rewriter):
    policy = make_rewriter(lora=None)
    with pytest.raises(ValueError, match="the policy has no reference"), policy.reference():
        pass


def test_only_adapters_are_trained_and_kept(make_rewriter):
    image_policy = Draws()
    policy = make_rewriter(image_policy=image_policy)
    names = policy.trainable_parameters()
    assert len(names) == 2 * 7 * 2  # two layers, seven matrices each, A and B
    assert all("lora_" in name for name in names)
    assert all(name.startswith("model.") for name in policy.state_dict())
    assert not image_policy.weight.requires_grad
    assert sum(p is image_policy.weight for p in policy.parameters()) == 0
    assert policy.device == torch.device("cpu")


def test_checkpointed_gradients_are_the_same_and_the_cache_stays(make_rewriter, stir):
    gradients, rollouts = [], []
    for checkpointing in (False, True):
        policy = make_rewriter(gradient_checkpointing=checkpointing)
        stir(policy)
        rollouts.append(roll(policy))
        policy.score(rollouts[-1], ROWS).log_probs.sum().backward()
        gradients.append([p.grad for p in policy.trainable_parameters().values()])
        assert not any(part.training for part in policy.model.modules())
    assert torch.equal(rollouts[0].policy_state["tokens"], rollouts[1].policy_state["tokens"])
    assert torch.equal(rollouts[0].policy_state["sampler_log_probs"], rollouts[1].policy_state["sampler_log_probs"])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(plain, checkpointed)


def test_training_mode_changes_nothing(make_rewriter):
    policy = make_rewriter()
    before = roll(policy)
    assert torch.equal(roll(policy.train()).sampled.log_probs, before.sampled.log_probs)
    assert not policy.model.training


def test_a_group_is_drawn_from_one_noise(make_rewriter):
    image_policy = Draws()
    policy = make_rewriter(image_policy=image_policy)
    rollout = roll(policy)
    ((texts, seeds),) = image_policy.asked
    assert texts == rollout.row_texts
    by_prompt = [set(seeds[start : start + 4]) for start in (0, 4, 8)]
    assert [len(group) for group in by_prompt] == [1, 1, 1]
    assert len(set.union(*by_prompt)) == 3
    expected = [len(prompt) / 100 for prompt in rollout.row_texts]
    assert rollout.images[:, 0, 0, 0].tolist() == pytest.approx(expected)


def test_samples_are_drawn_from_their_own_seeds(make_rewriter):
    image_policy = Draws()
    policy = make_rewriter(image_policy=image_policy)
    assert policy.sample(PROMPTS, [5, 6, 7]).shape == (3, 3, 2, 2)
    assert image_policy.asked == [([rewrite.text for rewrite in policy.rewrite(PROMPTS, [5, 6, 7])], [5, 6, 7])]


def test_without_an_image_policy_nothing_can_be_drawn(make_rewriter):
    with pytest.raises(ValueError, match="image_policy is null"):
        make_rewriter().sample(PROMPTS, [0, 1, 2])


def test_progress_is_told_by_token(make_rewriter):
    policy, told = make_rewriter(rollout_batch_size=6), []
    roll(policy, progress=lambda *report: told.append(report))
    assert {phase for phase, _, _ in told} == {"rollout"}
    assert {total for _, _, total in told} == {20}
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})


def test_exported_adapters_work_in_peft_and_transformers(make_rewriter, stir, tiny_llm, tmp_path: Path):
    from peft import PeftModel

    policy = make_rewriter()
    stir(policy)
    rollout = roll(policy)
    directory = policy.export(tmp_path / "adapter")
    assert not (directory / "model.safetensors").exists()
    tokens = rollout.policy_state["tokens"]
    with torch.no_grad():
        expected = policy.model(tokens).logits
        peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llm), directory)(tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(tiny_llm)
        assert (plain(tokens).logits - expected).abs().max() > 1e-2
        plain.load_adapter(str(directory))
        torch.testing.assert_close(plain(tokens).logits, expected)
    torch.testing.assert_close(peft, expected)
    assert AutoTokenizer.from_pretrained(directory).chat_template


def test_exported_models_work_in_transformers(make_rewriter, stir, tmp_path: Path):
    policy = make_rewriter(lora=None)
    stir(policy)
    directory = policy.export(tmp_path / "whole")
    reloaded = make_rewriter(str(directory), lora=None)
    assert torch.equal(roll(policy).sampled.log_probs, roll(reloaded).sampled.log_probs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0; eval_temperature may be 0"),
        ({"eval_temperature": -1.0}, "eval_temperature must be at least 0, got -1.0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, got 1.1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1, got 0"),
        ({"score_batch_size": 0}, "score_batch_size must be at least 1, got 0"),
        ({"rollout_batch_size": 0}, "rollout_batch_size must be at least 1, got 0"),
        ({"instruction": "rewrite"}, "instruction must hold {prompt} once"),
        ({"keep_reference": True}, "keep_reference is for lora=null"),
    ],
)
def test_impossible_settings_are_refused(make_rewriter, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rewriter(**settings)


def test_a_folder_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="pretrained must be a directory or a hub id"):
        PromptPolicy(str(tmp_path / "missing"))
    policy = PromptPolicy(str(tmp_path), lora=LoRA())
    with pytest.raises(ValueError, match="pretrained must hold a causal language model and its tokenizer"):
        policy.load()


def test_weights_that_are_missing_are_not_drawn_at_random(tiny_llm, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    model = AutoModelForCausalLM.from_pretrained(tiny_llm)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of Qwen3ForCausalLM: model.layers.1.mlp.up_proj.weight"):
        PromptPolicy(str(tmp_path)).load()


def test_a_model_without_chat_template_is_refused(tiny_llm, tmp_path: Path):
    AutoModelForCausalLM.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no chat template"):
        PromptPolicy(str(tmp_path)).load()


def test_a_tokenizer_without_pad_token_rewrites_all_the_same(make_rewriter, tiny_llm, tmp_path: Path):
    AutoModelForCausalLM.from_pretrained(tiny_llm).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    policy, usual = make_rewriter(str(tmp_path)), make_rewriter()
    assert policy.chat.tokenizer.pad_token_id is None
    padless, padded = roll(policy), roll(usual)
    assert padless.rewrites == padded.rewrites
    assert torch.equal(padless.mask, padded.mask)
    assert torch.equal(padless.sampled.log_probs[padless.mask], padded.sampled.log_probs[padded.mask])


def test_every_rewrite_is_drawn_from_the_seeds_of_its_prompt(make_rewriter):
    image_policy = Draws()
    rollout = roll(make_rewriter(image_policy=image_policy, images_per_rewrite=3))
    ((texts, seeds),) = image_policy.asked
    assert texts == [text for text in rollout.row_texts for _ in range(3)]
    by_row = torch.tensor(seeds).view(3, 4, 3)  # prompts, rewrites, images
    assert bool((by_row == by_row[:, :1]).all())
    assert len(set(seeds)) == 9
    assert rollout.images_per_row == 3
    assert len(rollout.images) == 36
    samples = rollout.samples()
    assert (samples.group_size, len(samples.rewrites)) == (12, 36)
    assert samples.row_texts == texts
    assert samples.row_prompts == [prompt for prompt in PROMPTS for _ in range(12)]
    assert samples.images is rollout.images


def test_raw_samples_of_a_group_keep_the_prompt_and_hold_no_decision(make_rewriter):
    image_policy = Draws()
    rollout = roll(make_rewriter(image_policy=image_policy, raw_per_group=1))
    asked = rollout.mask.any(1).view(3, 4)
    assert asked.tolist() == [[True, True, True, False]] * 3
    assert [rewrite.skipped for rewrite in rollout.rewrites] == [False, False, False, True] * 3
    assert image_policy.asked[0][0][3::4] == list(PROMPTS)
    whole = roll(make_rewriter())  # the other rows are what they are without it
    assert rollout.rewrites[:3] == whole.rewrites[:3]


def test_validation_knows_the_rewrites(make_rewriter):
    image_policy = Draws()
    policy = make_rewriter(image_policy=image_policy)
    images, rewrites = policy.sample_rewritten(["a cat", "a dog"], [1, 2])
    assert rewrites == policy.rewrite(["a cat", "a dog"], [1, 2])
    assert image_policy.asked == [([rewrite.text for rewrite in rewrites], [1, 2])]
    assert torch.equal(images, policy.sample(["a cat", "a dog"], [1, 2]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images_per_rewrite": 0}, "images_per_rewrite must be at least 1, got 0"),
        ({"raw_per_group": -1}, "raw_per_group must be at least 0, got -1"),
    ],
)
def test_bad_counts_are_named(make_rewriter, settings, message):
    with pytest.raises(ValueError, match=message):
        make_rewriter(**settings)


def test_a_group_of_raw_prompts_alone_is_refused(make_rewriter):
    with pytest.raises(ValueError, match="raw_per_group must be below group_size=4, got 4"):
        make_rewriter(raw_per_group=4).check_group_size(4)


def test_a_language_model_is_loaded_and_saved_without_bars(make_rewriter, tmp_path, capsys) -> None:
    make_rewriter().export(tmp_path)
    assert "it/s" not in capsys.readouterr().err
