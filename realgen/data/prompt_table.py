"""The prompts of some shards by number: few are kept in memory, many are read on demand."""

import hashlib
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from realgen.data.order import prompt_seed
from realgen.data.shard_paths import is_url, open_shard
from realgen.data.shard_reader import InvalidSample, Sample, read_samples
from realgen.image_decoding import decode_image
from realgen.types import PromptBatch

_NAMED = 5


class PromptTable:
    """Every usable sample of some shards, numbered in the order of the shards.

    The shards are read once, from end to end, when the table is made. Of local shards with more prompts than
    ``max_in_memory``, or with ``real_images``, only offset and checksum of each prompt are kept (12 bytes), and the
    prompt is read from its tar each time. The numbers do not depend on that. ValueError if no sample can be used, a URL
    cannot be read, URLs hold more than ``max_in_memory`` prompts, only some prompts have real images, or these differ
    in size and ``image_size`` is None.

    Args:
        shards: Names from ``find_shards``, uncompressed tars. URLs are read into memory.
        max_in_memory: Prompts above which they are not kept in memory, at least 1.
        real_images: Whether to read and check the real images. Each is decoded once when the table is made.
        image_size: Height and width to which real images are scaled and centrally cropped. With None they keep their
            size, and must all have the same.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        max_in_memory: int = 200_000,
        real_images: bool = False,
        image_size: int | None = None,
    ) -> None:
        self.shards = tuple(shards)
        self.skipped = 0
        self.skipped_names: list[str] = []
        """The first five of them: shard, key and reason."""
        self.image_shape: torch.Size | None = None
        """[3, H, W] of the real images; None without them."""
        self._real_images = real_images
        self._image_size = image_size
        self._offsets = array("q")
        self._checksums = array("I")
        self._first_rows: list[int] = []
        self._samples: list[Sample] | None = []
        self._digest = hashlib.sha256()
        streamed = any(is_url(shard) for shard in shards)
        self._max_in_memory = max_in_memory if streamed or not real_images else 0
        self._must_fit = streamed
        for shard in self.shards:
            self._first_rows.append(len(self))
            self._scan(shard)
        if not self._offsets:
            raise ValueError(
                f"no sample of the {len(self.shards)} shards can be used; first: {self.skipped_names[0]}"
                if self.skipped_names
                else f"the {len(self.shards)} shards hold no sample, the first is {self.shards[0]}."
            )

    @property
    def digest(self) -> str:
        """SHA-256 of all keys and prompts in order, to compare the tables of two ranks."""
        return self._digest.hexdigest()

    def __len__(self) -> int:
        """Number of usable samples."""
        return len(self._offsets)

    def __getitem__(self, row: int) -> Sample:
        """Return the sample of a number in [0, len); RuntimeError if the shard has changed since the table was made."""
        if self._samples is not None:
            return self._samples[row]
        shard = self.shards[bisect_right(self._first_rows, row) - 1]
        with open_shard(shard) as file:
            file.seek(self._offsets[row])
            _, sample = next(read_samples(file, real_images=self._real_images), (0, None))
        if not isinstance(sample, Sample) or _checksum(sample) != self._checksums[row]:
            raise RuntimeError(
                f"the shard {shard!r} has changed since the run began: put the old file back and go on from the last "
                "checkpoint, or start a new run. Shards that a run reads must not change; new prompts need new files."
            )
        return sample

    def batch(self, rows: Sequence[int], *, mask: Sequence[bool] | None = None) -> PromptBatch:
        """Put samples, at least one, together; the mask is True where a row counts, None if all do."""
        samples = [self[row] for row in rows]
        images = [self._image(sample.real_image) for sample in samples if sample.real_image is not None]
        return PromptBatch(
            prompts=tuple(sample.prompt for sample in samples),
            keys=tuple(sample.key for sample in samples),
            metadata=tuple(sample.metadata for sample in samples),
            seeds=tuple(prompt_seed(sample.key, sample.prompt) for sample in samples),
            mask=torch.tensor(mask if mask is not None else [True] * len(samples)),
            images=torch.stack(images) if images else None,
        )

    def _scan(self, shard: str) -> None:
        with open_shard(shard) as file:
            for offset, sample in read_samples(file, real_images=self._real_images):
                shape = None
                if isinstance(sample, Sample) and sample.real_image is not None:
                    # Decoded now: later it could no longer be skipped without shifting the order.
                    try:
                        shape = self._image(sample.real_image).shape
                    except ValueError as error:
                        sample = InvalidSample(sample.key, str(error))
                if isinstance(sample, Sample):
                    self._check_real_image(shape, f"{shard}, sample {sample.key!r}")
                    self._append(sample, offset, shard)
                else:
                    self.skipped += 1
                    if len(self.skipped_names) < _NAMED:
                        self.skipped_names.append(f"{shard}, sample {sample.key!r}: {sample.reason}.")

    def _check_real_image(self, shape: torch.Size | None, name: str) -> None:
        """Raise ValueError if real images cannot be batched with those before."""
        if not self._offsets:
            self.image_shape = shape
        if (shape is None) != (self.image_shape is None):
            have = "has no real image" if shape is None else "has a real image"
            raise ValueError(f"either all prompts or none must have a real image: {name} {have}, unlike those before.")
        if shape is not None and self.image_shape is not None and shape != self.image_shape:
            raise ValueError(
                f"image_size must be given when real images differ in size: {name} is {shape[2]}x{shape[1]} pixels, "
                f"those before are {self.image_shape[2]}x{self.image_shape[1]}."
            )

    def _append(self, sample: Sample, offset: int, shard: str) -> None:
        self._offsets.append(offset)
        self._checksums.append(_checksum(sample))
        self._digest.update(_identity(sample))
        if self._samples is not None and len(self) > self._max_in_memory:
            if self._must_fit:
                raise ValueError(
                    f"the shards hold more prompts than max_in_memory={self._max_in_memory}, and prompts from URLs "
                    f"must fit in memory (reached in {shard!r}): copy the shards to a local disk, or raise "
                    "max_in_memory."
                )
            self._samples = None
        if self._samples is not None:
            self._samples.append(sample)

    def _image(self, real_image: bytes) -> Float[Tensor, "3 height width"]:
        image = decode_image(real_image)
        if self._image_size is not None:
            image = ImageOps.fit(image, (self._image_size, self._image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def _identity(sample: Sample) -> bytes:
    """Return what all ranks must agree on."""
    return f"{sample.key}\n{sample.prompt}\n".encode()


def _checksum(sample: Sample) -> int:
    return zlib.crc32(sample.real_image or b"", zlib.crc32(_identity(sample)))
