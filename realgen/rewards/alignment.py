"""Alignment: how well an image shows what the prompt says, by CLIP."""

from pathlib import Path

from realgen.checks import first_line
from realgen.detectors.transformers_model import no_questions
from realgen.functional.published_input import open_clip_input
from realgen.given_files import read_json
from realgen.rewards.clip_similarity import ClipSimilarity, Encoders, Similarity
from realgen.rewards.published_weights import check_open_clip_tokenizer

CONFIG = "open_clip_config.json"


class Alignment(ClipSimilarity):
    """Cosine similarity of CLIP's image and text features, in [-1, 1].

    Takes any open_clip model; ``LongClip`` reads longer prompts. Unlike RealGen, whose reward is the dot product of the
    features before normalisation, the length of the features does not count, unless ``similarity`` says so. ValueError
    if ``batch_size`` is below 1, or ``model`` is no such folder and ``pretrained`` is not given.

    Args:
        model: A folder in open_clip's ``local-dir`` layout (``open_clip_config.json``, weights, tokenizer files); or,
            together with ``pretrained``, the name of an open_clip architecture.
        pretrained: Weights for a named architecture: a file, or a tag of open_clip's (which it downloads).
        similarity: ``cosine``; or ``dot``, the raw dot product / 100.
        batch_size: Images or prompts per forward pass.
    """

    def __init__(
        self, model: str, pretrained: str | None = None, similarity: Similarity = "cosine", batch_size: int = 64
    ) -> None:
        super().__init__(similarity, batch_size)
        # Other schemes of open_clip ("hf-hub:") bring settings of their own, which can run code.
        if ":" in model if pretrained is not None else not (Path(model) / CONFIG).is_file():
            raise ValueError(
                f"model must be a folder with {CONFIG}, or an open_clip name with pretrained weights; got {model!r} "
                f"with pretrained={pretrained!r}."
            )
        self.pretrained = pretrained
        self.model = model if pretrained is not None else f"local-dir:{model}"

    def build(self) -> Encoders:
        """Read the weights; raise ValueError if open_clip does not know the model, or finds none that fit."""
        import open_clip  # seconds to import

        try:
            with no_questions():
                model = open_clip.create_model(self.model, pretrained=self.pretrained, require_pretrained=True)
                tokenizer = open_clip.get_tokenizer(self.model, **self._tokenizer_settings())
        except Exception as error:  # broken files raise errors of many types
            weights = "" if self.pretrained is None else f" with pretrained={self.pretrained!r}"
            cause = first_line(error)
            raise ValueError(f"open_clip cannot load model {self.model!r}{weights}: {cause}") from error
        check_open_clip_tokenizer(tokenizer, model, "model")
        return Encoders(model, tokenizer, open_clip_input(model.visual.preprocess_cfg))

    def _tokenizer_settings(self) -> dict[str, bool]:
        """Return what keeps a folder's own settings from having its Python files run."""
        if self.pretrained is not None:
            return {}
        config = read_json(Path(self.model.removeprefix("local-dir:")) / CONFIG)
        # open_clip's other tokenizers run none, and do not know the word.
        return {"trust_remote_code": False} if config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") else {}
