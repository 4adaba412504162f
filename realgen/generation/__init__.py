"""Pictures of prompts: what is asked for, what draws it, and the files."""

from realgen.generation.request import Request, read_prompts
from realgen.generation.studio import Studio, generate

__all__ = ["Request", "Studio", "generate", "read_prompts"]
