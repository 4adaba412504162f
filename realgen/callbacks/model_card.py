"""The model card beside an export: of what it was trained, on what, to what effect, and how it is loaded."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from realgen import __version__
from realgen.checks import printable
from realgen.given_files import read_json
from realgen.policies.adapter_formats import COMFYUI_FILE
from realgen.policies.trained_adapters import DIFFUSERS_FILE, PEFT_FILE
from realgen.tables import markdown_table
from realgen.whole_files import write_whole

CARD = "README.md"
"""Name of the card, which the hub shows with a model."""
PICTURE = "before_after.png"


def write_card(place: Path, config_file: Path) -> None:
    """Write ``README.md`` into an export, and copy the run's picture of before and after beside it.

    What nothing tells is left out: there are measures and a picture only of the weights that the run ended with. A
    ``summary.json`` beside ``config_file``, the run's ``config.yaml``, is the run's; ``write_export`` wrote ``place``.
    """
    run, text = config_file.parent, config_file.read_text(encoding="utf-8") if config_file.is_file() else ""
    config = yaml.safe_load(text) or {}
    record = read_json(place / "export.json")
    model = (config.get("model") or {}).get("init_args") or {}
    bases = dict.fromkeys(_base_models(model.get("policy") or config.get("model")))
    summary = read_json(run / "summary.json") if (run / "summary.json").is_file() else {}
    averaged = any(_class(each) == "EMA" for each in (config.get("callbacks") or {}).values())
    if (summary.get("after") or {}).get("iteration") != record["iteration"] or averaged != (record["weights"] == "ema"):
        summary = {}  # of other weights
    if summary and (run / PICTURE).is_file():
        shutil.copyfile(run / PICTURE, place / PICTURE)
    objective = (model.get("objective") or {}).get("class_path", "").rpartition(".")[2]
    facts = {
        "base model": ", ".join(f"`{base}`" for base in bases),
        "its licence": "; ".join(dict.fromkeys(licence(base) for base in bases)),
        "trained by": " with ".join(filter(None, [_class(config.get("model")), objective])),
        "iteration": f"{record['iteration']}, {record['weights']} weights",
        "command": "`" + text.partition("\n")[0].removeprefix("# ") + "`" if text.startswith("# ") else "",
        "exported by": f"realgen {__version__}{_commit()}",
    }
    front = {"base_model": list(bases), "tags": ["realgen", "reinforcement-learning"]}
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", f"# {run.resolve().name}/{place.name}", ""]
    lines.append(markdown_table(("", ""), [fact for fact in facts.items() if fact[1]]))
    lines += ["", "## Reward", "", markdown_table(("part", "weight", "class"), _rewards(model.get("reward")))]
    if summary:
        lines += ["", "## Measures", "", _measures(summary)]
    if (place / PICTURE).exists():
        lines += ["", f"![The same prompts and seeds before and after]({PICTURE})"]
    near = [os.path.relpath(base, place) if Path(base).is_dir() else base for base in bases]
    lines += ["", "## How to load", "", "Paths are relative to this folder.", "", *_loading(place, near)]
    write_whole(place / CARD, ("\n".join(lines) + "\n").encode())


def licence(base: str) -> str:
    """Return what a base model's folder tells of its licence: its card's front matter, or a file of that name."""
    folder = Path(base)
    if not folder.is_dir():
        return f"see the page of {base}"
    told: Any = None
    with suppress(OSError, yaml.YAMLError, RecursionError):  # somebody else's file
        card = (folder / CARD).read_text(encoding="utf-8", errors="replace")
        told = yaml.safe_load((re.findall(r"\A---\n(.*?)\n---", card, re.DOTALL) or [""])[0])
    keys = ("license", "license_name", "license_link") if isinstance(told, dict) else ()
    named = [printable(told[key]) for key in keys if isinstance(told.get(key), str)]
    named += [f"file {file.name}" for file in sorted(folder.glob("LICEN[SC]E*"))]
    return ", ".join(named) or f"its folder {base} does not say"


def _base_models(config: Any) -> Iterator[str]:
    """Yield what ``pretrained`` of a policy's parts names, but not the adapters that it started from."""
    if isinstance(config, dict):
        arguments = config.get("init_args")
        if "class_path" in config and isinstance(arguments, dict) and isinstance(arguments.get("pretrained"), str):
            yield arguments["pretrained"]
        for child in config.values():
            yield from _base_models(child)


def _class(config: Any) -> str:
    return str(config.get("class_path", "")).rpartition(".")[2] if isinstance(config, dict) else ""


def _rewards(config: Any) -> list[tuple[str, object, str]]:
    arguments = (config or {}).get("init_args") or {}
    parts = arguments.get("rewards")
    if not isinstance(parts, dict):
        return [("reward", 1.0, _class(config))] if config else []
    weights = arguments.get("weights") or {}
    return [(name, weights.get(name, 1.0), _class(part)) for name, part in parts.items() if part]


def _measures(summary: Mapping[str, Any]) -> str:
    """Return the table of ``summary.json``: the interval is that of the change, over held-out prompts."""
    after, before = summary["after"], summary.get("before") or {"values": {}, "iteration": ""}
    rows = []
    for name, value in after["values"].items():
        low, high = (summary.get("intervals") or {}).get(name) or (None, None)
        told = "" if low is None or high is None else f"{low:+.3g} to {high:+.3g}"
        old = before["values"].get(name)
        rows.append((name, "" if old is None else f"{old:.4g}", f"{value:.4g}", told))
    heads = ("held-out prompts", f"before ({before['iteration']})", f"after ({after['iteration']})")
    return markdown_table((*heads, "95 % interval of the change"), rows)


def _loading(place: Path, bases: list[str]) -> list[str]:
    """Return how each tool reads what is there; paths are relative to the card, those of the base models too."""
    files = sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())
    base, lines = bases[0] if bases else "BASE", []
    for file in files:
        folder, inside = str(file.parent), str(file.parent) == "peft" or str(file.parent).endswith("/peft")
        if file.name == DIFFUSERS_FILE:
            image = bases[-1] if bases else base
            lines += ["diffusers:", f"`DiffusionPipeline.from_pretrained({image!r}).load_lora_weights({folder!r})`", ""]
        elif file.name == PEFT_FILE:
            read = "pipeline.transformer" if inside else f"AutoModelForCausalLM.from_pretrained({base!r})"
            lines += ["PEFT:", f"`PeftModel.from_pretrained({read}, {folder!r})`", ""]
        elif file.parts[-2:] == ("comfyui", COMFYUI_FILE):
            lines += [f"ComfyUI: copy `{file}` into `models/loras`; Load LoRA, strength 1.", ""]
        elif file.name == "config.json":
            lines += [f"The whole network: `from_pretrained({folder!r})` of its class in `{file}`", ""]
    return lines


def _commit() -> str:
    """Return the commit of a package that lies in a checkout."""
    source = Path(__file__).parent
    try:
        words = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
        told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", commit {told.stdout.strip()}" if told.returncode == 0 else ""
