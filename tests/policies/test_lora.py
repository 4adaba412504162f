import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realgen.policies import LoRA
from realgen.policies.backbones import SD3
from realgen.policies.lora import adapter_config, adapter_weights
from realgen.policies.trained_adapters import find_adapters


@pytest.fixture
def transformer(sd3: str):
    backbone = SD3(sd3)
    backbone.load()
    return backbone.transformer


def trained(transformer) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in transformer.named_parameters() if p.requires_grad}


def test_only_adapters_are_trained(transformer) -> None:
    base = {name for name, _ in transformer.named_parameters()}
    LoRA(rank=2).attach(transformer, ("to_q", "to_out.0"))
    names = trained(transformer)
    assert len(names) == 2 * 2 * 2  # two blocks, two layers, A and B
    assert all("lora_" in name for name in names)
    assert base <= {name.replace(".base_layer", "") for name, _ in transformer.named_parameters()}


def test_the_start_is_the_reference_and_the_same_everywhere(sd3: str) -> None:
    starts = []
    for global_seed in (1, 2):  # ranks, or a resumed run, whose global generators stand elsewhere
        torch.manual_seed(global_seed)
        backbone = SD3(sd3)
        backbone.load()
        LoRA(rank=2, seed=5).attach(backbone.transformer, ("to_q",))
        starts.append(trained(backbone.transformer))
        after = torch.rand(1)
        torch.manual_seed(global_seed)
        assert torch.equal(after, torch.rand(1))  # and they are left where they stood
    for name, parameter in starts[0].items():
        assert torch.equal(parameter, starts[1][name])
        assert bool(parameter.any()) == ("lora_A" in name)  # B is zero


def test_seed_and_init_choose_the_start(sd3: str) -> None:
    starts = []
    for lora in (LoRA(2), LoRA(2, seed=1), LoRA(2, init="kaiming")):
        backbone = SD3(sd3)
        backbone.load()
        lora.attach(backbone.transformer, ("to_q",))
        starts.append(next(iter(trained(backbone.transformer).values())))
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_adapters_are_float32_on_a_bfloat16_base(sd3: str) -> None:
    backbone = SD3(sd3, dtype="bfloat16")
    backbone.load()
    LoRA(rank=2).attach(backbone.transformer, ("to_q",))
    assert {p.dtype for p in trained(backbone.transformer).values()} == {torch.float32}
    assert next(backbone.transformer.parameters()).dtype == torch.bfloat16


def test_own_targets_win(transformer) -> None:
    LoRA(rank=2, alpha=6.0, targets=["ff.net.2"]).attach(transformer, ("to_q",))
    assert all(".ff.net.2." in name for name in trained(transformer))
    config = adapter_config(transformer)
    assert (config["r"], config["lora_alpha"]) == (2, 6.0)


def test_every_process_exports_the_targets_in_one_order(transformer, make_rewriter, tmp_path) -> None:
    targets = ("to_v", "to_q", "to_k", "to_out.0")
    LoRA(rank=2).attach(transformer, targets)
    assert adapter_config(transformer)["target_modules"] == sorted(targets)
    written = json.loads((make_rewriter().export(tmp_path) / "adapter_config.json").read_text())["target_modules"]
    assert len(written) == 7
    assert written == sorted(written)  # a set's order is another one in most processes


def test_a_target_that_matches_nothing_is_refused(transformer) -> None:
    with pytest.raises(
        ValueError, match=r"no linear layer of SD3Transformer2DModel is called 'to_qq'; near it are to_q"
    ):
        LoRA(targets=["to_q", "to_qq"]).attach(transformer, ())
    assert "lora" not in str(transformer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"targets": []}, "targets must name at least one layer"),
    ],
)
def test_impossible_settings_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


@pytest.mark.parametrize("alpha", [8.0, 2.0, 1.0])
def test_exported_adapters_draw_the_same_images(make_policy, stir, tmp_path, alpha) -> None:
    """To the bit where alphas differ by powers of two."""
    trained = make_policy(lora=LoRA(rank=2, alpha=8.0))
    stir(trained)
    trained.export(tmp_path / "lora")
    loaded = make_policy(lora=LoRA(rank=2, alpha=alpha, pretrained=str(tmp_path / "lora")))
    prompts, seeds = ["a cat", "a dog"], [3, 4]
    images = trained.sample(prompts, seeds)
    assert torch.equal(loaded.sample(prompts, seeds), images)
    with loaded.reference():
        assert torch.equal(loaded.sample(prompts, seeds), make_policy().sample(prompts, seeds))
    assert not torch.equal(make_policy().sample(prompts, seeds), images)
    assert all(p.requires_grad for name, p in loaded.transformer.named_parameters() if "lora_" in name)


