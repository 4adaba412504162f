"""Scoring of completions as whole sequences: padding on the right, every chunk of the same shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realgen.functional.token_sampling import truncated_log_softmax, unpack_bits
from realgen.policies.text_engine import Completions
from realgen.types import lengthen


def token_state(prompts: Sequence[Sequence[int]], completions: Completions, pad_id: int) -> dict[str, Tensor]:
    """Return the tensors from which completions are scored again.

    ``tokens`` [B, L], each row its prompt, its completion and padding; ``prompt_lengths`` [B]; with a nucleus ``kept``
    [B, S, bytes]; for statistics ``sampler_log_probs`` and ``entropy`` [B, S].
    """
    device = completions.tokens.device
    heads = [list(prompt) or [pad_id] for prompt in prompts]
    lengths = torch.tensor([len(head) for head in heads], device=device)
    size = completions.tokens.shape[1]
    tokens = torch.full((len(heads), int(lengths.max()) + size), pad_id, device=device)
    for row, head in enumerate(heads):
        tokens[row, : len(head)] = torch.tensor(head, device=device)
        tokens[row, len(head) : len(head) + size] = completions.tokens[row]
    state = {"tokens": tokens, "prompt_lengths": lengths}
    state |= {"sampler_log_probs": completions.log_probs, "entropy": completions.entropy}
    return state if completions.kept is None else {**state, "kept": completions.kept}


def join_token_states(states: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Join states of other prompts: completions are filled up to the longest, tokens so that each row has room."""
    size = max(state["sampler_log_probs"].shape[1] for state in states)
    width = max(int(state["prompt_lengths"].max()) for state in states) + size
    joined = {name: [state[name] for state in states] for name in states[0]}
    for name in joined.keys() - {"prompt_lengths"}:
        to, value = (width, pad_id) if name == "tokens" else (size, 0)
        joined[name] = [lengthen(part, to, value) for part in joined[name]]
    return {name: torch.cat(parts) for name, parts in joined.items()}


def score_tokens(
    model: Any, state: Mapping[str, Tensor], rows: Int[Tensor, " picked"], *, temperature: float, batch_size: int
) -> Float[Tensor, "picked decisions"]:
    """Return log-probabilities of the completions' tokens, in chunks of one shape, so that other rows change no bit.

    Causal attention does not see the padding behind a completion, so there is no attention mask. A shorter last chunk
    is padded with its first row. What the result holds for padding has no meaning.
    """
    chunks = []
    for chunk in rows.split(batch_size):
        filled = torch.cat([chunk, chunk[:1].expand(batch_size - len(chunk))])
        part = {name: tensor[filled.to(tensor.device)].to(model.device) for name, tensor in state.items()}
        shortest = int(state["prompt_lengths"].min())  # of all rows: the shape must not depend on the chunk
        chunks.append(_score_chunk(model, part, shortest, temperature)[: len(chunk)])
    return torch.cat(chunks)


def _score_chunk(
    model: Any, part: Mapping[str, Tensor], shortest: int, temperature: float
) -> Float[Tensor, "rows decisions"]:
    tokens, lengths = part["tokens"], part["prompt_lengths"]
    size = part["sampler_log_probs"].shape[1]
    length = tokens.shape[1]
    output = model(input_ids=tokens[:, :-1], use_cache=False, logits_to_keep=length - shortest)
    # Token i is predicted by the logits at i - 1; the logits that are kept start at shortest - 1.
    decides = (lengths - shortest)[:, None] + torch.arange(size, device=tokens.device)  # [b, S]
    logits = output.logits[torch.arange(len(tokens), device=tokens.device)[:, None], decides]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    drawn = tokens.gather(1, decides + shortest).unsqueeze(-1)
    kept = None
    if "kept" in part:  # padding has an empty nucleus, and its -inf would make the gradient NaN
        kept = unpack_bits(part["kept"], logits.shape[-1]).scatter(-1, drawn, True)
    return truncated_log_softmax(logits, temperature, kept).gather(-1, drawn).squeeze(-1)
