"""Regional compilation: ``torch.compile`` of a transformer's repeated blocks, each by itself."""

import os
import shutil
from collections.abc import Sequence

import torch
from torch import nn

LEAST_VARIANTS = 64
"""Compiled variants that PyTorch may keep of a block. All blocks share one count, and each of these doubles it:
gradient or not, adapters on or off, a fixed number of rows or any. PyTorch's own limit, 8, is soon reached."""


def compile_blocks(transformer: nn.Module, blocks: Sequence[nn.Module], copies: Sequence[nn.Module] = ()) -> None:
    """Compile each block at its first call, in place; equal blocks share their programs.

    Exact but for the order of rounding: types are rounded where they would be without, so that a pass with gradient and
    one without agree, and the ratio of the first update stays 1. Names in state dicts stay what they are. Call it when
    the adapters are attached and before the blocks are sharded. A block that cannot be compiled as a whole is an error
    at its first call, never a slow surprise. ``blocks`` are the transformer's repeated ones; those of its ``copies``
    are compiled too, as ``deepcopy`` forgets it.

    Adapters on or off and gradient or not are graphs of their own, and so may be, once or twice, another number of rows
    or length of text. The plan does not know what it saves: it counts products, and compiling joins what lies between
    them; on a CPU that is 16 % of the embedded model's iteration (experiments/benchmarks/README.md). The blocks of
    Z-Image, Lumina 2 and Qwen-Image hold complex tensors (their rotary embeddings), which become graphs but which
    Inductor does not compile: they run as without, and little is gained.

    Raises:
        ValueError: If there is no C++ compiler, which PyTorch needs for it.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"compile_blocks needs a C++ compiler, and there is no {compiler!r} on this machine; install one, name it "
            "in the environment variable CXX, or leave compile_blocks at false."
        )
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, LEAST_VARIANTS)
    wanted = {id(block) for block in blocks}
    names = [name for name, module in transformer.named_modules() if id(module) in wanted]
    for network in (transformer, *copies):
        for name in names:
            network.get_submodule(name).compile(fullgraph=True, options={"emulate_precision_casts": True})