def test_an_exported_adapter_s_factor_is_in_b(make_policy, stir, tmp_path) -> None:
    """A reader without the header, such as ComfyUI's, takes alpha = rank: W + B A is the trained layer."""
    trained = make_policy(lora=LoRA(rank=2, alpha=6.0))
    stir(trained)
    stored = load_file(trained.export(tmp_path / "lora") / "pytorch_lora_weights.safetensors")
    layers = [(name, layer) for name, layer in trained.transformer.named_modules() if hasattr(layer, "lora_A")]
    assert 2 * len(layers) == len(stored)
    for name, layer in layers:
        a, b = (stored[f"transformer.{name}.lora_{part}.weight"] for part in "AB")
        assert torch.allclose(b @ a, layer.get_delta_weight("default"), atol=1e-7)


def test_adapters_that_were_exported_with_alpha_in_the_header_are_read(make_policy, stir, tmp_path) -> None:
    trained = make_policy(lora=LoRA(rank=2, alpha=8.0))
    stir(trained)
    weights = {name: w.detach() for name, w in trained.transformer.state_dict().items()}
    config = adapter_config(trained.transformer)
    trained.backbone.save_adapter(tmp_path / "old", adapter_weights(weights), config)
    loaded = make_policy(lora=LoRA(rank=2, alpha=4.0, pretrained=str(tmp_path / "old")))
    assert torch.equal(loaded.sample(["a cat"], [3]), trained.sample(["a cat"], [3]))


def test_exported_adapters_score_the_same_tokens(make_rewriter, stir, tmp_path) -> None:
    trained = make_rewriter(lora=LoRA(rank=2, alpha=6.0))
    stir(trained)
    trained.export(tmp_path / "lora")
    loaded = make_rewriter(lora=LoRA(rank=2, alpha=6.0, pretrained=str(tmp_path / "lora")))
    rollout = trained.rollout(["a cat", "two dogs"], 2, generator=torch.Generator().manual_seed(0))
    again = loaded.rollout(["a cat", "two dogs"], 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.sampled.log_probs, rollout.sampled.log_probs)
    assert again.rewrites == rollout.rewrites
    base = make_rewriter().score(rollout, torch.arange(4)).log_probs
    assert not torch.equal(base, rollout.sampled.log_probs)


@pytest.fixture
def exported(make_policy, tmp_path) -> Path:
    return make_policy(lora=LoRA(rank=2, alpha=6.0, targets=["to_q", "to_k"])).export(tmp_path / "run" / "lora")


def test_find_adapters_reads_what_export_wrote(exported, make_rewriter, tmp_path) -> None:
    adapters = find_adapters(exported)
    assert (adapters.rank, adapters.alpha, adapters.targets) == (2, 2.0, ["to_k", "to_q"])  # the factor 3 is in B
    language = make_rewriter(lora=LoRA(rank=3, alpha=1.5, targets=["v_proj"])).export(tmp_path / "llm")
    adapters = find_adapters(language)
    assert (adapters.rank, adapters.alpha, adapters.targets) == (3, 1.5, ["v_proj"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 4}, r"rank must be that of pretrained '.*/lora', 2, got 4"),
        ({"targets": ["to_v", "to_q"]}, r"targets must be that of .*\['to_k', 'to_q'\], got \['to_q', 'to_v'\]"),
    ],
)
def test_adapters_of_another_make_are_refused_before_anything_is_loaded(exported, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**{"rank": 2, "alpha": 6.0, **settings}, pretrained=str(exported))


def test_adapters_of_other_layers_are_refused(exported, make_policy) -> None:
    lora = LoRA(rank=2, alpha=6.0, pretrained=str(exported))  # the backbone's own choice is more than that
    with pytest.raises(ValueError, match=r"it does not adapt, and the policy does: .*add_k_proj\.lora_A"):
        make_policy(lora=lora)


def test_adapters_of_another_model_are_refused(exported, make_rewriter) -> None:
    lora = LoRA(rank=2, alpha=6.0, targets=["q_proj"])
    state = make_rewriter(lora=lora).export(exported.parent / "llm")
    with pytest.raises(ValueError, match=r"no linear layer of Qwen3ForCausalLM is called 'to_q'"):
        make_rewriter(lora=LoRA(rank=2, alpha=6.0, targets=["to_q", "to_k"], pretrained=str(exported)))
    weights = {name: weight.clone() for name, weight in load_file(state / "adapter_model.safetensors").items()}
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**weights, name: weights[name][:, :8].contiguous()}, state / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"q_proj.lora_A.default.weight has the shape \(2, 8\), here it is \(2, 32\)"):
        make_rewriter(lora=LoRA(rank=2, alpha=6.0, targets=["q_proj"], pretrained=str(state)))
    save_file({**weights, "extra.lora_A.weight": weights[name].clone()}, state / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"it adapts, and the policy does not: extra\.lora_A\.default\.weight"):
        make_rewriter(lora=LoRA(rank=2, alpha=6.0, targets=["q_proj"], pretrained=str(state)))


