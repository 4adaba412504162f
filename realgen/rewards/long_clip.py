"""Long-CLIP: alignment with prompts of up to 248 tokens, where CLIP reads 77."""

from pathlib import Path

import torch
from torch import Tensor

from realgen.detectors.checkpoint import read_state_dict
from realgen.functional.positions import stretch_positions
from realgen.hub_files import check_file, local_file
from realgen.rewards.clip_similarity import ClipSimilarity, Encoders, Similarity
from realgen.rewards.published_weights import clip_encoders

KEPT = 20
"""Positions that are not stretched, as CLIP's training covers them well (arXiv:2403.15378, section 3.2)."""
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""Numbers that OpenAI's files hold beside the weights."""


class LongClip(ClipSimilarity):
    """Similarity of image and prompt by Long-CLIP (arXiv:2403.15378), cosine in [-1, 1].

    The published layout is OpenAI's CLIP with two tables of 248 positions: the first 20 are taken from
    ``positional_embedding``, the others from ``positional_embedding_res``. Text behind token 248 is cut off, and the
    last token kept is the end of text. RealGen's reward is ``similarity: dot``, in half precision; ours is in float32.
    ValueError if ``batch_size`` is below 1, or ``checkpoint`` is neither a file nor an address.

    Args:
        checkpoint: The published file (``longclip-L.pt``); or the same weights as ``.safetensors``; or
            ``hf-hub:OWNER/REPOSITORY/FILE``.
        architecture: Of the weights, as open_clip names it.
        stretch: The checkpoint is a plain CLIP: stretch its one table to four times its length less 60, as Long-CLIP's
            training began. It has not learnt to use the new positions.
        similarity: ``cosine``; or ``dot``, the raw dot product / 100.
        batch_size: Images or prompts per forward pass.
    """

    def __init__(
        self,
        checkpoint: str,
        architecture: str = "ViT-L-14-quickgelu",
        stretch: bool = False,
        similarity: Similarity = "cosine",
        batch_size: int = 64,
    ) -> None:
        super().__init__(similarity, batch_size)
        check_file(checkpoint, "checkpoint")
        self.checkpoint, self.architecture, self.stretch = checkpoint, architecture, stretch

    def build(self) -> Encoders:
        """Read the weights; raise ValueError if the file has another layout, and name those that do not fit."""
        path = local_file(self.checkpoint)
        state = read_state_dict(path)
        table = stretched_table(state, path) if self.stretch else joined_table(state, path)
        state = {name: value for name, value in state.items() if name != "positional_embedding_res"}
        return clip_encoders(
            self.architecture,
            {**state, "positional_embedding": table},
            path,
            context_length=len(table),
            ignored=NOT_WEIGHTS,
        )


def joined_table(state: dict[str, Tensor], source: Path) -> Tensor:
    """Return positions [248, D]: 20 rows of Long-CLIP's first table, then its second; ValueError if one is missing."""
    shapes = {name: tuple(state[name].shape) for name in state if name.startswith("positional_embedding")}
    if set(shapes) != {"positional_embedding", "positional_embedding_res"} or len(set(shapes.values())) > 1:
        raise ValueError(
            f"{source} must hold Long-CLIP's two tables, positional_embedding and positional_embedding_res, of one "
            f"shape; it has {shapes or 'neither'}. A plain CLIP needs stretch: true."
        )
    return torch.cat([state["positional_embedding"][:KEPT], state["positional_embedding_res"][KEPT:]])


def stretched_table(state: dict[str, Tensor], source: Path) -> Tensor:
    """Return a plain CLIP's positions [T, D] as [4 T - 60, D], by ``stretch_positions``; ValueError if it has none."""
    if "positional_embedding" not in state or "positional_embedding_res" in state:
        raise ValueError(f"stretch needs a plain CLIP with one positional_embedding; {source} is none.")
    return stretch_positions(state["positional_embedding"], keep=KEPT)
