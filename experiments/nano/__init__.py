"""How the embedded default was made: photographs, captions, and the training of the nano models."""
