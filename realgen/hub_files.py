"""Published weights: on disk, or on the Hugging Face hub, and the commands that fetch what is missing."""

import shlex
from pathlib import Path

from realgen.checks import first_line

HUB = "hf-hub:"
"""Start of the address of a file on the Hugging Face hub: hf-hub:OWNER/REPOSITORY/FILE."""
PUBLISHED = {
    "checkpoint_omniaid_v2.pth": ("Yunncheng/OmniAID", "ckpt/checkpoint_omniaid_v2.pth"),
    "checkpoint_omniaid_dino_v2.pth": ("Yunncheng/OmniAID", "ckpt/checkpoint_omniaid_dino_v2.pth"),
    "omniaid_realgen.pth": ("lokiz666/Realgen-detection-models", ""),
    "forensic_chat": ("lokiz666/Realgen-detection-models", ""),
}
"""Repository and file of what recipes expect under these names; without a file it is called otherwise there."""
PAGES = {
    "effort.pth": "https://github.com/YZY-stack/Effort-AIGI-Detection",
    "sac+logos+ava1-l14-linearMSE.pth": "https://github.com/christophschuhmann/improved-aesthetic-predictor",
}
"""Where publishers name files that are not on the hub."""


def check_file(source: str, argument: str) -> None:
    """Raise ValueError, with the command that fetches it, for neither a file nor the address of one on the hub."""
    on_hub = source.startswith(HUB) and source.count("/") >= 2 and not source.endswith("/")
    if not on_hub and not Path(source).is_file():
        raise ValueError(
            f"{argument} must be a file, or {HUB}OWNER/REPOSITORY/FILE; got {source!r}, which is no file."
            f"{'' if source.startswith(HUB) else how_to_fetch(source)}"
        )


def local_file(source: str) -> Path:
    """Return a ``check_file`` source's path, fetched if it is on the hub; ValueError if that fails."""
    if not source.startswith(HUB):
        return Path(source)
    from huggingface_hub import hf_hub_download  # slow to import

    owner, repository, file = source.removeprefix(HUB).split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be fetched: {first_line(error)}{how_to_fetch(source)}") from error


def found_at(source: str) -> Path | None:
    """Return where a file, a folder or a hub id lies on this machine, None if it does not; fetch nothing."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    source = _repository(source)
    if source.startswith(HUB):
        owner, repository, file = source.removeprefix(HUB).split("/", 2)
        cached = try_to_load_from_cache(f"{owner}/{repository}", file)
        return Path(cached) if isinstance(cached, str) else None
    if Path(source).exists():
        return Path(source)
    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _repository(source: str) -> str:
    """Return the id of what is a whole repository, hf-hub:OWNER/REPOSITORY; other sources as they are."""
    return source.removeprefix(HUB) if source.startswith(HUB) and source.count("/") < 2 else source


def fetch_command(source: str) -> str:
    """Return the command that puts a file, ``check_file`` source or hub id where it is looked for; empty if unknown."""
    source = _repository(source)
    path = Path(source)
    if source.startswith(HUB):
        owner, repository, file = source.removeprefix(HUB).split("/", 2)
        return shlex.join(["hf", "download", f"{owner}/{repository}", file])
    if path.name in PUBLISHED:
        repository, file = PUBLISHED[path.name]
        words = shlex.join(["hf", "download", repository, *filter(None, [file]), "--local-dir", "downloads"])
        moved = shlex.join(["mv", f"downloads/{file}", source])
        return f"{words} && {shlex.join(['mkdir', '-p', str(path.parent)])} && {moved}" if file else words
    is_path = source.count("/") != 1 or source[0] in "./~" or path.parent.is_dir()
    is_path = is_path or path.suffix in (".pt", ".pth", ".safetensors")
    return "" if is_path else shlex.join(["hf", "download", source])


def how_to_fetch(source: str) -> str:
    """Return the end of a message about missing weights: their source and command, and how the hub tells their size."""
    command, page = fetch_command(source), PAGES.get(Path(source).name)
    if not command:
        return f" {page} says where it is; there is no command for it." if page else ""
    unnamed = " and move its file there" if "&&" not in command and "--local-dir" in command else ""
    return f" Fetch it with `{command}`{unnamed}; `{command.partition(' &&')[0]} --dry-run` tells its size."
