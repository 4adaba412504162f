"""Alignment: how well an image shows what the prompt says, by CLIP."""

from __future__ import annotations

from pathlib import Path

from realgen.functional.published_input import open_clip_input
from realgen.rewards.clip_similarity import ClipSimilarity, Encoders, Similarity


class Alignment(ClipSimilarity):
    """Cosine similarity of CLIP's image and text features, in [-1, 1].

    Takes any open_clip model; ``LongClip`` reads longer prompts. Unlike RealGen, whose reward is the dot product of
    the features before normalisation, the length of the features does not count, unless ``similarity`` says so.

    Args:
        model: A folder in open_clip's ``local-dir`` layout (``open_clip_config.json``, weights, tokenizer files); or,
            together with ``pretrained``, the name of an open_clip architecture.
        pretrained: Weights for a named architecture: a file, or a tag of open_clip's (which it downloads).
        similarity: ``cosine``; or ``dot``, the raw dot product / 100.
        batch_size: Images or prompts per forward pass.

    Raises:
        ValueError: If ``batch_size`` is below 1, or ``model`` is no such folder and ``pretrained`` is not given.
    """

    def __init__(
        self, model: str, pretrained: str | None = None, similarity: Similarity = "cosine", batch_size: int = 64
    ) -> None:
        super().__init__(similarity, batch_size)
        if pretrained is None and not (Path(model) / "open_clip_config.json").is_file():
            raise ValueError(
                f"model must be a folder with open_clip_config.json, or an open_clip name with pretrained weights; got "
                f"{model!r} without pretrained."
            )
        self.pretrained = pretrained
        self.model = model if pretrained is not None else f"local-dir:{model}"

    def build(self) -> Encoders:
        """Read the weights.

        Raises:
            ValueError: If open_clip does not know the model, or finds no whole weights that fit it.
        """
        import open_clip  # seconds to import

        try:
            model = open_clip.create_model(self.model, pretrained=self.pretrained, require_pretrained=True)
        except Exception as error:  # broken files raise errors of many types
            weights = "" if self.pretrained is None else f" with pretrained={self.pretrained!r}"
            cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"open_clip cannot load model {self.model!r}{weights}: {cause}") from error
        return Encoders(model, open_clip.get_tokenizer(self.model), open_clip_input(model.visual.preprocess_cfg))
