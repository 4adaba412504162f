"""Write the prompt shards of the embedded default.

    python -m experiments.nano.prompts --output data/prompts

Training: every plain prompt that is not held out. Validation: the held-out ones, each with a held-out crop of its
subject, to measure generated pictures against.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.nano.captions import split_prompts
from experiments.nano.corpus import HELD_OUT_SEED, make_corpus
from experiments.nano.photographs import SUBJECTS
from realgen.data.shards import write_shards

PHOTOGRAPH_SEED = HELD_OUT_SEED + 5
"""Of the crops beside the validation prompts; no other held-out corpus has it."""


def validation_samples() -> Iterator[dict[str, Any]]:
    """Held-out prompts with their photographs; the k-th prompt of a subject gets its k-th crop.

    The first prompt of every subject comes first, then the second ones, so that any beginning shows many subjects.

    Yields:
        Samples as ``write_shards`` takes them.
    """
    prompts = split_prompts()[1]
    corpus = make_corpus(len(prompts) // len(SUBJECTS), seed=PHOTOGRAPH_SEED, held_out=True)
    each = len(prompts) // len(SUBJECTS)
    for row in (subject * each + number for number in range(each) for subject in range(len(SUBJECTS))):
        index, prompt = prompts[row]
        assert index == int(corpus.subjects[row]), (
            "prompts and crops both go through the subjects, equally many of each"
        )
        image = Image.fromarray(corpus.real[row].permute(1, 2, 0).numpy())
        yield {"prompt": prompt, "subject": SUBJECTS[index].names[0], "image": image}


def write_prompts(output: Path) -> list[Path]:
    """Write ``train/train-000000.tar`` and ``validation/validation-000000.tar``, in place of those that are there.

    Args:
        output: Folder of both folders. The same code gives the same bytes.

    Returns:
        Paths of the shards.
    """
    train = ({"prompt": prompt, "subject": SUBJECTS[index].names[0]} for index, prompt in split_prompts()[0])
    return [
        *write_shards(train, output / "train", overwrite=True),
        *write_shards(validation_samples(), output / "validation", overwrite=True),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/prompts"))
    for path in write_prompts(**vars(parser.parse_args(arguments))):
        print(path)


if __name__ == "__main__":
    main()
