"""The DINOv3 variant's names; what it has in common with the CLIP variant is in test_routed_network.py."""

from realgen.detectors.vision_towers import DINO_PROJECTIONS


def test_names_are_the_published_ones(omniaid_dino_network, dino_tower):
    names = set(omniaid_dino_network.state_dict())
    experts = {"weight_main"} | {f"{part}_experts.{e}" for part in "USV" for e in range(4)}
    attention = {f"attention.{p}.{name}" for p in DINO_PROJECTIONS for name in experts}
    attention |= {f"attention.{p}.bias" for p in ("q_proj", "v_proj", "o_proj")}  # DINOv3's keys have none
    parts = ("norm1", "norm2", "mlp.up_proj", "mlp.down_proj")
    layer = {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    layer |= {"layer_scale1.lambda1", "layer_scale2.lambda1"} | attention
    outside = {f"{n}.{p}" for n in ("norm", "head") for p in ("weight", "bias")}
    outside |= {f"gating_network.network.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    patches = ("cls_token", "mask_token", "register_tokens", "patch_embeddings.weight", "patch_embeddings.bias")
    outside |= {f"embeddings.{name}" for name in patches}
    outside |= {f"feature_extractor.{name}" for name in dino_tower.state_dict()}
    assert names == outside | {f"layer.{i}.{name}" for i in (0, 1) for name in layer}
