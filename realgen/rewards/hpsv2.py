"""HPSv2: which of two images of a prompt people would prefer."""

from realgen.detectors.checkpoint import read_state_dict
from realgen.hub_files import check_file, local_file
from realgen.rewards.clip_similarity import ClipSimilarity, Encoders
from realgen.rewards.published_weights import clip_encoders


class HPSv2(ClipSimilarity):
    """Human Preference Score v2 and v2.1 (arXiv:2306.09341): the cosine similarity of a fine-tuned CLIP.

    In [-1, 1]; the published weights answer about 0.2 to 0.35, and differences of 0.01 matter. The published code
    computes in half precision, we in float32. ValueError if ``batch_size`` is below 1, or ``checkpoint`` is neither a
    file nor an address.

    Args:
        checkpoint: The published file (``HPS_v2_compressed.pt``, ``HPS_v2.1_compressed.pt``), which holds its weights
            under ``state_dict``; or these as ``.safetensors``; or ``hf-hub:OWNER/REPOSITORY/FILE``.
        architecture: Of the weights, as open_clip names it.
        batch_size: Images or prompts per forward pass.
    """

    def __init__(self, checkpoint: str, architecture: str = "ViT-H-14", batch_size: int = 64) -> None:
        super().__init__(batch_size=batch_size)
        check_file(checkpoint, "checkpoint")
        self.checkpoint, self.architecture = checkpoint, architecture

    def build(self) -> Encoders:
        """Read the weights; raise ValueError if the file has another layout, and name those that do not fit."""
        path = local_file(self.checkpoint)
        return clip_encoders(self.architecture, read_state_dict(path), path, ignored=("attn_mask",))
