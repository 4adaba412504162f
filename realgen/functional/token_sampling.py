"""Drawing tokens, and their log-probabilities under the distribution that they are drawn from."""

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


def nucleus(logits: Float[Tensor, "*rows vocabulary"], top_p: float) -> Bool[Tensor, "*rows vocabulary"]:
    """Return the fewest tokens whose probabilities reach ``top_p`` (nucleus sampling, arXiv:1904.09751, eq. 2).

    Of logits that are divided by the temperature already, and ``top_p`` above 0, at most 1. True for the most likely
    tokens, which may be drawn, at least one in each row.
    """
    probs, order = logits.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(-1) - probs
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before < top_p)


def truncated_log_softmax(
    logits: Float[Tensor, "*rows vocabulary"],
    temperature: float,
    kept: Bool[Tensor, "*rows vocabulary"] | None = None,
) -> Float[Tensor, "*rows vocabulary"]:
    """Return the log-probabilities that tokens are drawn by, ln softmax(logits / temperature) over ``kept``.

    Of float32 logits at least and a temperature above 0; ``kept`` is True for at least one token in each row, ``None``
    keeps all. -inf where a token may not be drawn.
    """
    logits = logits / temperature
    if kept is not None:
        logits = logits.masked_fill(~kept, -torch.inf)
    return logits.log_softmax(-1)


def draw_tokens(log_probs: Float[Tensor, "rows vocabulary"], uniforms: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Invert the distribution function: the first token at which the cumulated probability exceeds u.

    One uniform number is all the chance that a token needs, so the numbers of a whole rollout can be drawn beforehand,
    and a row's tokens do not depend on the rows beside it.

    Log-probabilities are normalised, -inf for tokens that may not be drawn; uniforms are in [0, 1), float64. A token of
    probability 0 is never drawn.
    """
    cumulated = log_probs.double().exp().cumsum(-1)
    # Rounded up to the total itself, u would fall behind the last token.
    reached = uniforms.to(cumulated.device).clamp(max=1 - 1e-12).unsqueeze(-1) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, reached, right=True).squeeze(-1)


def entropy(log_probs: Float[Tensor, "*rows vocabulary"]) -> Float[Tensor, " *rows"]:
    """Return the Shannon entropy, -sum p ln p >= 0, in nats; a log-probability of -inf counts as probability 0."""
    return -(log_probs.exp() * log_probs.clamp(min=torch.finfo(log_probs.dtype).min)).sum(-1)


def pack_bits(mask: Bool[Tensor, "*rows size"]) -> UInt8[Tensor, "*rows bytes"]:
    """Pack eight flags into a byte, the first one lowest: ceil(size / 8) bytes, the last one filled up with False."""
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded.to(torch.uint8) << torch.arange(8, device=mask.device, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: UInt8[Tensor, "*rows bytes"], size: int) -> Bool[Tensor, "*rows size"]:
    """Return the flags that ``pack_bits`` packed; ``size`` is their number, at most eight a byte."""
    bits = packed.unsqueeze(-1) >> torch.arange(8, device=packed.device, dtype=torch.uint8)
    return (bits & 1).bool().flatten(-2)[..., :size]
