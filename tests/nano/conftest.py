"""What the tests of several nano models stand on."""

import pytest
import torch


@pytest.fixture
def eager():
    """Compiling takes longer than the few steps of a test."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Folder of a nano pipeline as it is written, with random weights."""
    from experiments.nano.diffusion import Denoiser, assemble
    from experiments.nano.silent_t5 import silent_t5
    from experiments.nano.tokenizer import build_tokenizer
    from experiments.nano.vae import build_vae

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained")
    silent_t5(assemble(Denoiser(build_tokenizer()), build_vae())).save_pretrained(folder)
    return folder
