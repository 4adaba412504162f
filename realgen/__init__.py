"""realgen: detector-guided GRPO post-training of text-to-image models for photorealism."""

__version__ = "0.1.0"
