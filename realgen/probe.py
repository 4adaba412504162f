"""Fits a linear probe on two folders of images: ``python -m realgen.probe --help``."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realgen.cli.arguments import usable_device
from realgen.cli.error_frame import run_command
from realgen.options import OptionParser

if TYPE_CHECKING:
    from realgen.data.probe_files import Divided
    from realgen.detectors.linear_probe import Backbone
    from realgen.functional.logistic_regression import LabelledFeatures, LogisticHead
    from realgen.metrics.detector_quality import Quality

METRICS = {"accuracy": "accuracy, both classes alike", "auroc": "AUROC", "calibration_error": "calibration error (ECE)"}
WEAK_AUROC = 0.6
"""Below it the user is warned."""
_EXAMPLE = """\
example:
  python -m realgen.probe --real photographs --generated samples \\
    --backbone vit_small_patch14_dinov2 --match_jpeg --output runs/probe

The features of every image are computed once; nothing of the backbone is trained. 70 % of the images (by name, so that
the same files always fall into the same split) fit a logistic regression in which both classes weigh the same, 15 %
calibrate its probabilities, and 15 % test the result. With --vae the photographs after a VAE, written to
OUTPUT/reconstructed, count as generated: to those most detectors are blind. Use the probe as a detector by the file
that this writes: --model.reward.rewards.omniaid.detector=runs/probe/detector.yaml, say.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(lambda: print(probe(parse_arguments(arguments))) or 0, doing="loading the backbone")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(
        prog="python -m realgen.probe",
        description="Fit and calibrate a linear probe: a detector on the features of a frozen backbone.",
        epilog=_EXAMPLE,
    )
    add = parser.add_argument
    add("--real", type=Path, required=True, metavar="DIR", help="folder of photographs, folders in it too")
    add("--generated", type=Path, required=True, metavar="DIR", help="folder of generated images")
    add("--backbone", required=True, metavar="NAME", help="a model of timm, or open_clip:NAME of open_clip")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the probe, and of its detector.yaml")
    add("--pretrained", metavar="FILE", help="the backbone's weights, or a tag of open_clip's (default: by its name)")
    add("--vae", metavar="DIR", help="diffusers' AutoencoderKL; photographs after it count as generated images too")
    add("--match_jpeg", action="store_true", help="save what is no JPEG file at the qualities of those that are, first")
    add("--held_out", type=float, default=0.3, metavar="X", help="half calibrates, half tests (default: %(default)s)")
    fitted = "what is fitted to the logits: scale and shift (default), the scale alone, or nothing"
    add("--calibration", choices=["platt", "temperature", "none"], default="platt", help=fitted)
    add("--l2", type=float, default=1e-3, metavar="X", help="penalty on the head's weights (default: %(default)s)")
    add("--batch_size", type=int, default=64, metavar="N", help="images per forward pass (default: %(default)s)")
    add("--num_workers", type=int, default=2, metavar="N", help="processes that read images (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="auto is a GPU if there is one (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace the probe that --output already holds")
    return parser.parse_args(arguments)


def probe(options: argparse.Namespace) -> str:
    """Fit, calibrate, test and write a linear probe, with a bar on standard error; return the findings in words."""
    import yaml

    from realgen.data.image_files import find_images
    from realgen.data.jpeg_files import jpeg_quality, matching_qualities
    from realgen.data.probe_files import compare_formats, divide
    from realgen.data.vae import load_vae, write_reconstructions
    from realgen.detectors.linear_probe import ProbeConfig, load_backbone, save_probe
    from realgen.functional.logistic_regression import fit_head

    output: Path = options.output
    _check(options)
    place = usable_device(options.device)
    divided = divide(options.real, options.generated, options.held_out)
    network = load_backbone(options.backbone, options.pretrained)
    output.mkdir(parents=True, exist_ok=True)  # before hours of work, and after all that may be mistyped
    network.to(place)
    if options.vae is not None:
        vae, reconstructed = load_vae(options.vae).to(place), output / "reconstructed"
        shutil.rmtree(reconstructed, ignore_errors=True)  # of other photographs
        photographs = find_images(str(options.real), argument="--real")
        write_reconstructions(vae, photographs, reconstructed)
        divided = divide(options.real, options.generated, options.held_out, reconstructed)
    found = {file.path: jpeg_quality(file.path) for file in divided.files}
    qualities = {path: quality for path, quality in found.items() if quality is not None}
    print(compare_formats(divided, qualities, match_jpeg=options.match_jpeg), file=sys.stderr)
    resaved = matching_qualities(divided.files, qualities) if options.match_jpeg else {}
    splits = extract(network, divided, resaved, batch_size=options.batch_size, num_workers=options.num_workers)
    fitted = fit_head(splits["fit"], splits["calibrate"], l2=options.l2, calibration=options.calibration)
    both = [evaluate(head, splits["test"]) for head in (fitted.raw, fitted.head)]
    counts = {split: [int((rows.generated == label).sum()) for label in (0, 1)] for split, rows in splits.items()}
    measured = {name: [float(getattr(quality, name)) for quality in both] for name in METRICS}
    report = {
        "folders": [str(options.real), str(options.generated)],
        "images, real and generated": counts,
        "settings": {name: getattr(options, name) for name in ("vae", "match_jpeg", "held_out", "calibration", "l2")},
        "scale and shift of the logits": list(fitted.calibration),
        "before and after calibration": measured,
    }
    save_probe(output, network.cpu(), fitted.head, ProbeConfig(options.backbone, options.pretrained, report))
    part = {"backbone": options.backbone, "probe": str(output)}
    text = yaml.safe_dump({"class_path": "realgen.detectors.LinearProbe", "init_args": part}, sort_keys=False)
    head = f"# A linear probe on {options.backbone}, written by python -m realgen.probe.\n"
    (output / "detector.yaml").write_text(head + text, encoding="utf-8")
    return _summary(counts["test"], measured, output)


def extract(
    backbone: Backbone, divided: Divided, qualities: Mapping[Path, int], *, batch_size: int, num_workers: int
) -> dict[str, LabelledFeatures]:
    """Compute features of all images by split, each saved at its JPEG quality first; broken files are named."""
    import torch
    from torch.utils.data import DataLoader

    from realgen.data.probe_files import MIN_IMAGES, SPLITS, prepare
    from realgen.functional.logistic_regression import LabelledFeatures
    from realgen.progress import ProgressBar

    files: Any = [(row, file.path) for row, file in enumerate(divided.files)]
    read = partial(prepare, backbone.wanted, qualities)
    loader: DataLoader[Any] = DataLoader(files, batch_size=batch_size, num_workers=num_workers, collate_fn=read)
    device = next(backbone.parameters()).device
    rows, broken, features = list[int](), list[str](), list[torch.Tensor]()
    with ProgressBar(len(files), "features") as bar, torch.no_grad():
        for numbers, pixels, unread in loader:
            if pixels is not None:
                features.append(backbone.tower(pixels.to(device)).float().cpu())
            rows += numbers
            broken += unread
            bar.update(len(numbers) + len(unread))
    if broken:
        print(f"warning: skipped {len(broken)} files that cannot be read, the first: {broken[0]}", file=sys.stderr)
    generated = torch.tensor([divided.generated[row] for row in rows])
    table = torch.cat(features) if features else torch.empty(0, 1)
    splits = {}
    for split in SPLITS:
        chosen = torch.tensor([divided.splits[row] == split for row in rows], dtype=torch.bool)
        splits[split] = LabelledFeatures(table[chosen], generated[chosen])
        fewest = min(int((splits[split].generated == label).sum()) for label in (False, True))
        if fewest < MIN_IMAGES:
            raise ValueError(f"of a class only {fewest} images to {split} with can be read, needed are {MIN_IMAGES}.")
    return splits


def evaluate(head: LogisticHead, rows: LabelledFeatures) -> Quality:
    """Measure the probabilities of a head on rows that it was neither fitted nor calibrated on."""
    from realgen.metrics.detector_quality import DetectorQuality

    metric = DetectorQuality()
    metric.update((rows.features @ head.weight + head.bias).sigmoid(), rows.generated.long(), rows.generated | True)
    return metric.compute()


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.held_out < 1:
        raise ValueError(f"--held_out must be above 0 and below 1, got {options.held_out}.")
    if not options.l2 > 0:
        raise ValueError(f"--l2 must be above 0, got {options.l2}.")
    size, workers = options.batch_size, options.num_workers
    if size < 1 or workers < 0:
        raise ValueError(f"--batch_size must be at least 1 and --num_workers 0, got {size} and {workers}.")
    if (options.output / "config.json").exists() and not options.overwrite:
        raise ValueError(f"--output {options.output} already holds a probe; --overwrite replaces it.")


def _summary(tested: Sequence[int], measured: Mapping[str, Sequence[float]], output: Path) -> str:
    lines = [
        f"tested on {tested[0]} real and {tested[1]} generated images, neither fitted nor calibrated on",
        f"{'':<28}{'before':>8}{'after':>8}  calibration",
    ]
    lines += [f"{METRICS[name]:<28}{before:>8.3f}{after:>8.3f}" for name, (before, after) in measured.items()]
    auroc = measured["auroc"][1]
    if auroc < WEAK_AUROC:
        lines.append(
            f"warning: an AUROC of {auroc:.2f} is hardly better than chance (0.5); such a probe rewards nothing"
        )
    lines.append(f"wrote {output}; as a detector: {output / 'detector.yaml'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