def test_what_is_no_export_is_refused(exported, make_rewriter, tmp_path) -> None:
    def refused(folder, message):
        with pytest.raises(ValueError, match=message):
            find_adapters(folder)

    refused(tmp_path / "nowhere", "must be a directory with pytorch_lora_weights.safetensors or adapter_model.safe")
    refused(exported.parent, r"as export writes it, got '.*/run'\. '.*/run/lora' is one\.")
    weights = {key: value.clone() for key, value in load_file(exported / "pytorch_lora_weights.safetensors").items()}
    save_file(weights, exported / "pytorch_lora_weights.safetensors")  # without its header
    refused(exported, "does not say r, lora_alpha and target_modules of its adapters")
    (exported / "pytorch_lora_weights.safetensors").write_bytes(b"no weights")
    refused(exported, "the adapters' settings in '.*' cannot be read")
    language = make_rewriter(lora=LoRA(rank=2, targets=["q_proj"])).export(tmp_path / "llm")
    config = json.loads((language / "adapter_config.json").read_text())
    (language / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    refused(language, "has adapters of another kind: use_rslora is set")
    (language / "adapter_config.json").unlink()
    refused(language, "cannot be read: .*No such file")
    (language / "adapter_config.json").write_text(json.dumps(config))
    (language / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors' cannot be read"):
        make_rewriter(lora=LoRA(rank=2, targets=["q_proj"], pretrained=str(language)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_merged_adapters_draw_the_same(make_policy, stir, dtype, tolerance) -> None:
    """And what is trained is left alone: weights to the bit, score and gradient too."""
    apart, merged = (make_policy(merge_adapters=merge, samples_per_noise=2).to(dtype) for merge in (False, True))
    stir(apart)
    stir(merged)
    before = {name: p.clone() for name, p in merged.named_parameters()}
    rollouts = [
        policy.rollout(["a fox", "a lake"], 4, generator=torch.Generator().manual_seed(0)) for policy in (apart, merged)
    ]
    expected, drawn = ((r.images, r.sampled.log_probs, r.policy_state["latents"]) for r in rollouts)
    scale = [1, 1, float(expected[2].abs().max())]
    for one, other, size in zip(expected, drawn, scale, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=tolerance * size)
    assert not torch.equal(drawn[2], expected[2])  # products in another order
    images = [policy.sample(["a fox"], [0]) for policy in (apart, merged)]
    torch.testing.assert_close(*images, rtol=0, atol=tolerance)
    after = dict(merged.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    scores = [policy.score(rollouts[0], torch.arange(8)).log_probs for policy in (apart, merged)]
    assert torch.equal(*scores)
    for score in scores:
        score.sum().backward()
    for one, other in zip(*(policy.trainable_parameters().values() for policy in (apart, merged)), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_merged_adapters_write_the_same(make_rewriter, stir) -> None:
    rollouts, products = [], []
    for merge in (False, True):
        policy, calls = make_rewriter(merge_adapters=merge), []
        stir(policy)
        for module in policy.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda *call, calls=calls: calls.append(call))
        rollouts.append(policy.rollout(["a cat", "a lake"], 4, generator=torch.Generator().manual_seed(0)))
        products.append(len(calls))
    apart, merged = rollouts
    assert torch.equal(merged.policy_state["tokens"], apart.policy_state["tokens"])
    assert torch.equal(merged.sampled.log_probs, apart.sampled.log_probs)  # scored by the trained model itself
    assert products[1] < products[0] / 2


@pytest.mark.parametrize(("fault", "named"), [("bfloat16", r"torch\.bfloat16"), ("autocast", "autocast")])
def test_an_update_that_merging_would_round_away_is_refused(make_policy, fault, named) -> None:
    policy = make_policy(merge_adapters=True)
    if fault == "bfloat16":
        policy.transformer.to(torch.bfloat16)
    match = rf"merge_adapters=true needs whole float32 weights and no autocast, got {named}\."
    with torch.autocast("cpu", torch.bfloat16, enabled=fault == "autocast"), pytest.raises(ValueError, match=match):
        policy.sample(["a fox"], [0])


def test_there_must_be_adapters_to_merge(make_policy) -> None:
    with pytest.raises(ValueError, match="merge_adapters is for adapters: set lora"):
        make_policy(merge_adapters=True, lora=None)
