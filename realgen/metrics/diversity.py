"""How different the images of one prompt are."""

from jaxtyping import Float
from torch import Tensor

from realgen.functional.distribution_distance import within_group_distance
from realgen.metrics.encoder import EncoderMetric


class Diversity(EncoderMetric):
    """Mean cosine distance between the features of two generated images of the same prompt, in [0, 2].

    Each prompt with at least two images counts once; they may come in different updates or ranks. The value depends on
    the encoder: compare it with the base model's, or with real images of the same prompts given as ``images``. It falls
    when a policy draws one image per prompt, and does not see whether different prompts get the same image.

    Args:
        encoder: One that no reward uses.
    """

    higher_is_better: bool = True
    min_samples_per_prompt: int = 2

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean over prompts of the mean pairwise distance; ValueError without images, or two of a prompt."""
        features, prompts = self.seen("generated"), self.prompts_of("generated")
        if len(prompts.unique()) == len(prompts):
            raise ValueError(
                f"Diversity needs two images of some prompt, got one of each of {len(prompts)}; draw more of each "
                "(validation_samples_per_prompt), or leave the metric out."
            )
        return self.result(within_group_distance(features, prompts))
