"""What detectors are blind to: photographs and generated images, changed in many ways and seen by each detector."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from realgen.benchmark.detector_scoring import stream_images
from realgen.benchmark.inputs.matching import check_matching, read_matched, survey
from realgen.benchmark.report.page import render
from realgen.benchmark.report.tables import Table
from realgen.benchmark.report.thumbnails import thumbnails
from realgen.benchmark.report.view import chart_of
from realgen.checks import check_at_least
from realgen.data.generated_images import write_image
from realgen.data.image_files import find_images
from realgen.data.vae import load_vae, reconstruct
from realgen.functional.bootstrap import bootstrap_auroc, bootstrap_mean
from realgen.functional.corruptions import CHEATS, COLOURS, HARMLESS, Corruption
from realgen.functional.estimate import Estimate
from realgen.progress import ProgressBar
from realgen.tables import csv_bytes
from realgen.whole_files import write_whole

PLAIN, WORST, BUDGET = "unchanged", 6, 4_000_000
"""Name of no change; pictures of each detector in the page, and bytes of all of them."""
Sight = Callable[[Tensor], Tensor]
"""A detector, or anything else that returns ``p_fake`` [B] of images."""


class BlindSpot(NamedTuple):
    """What one detector sees of a generator's images, or after a change; its fakes are images that it should catch.

    Where a change counts as generated, fakes are photographs after it, else changed images of all generators.
    """

    detector: str
    shown: str
    kind: str
    missed: str
    """File of the fake with the smallest p_fake."""
    p_fake: float
    picture: Float[Tensor, "3 height width"]
    """That fake as the detector saw it."""
    auroc: Estimate
    """Of fakes against photographs, changed too where the label stays."""
    caught: Estimate
    """Share of fakes with p_fake above one half; ``false_alarms``: of those photographs."""
    false_alarms: Estimate
    shift: Estimate
    """What the change adds to the mean p_fake of photographs; ``gain``: to that of generated images."""
    gain: Estimate


@dataclass(frozen=True)
class BlindSpots:
    """Shows detectors photographs and images of generators, plain and changed (JPEG, size, blur, noise, colour ...).

    The random part of a change depends on the file's name alone. Changed are the photographs and about as many images
    of all generators alike.
    """

    vae: str | None = None
    """Folder of diffusers' ``AutoencoderKL``, or of a pipeline, that photographs go through; null leaves it out."""
    num_images: int = 500
    """Most photographs, and most images of each generator, evenly chosen by name."""

    def find(
        self, detectors: Mapping[str, Sight], real: str, images: Mapping[str, str], device: torch.device, **how: Any
    ) -> tuple[list[BlindSpot], list[str]]:
        """Return what each detector on ``device`` sees, by AUROC, the worst first, and warnings of the files' formats.

        ``images`` are folders by generator; each folder inside one is a generator. ``how``: the ``matching`` of the
        formats, and other arguments of ``stream_images``. ValueError without images.
        """
        check_at_least(1, num_images=self.num_images)
        photographs, fakes, generators = self._choose(real, "real"), dict(CHEATS), dict[str, list[Path]]()
        for name, folder in images.items():
            found = {each.name: str(each) for each in sorted(Path(folder).glob("*/"))} or {name: folder}
            generators |= {each: self._choose(path, f"images.{name}: generated") for each, path in found.items()}
        sets = {"real": photographs, **generators}
        warnings = check_matching(how["matching"], {name: survey(files, argument=name) for name, files in sets.items()})
        some = [file for files in generators.values() for file in files[: -(-len(photographs) // len(generators))]]
        if self.vae is not None:
            vae = load_vae(self.vae).to(device)
            fakes["vae"] = lambda images, _: reconstruct(vae, images)
        changes: dict[str, Corruption] = {PLAIN: lambda images, _: images} | HARMLESS | COLOURS | fakes

        def score(files: Sequence[Path], names: Iterable[str]) -> dict[str, Tensor]:
            """Return p_fake [detectors, files] after each change."""
            parts: dict[str, list[Tensor]] = {name: [] for name in names}
            with ProgressBar(len(files) * len(parts), "scoring") as bar:
                for rows, batch in stream_images(files, device=device, **how):
                    for name, part in parts.items():
                        seen = _changed(changes[name], [files[row] for row in rows], batch)
                        part.append(torch.stack([detector(seen).double().cpu() for detector in detectors.values()]))
                        bar.update(len(rows))
            return {name: torch.cat(part, dim=1) for name, part in parts.items()}

        of_real, of_some = score(photographs, changes), score(some, changes)
        plain = {name: score(files, [PLAIN])[PLAIN] for name, files in generators.items()}
        shown = [(n, "a generator", PLAIN, plain[n], of_real[PLAIN], files) for n, files in generators.items()]
        shown += [(n, "counts as generated", n, of_real[n], of_real[PLAIN], photographs) for n in fakes]
        shown += [(n, "label stays", n, of_some[n], of_real[n], some) for n in changes if n not in fakes]
        spots = []
        for row, detector in enumerate(detectors):
            for name, kind, change, caught, against, files in shown:
                fake, true, least = caught[row], against[row], int(caught[row].argmin())
                image = read_matched(files[least], how["matching"])[None].to(device)
                image = _changed(changes[change], [files[least]], image)
                moved = [p[change][row] - p[PLAIN][row] for p in (of_real, of_some)]
                means = [bootstrap_mean(column.double()) for column in (fake > 0.5, true > 0.5, *moved)]
                missed = str(files[least]), float(fake[least]), image[0]
                area = bootstrap_auroc(fake, true, paired=change in fakes)
                spots.append(BlindSpot(detector, name, kind, *missed, area, *means))
        return sorted(spots, key=lambda spot: spot.auroc.value or 0.0), warnings

    def _choose(self, folder: str, argument: str) -> list[Path]:
        files = find_images(folder, argument=argument)
        number = min(self.num_images, len(files))
        return [files[place * len(files) // number].path for place in range(number)]


def _changed(change: Corruption, files: Sequence[Path], images: Tensor) -> Tensor:
    seeds = (torch.Generator().manual_seed(zlib.crc32(file.name.encode(errors="replace"))) for file in files)
    return torch.cat([change(image, generator) for image, generator in zip(images.split(1), seeds, strict=True)])


def write_blind_spots(spots: Sequence[BlindSpot], folder: Path, **shown: Any) -> tuple[Table, list[Path]]:
    """Write a page, a CSV file, and into ``examples`` the pictures of the page; return a table, and the first two.

    The table has each detector's AUROC; first what the best of them sees worst, as there the whole portfolio is blind.
    """
    names, rows = sorted({spot.detector for spot in spots}), dict[tuple[str, str], dict[str, str]]()
    for spot in spots:  # the worst first, so that the last one of a row is the best detector's
        rows[spot[1:3]] = {**rows.pop(spot[1:3], {}), spot.detector: spot.auroc.text(".2f")}
    texts = [(*key, *(found[name] for name in names)) for key, found in rows.items()]
    caption = "AUROC; first what even the best of them sees worst"
    overview = Table(caption, ["shown", "kind", *names], texts, text_columns=2)
    page, table, columns = folder / "blind_spots.html", folder / "blind_spots.csv", BlindSpot._fields[6:]
    head = [*BlindSpot._fields[:5], *(f"{name}{end}" for name in columns for end in ("", "_low", "_high"))]
    lines = [[*spot[:5], *(end for e in spot[6:] for end in (e.value, e.low, e.high))] for spot in spots]
    write_whole(table, csv_bytes([head, *lines]))
    charts, files = {}, dict[tuple[str, str], Path]()
    for name in names:
        own = [spot for spot in spots if spot.detector == name]
        bars, labels = [(spot.shown, spot.auroc) for spot in own], [spot.auroc.text(".2f") for spot in own]
        charts[name] = chart_of(name, bars, labels, arrow="↑", note="AUROC; blind at 0.5", reference=0.5, dots=True)
        for spot in own[:WORST]:
            files[spot[:2]] = folder / "examples" / f"{len(files):03d}.png"
            write_image(files[spot[:2]], spot.picture, {"shown": spot.shown})
    small = thumbnails([*files.values()], budget=BUDGET)
    pictures = {key: small.get(path) for key, path in files.items()}
    shown |= {"spots": spots, "overview": overview, "charts": charts, "pictures": pictures, "columns": columns}
    write_whole(page, render("blind_spots.html.j2", title="What each detector is blind to", **shown).encode())
    return overview, [page, table]
