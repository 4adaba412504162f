"""Serves a reward over HTTP: ``python -m realgen.serve --config configs/serve/omniaid.yaml``."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from realgen.cli import ConfigError
from realgen.cli.arguments import check_files, print_usage, take_arguments
from realgen.cli.error_frame import run_command

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from realgen.cli.config_reader import ConfigReader
    from realgen.rewards import Reward
    from realgen.serving import ServerSettings

USAGE = """python -m realgen.serve --config SERVE.yaml [--config OVERLAY.yaml ...] [--key=value ...]

Serves a reward, or a detector as 1 - p_fake, over HTTP; realgen.rewards.RemoteReward is the client.
First command to try:
  python -m realgen.serve --config configs/serve/omniaid.yaml

Common overrides (a dotted key of the config; init_args may be left out; later wins):
  --detector=configs/detectors/effort.yaml   serve another part: a file, or a class
  --server.port=8001                         where; on this machine only, unless
  --server.host=0.0.0.0                      others may reach it, too
  --server.token_variable=REALGEN_TOKEN      let in only who sends the token in this environment variable
  --server.devices=4                         on how many GPUs
  --server.workers_per_device=2              processes on each
  --print_config                             show the whole config and stop
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = take_arguments(argv)
    if (code := print_usage(arguments, USAGE)) is not None:
        return code

    def command() -> int:
        check_files(arguments)
        config = config_reader().read(arguments)
        return _serve(config, *check(config))

    return run_command(command)


def config_reader() -> ConfigReader:
    """Return the reader of this command's configs."""
    # Imported here, so that usage and a misspelt file do not wait for torch.
    from realgen.cli.config_reader import ConfigReader
    from realgen.detectors import Detector
    from realgen.rewards import Reward
    from realgen.serving import ServerSettings

    arguments = {
        "reward": (Reward | None, None, "What is served; its requests must bring prompts."),
        "detector": (Detector | None, None, "The same: a detector, as the reward 1 - p_fake."),
        "server": (ServerSettings, ServerSettings(), "Where it is served, to whom, and by how many processes."),
    }
    return ConfigReader(arguments, USAGE)


def check(config: Mapping[str, Any]) -> tuple[Reward, ServerSettings, str | None]:
    """Find a complete config's mistakes, without weights; return the reward, the server's settings and the token."""
    from realgen.checks import check_variable
    from realgen.remote_calls import read_secret

    if (config["reward"] is None) == (config["detector"] is None):
        got = "none" if config["reward"] is None else "both"
        raise ConfigError(
            f"reward, detector: give just one of them, got {got}. Try --config configs/serve/omniaid.yaml"
        )
    made = config_reader().make(config)
    settings: ServerSettings = made.server
    if (name := settings.token_variable) is None:
        return _reward(made), settings, None
    try:
        check_variable("token_variable", name, "REALGEN_TOKEN")
        if not os.environ.get(name):
            raise ConfigError(f"token_variable: the environment variable {name} is not set.")
        return _reward(made), settings, read_secret("token_variable", name)
    except ValueError as error:
        raise ConfigError(f"server.{error}") from None


def load(config: Mapping[str, Any], hidden: Sequence[str], device: str) -> Reward:
    """Make a config's reward, to score on a device in a process of its own; ``hidden`` variables are not printed."""
    from realgen.masking import hide, mask_output

    hide(hidden)
    mask_output()
    return _reward(config_reader().make(config)).to(device)


def _serve(config: Mapping[str, Any], reward: Reward, settings: ServerSettings, token: str | None) -> int:
    from realgen.masking import hidden
    from realgen.serving.server import serve

    if settings.host != "127.0.0.1" and token is None:
        sys.stderr.write("warning: whoever reaches this machine can use the server; see server.token_variable\n")
    name = type(reward if config["detector"] is None else vars(reward)["detector"]).__name__
    sys.stderr.write(
        f"serving {name} on http://{settings.host}:{settings.port}; /health answers 200 when it is ready\n"
    )
    ended, main_process = [], os.getpid()

    def end(number: int, _: Any) -> None:
        if os.getpid() != main_process:  # a web process, which has inherited this handler
            raise SystemExit
        ended.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # litserve ends in order after a KeyboardInterrupt only
        signal.signal(number, end)
    make = functools.partial(load, config, hidden())
    with contextlib.suppress(KeyboardInterrupt):  # before it was ready; afterwards litserve catches it
        serve(make, settings, needs_prompts=config["detector"] is None, token=token)
    return 128 + ended[0] if ended else 1  # litserve has given up, and said why


def _reward(made: Namespace) -> Reward:
    from realgen.rewards import Realism

    return made.reward if made.detector is None else Realism(made.detector)


if __name__ == "__main__":
    sys.exit(main())
