"""Images of prompts: the request, the generator, and the files."""

from realgen.generation.image_generator import ImageGenerator, generate
from realgen.generation.request import Request, read_prompts

__all__ = ["ImageGenerator", "Request", "generate", "read_prompts"]
