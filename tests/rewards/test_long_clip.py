import open_clip
import pytest
import torch
from torch.nn import functional as F

from realgen.functional.positions import stretch_positions
from realgen.rewards import LongClip

LONG = " ".join(["a photo of the moon with grain"] * 20)  # about 140 tokens
PROMPTS = [LONG + " and a cat", LONG + " and a dog"]


@pytest.fixture
def state(plain_clip):
    """Long-CLIP's layout: OpenAI's names, and two tables of 248 positions that differ."""
    state = dict(plain_clip.state_dict())
    table = stretch_positions(state["positional_embedding"])
    state["positional_embedding"] = table + 0.1
    state["positional_embedding_res"] = table - 0.1
    return state


@pytest.fixture
def published(state, tmp_path):
    torch.save(state, tmp_path / "longclip-L.pt")
    return tmp_path / "longclip-L.pt"


@torch.no_grad()
def published_text_features(model, state, tokens):
    """The published forward pass: each table times the mask of its positions."""
    first = (torch.arange(248) < 20).float()[:, None]
    x = model.token_embedding(tokens)
    x = x + state["positional_embedding"] * first + state["positional_embedding_res"] * (1 - first)
    x = model.transformer(x, attn_mask=torch.full((248, 248), -torch.inf).triu(1))
    x = model.ln_final(x)
    return x[torch.arange(len(tokens)), tokens.argmax(-1)] @ model.text_projection


def published_products(model, state, samples):
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    tokens = open_clip.get_tokenizer("ViT-L-14", context_length=248)(samples.row_prompts)
    with torch.no_grad():
        images = model.encode_image((samples.images - mean) / std)
    return images, published_text_features(model, state, tokens)


def test_is_the_published_forward_pass(published, state, architecture, plain_clip, make_samples):
    samples = make_samples(torch.rand(4, 3, 32, 32), PROMPTS, group_size=2)
    images, texts = published_products(plain_clip, state, samples)
    cosine = LongClip(str(published), architecture).score(samples)
    torch.testing.assert_close(cosine, F.cosine_similarity(images, texts), atol=1e-5, rtol=0)
    dot = LongClip(str(published), architecture, similarity="dot").score(samples)
    torch.testing.assert_close(dot, (images * texts).sum(-1) / 100, atol=1e-5, rtol=1e-5)


def test_words_behind_token_77_count_and_behind_248_do_not(published, architecture, make_samples):
    images = torch.rand(1, 3, 32, 32).repeat(2, 1, 1, 1)
    reward = LongClip(str(published), architecture)
    cat, dog = reward.score(make_samples(images, PROMPTS, group_size=1)).tolist()
    assert abs(cat - dog) > 1e-4
    endless = [f"{LONG} {LONG} and a {word}" for word in ("cat", "dog")]
    cat, dog = reward.score(make_samples(images, endless, group_size=1)).tolist()
    assert cat == dog


def test_batch_equals_one_by_one(published, architecture, make_samples):
    samples = make_samples(torch.rand(4, 3, 40, 32), PROMPTS, group_size=2)
    whole, single = (LongClip(str(published), architecture, batch_size=size).score(samples) for size in (64, 1))
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)


def test_a_plain_clip_is_stretched_only_on_demand(plain_clip, architecture, make_samples, tmp_path):
    state = {**plain_clip.state_dict(), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"must hold Long-CLIP's two tables.*stretch: true"):
        LongClip(str(tmp_path / "clip.pt"), architecture).to("cpu")
    samples = make_samples(torch.rand(2, 3, 32, 32), PROMPTS, group_size=1)
    table = stretch_positions(state["positional_embedding"])
    images, texts = published_products(
        plain_clip, {"positional_embedding": table, "positional_embedding_res": table}, samples
    )
    score = LongClip(str(tmp_path / "clip.pt"), architecture, stretch=True).score(samples)
    torch.testing.assert_close(score, F.cosine_similarity(images, texts), atol=1e-5, rtol=0)


def test_short_prompts_are_read_as_by_the_clip_that_was_stretched(plain_clip, architecture, make_samples, tmp_path):
    """Up to 20 tokens, positions are the old ones."""
    torch.save(plain_clip.state_dict(), tmp_path / "clip.pt")
    reward = LongClip(str(tmp_path / "clip.pt"), architecture, stretch=True)
    with torch.no_grad():
        expected = plain_clip.encode_text(open_clip.tokenize(["a cat"]))
        features = reward.network.model.encode_text(reward.network.tokenize(["a cat"]))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_other_layouts_are_refused_by_name(published, state, architecture, tmp_path):
    with pytest.raises(ValueError, match="stretch needs a plain CLIP with one positional_embedding"):
        LongClip(str(published), architecture, stretch=True).to("cpu")
    torch.save({**state, "positional_embedding_res": torch.zeros(77, 16)}, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"'positional_embedding_res': \(77, 16\)"):
        LongClip(str(tmp_path / "short.pt"), architecture).to("cpu")
    torch.save({name: value for name, value in state.items() if name != "ln_final.bias"}, tmp_path / "missing.pt")
    with pytest.raises(ValueError, match=r"missing: ln_final\.bias"):
        LongClip(str(tmp_path / "missing.pt"), architecture).to("cpu")
    (tmp_path / "cut.pt").write_bytes(published.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut.pt is broken or cut short|cut.pt cannot be read"):
        LongClip(str(tmp_path / "cut.pt"), architecture).to("cpu")
    with pytest.raises(ValueError, match="checkpoint must be a file"):
        LongClip("nowhere.pt")
