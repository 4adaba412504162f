"""Serves a reward over HTTP: ``python -m realgen.serve --config configs/serve/omniaid.yaml``."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

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
    """Run the command.

    Args:
        argv: Arguments without the program; ``sys.argv[1:]`` by default.

    Returns:
        Exit code: 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        sys.stderr.write(f"usage: {USAGE}")
        return 1
    # Imported here, so that the lines above do not wait for torch.
    from realgen.cli import ConfigError

    try:
        config = read_config(arguments)
        reward, settings, token = check(config)
        return _serve(config, reward, settings, token)
    except (ConfigError, ModuleNotFoundError, OSError, RuntimeError) as error:
        return _report(error)


def read_config(argv: Sequence[str]) -> dict[str, Any]:
    """Read files and arguments into a complete config.

    Args:
        argv: Arguments without the program.

    Returns:
        The config as plain values, defaults filled in.

    Raises:
        ConfigError: If the config or an argument is wrong.
        SystemExit: After ``--help`` and ``--print_config``.
    """
    from jsonargparse import ArgumentError
    from omegaconf.errors import OmegaConfBaseException

    from realgen.cli import ConfigError
    from realgen.cli.arguments import asks_for_help, fix_arguments, read_arguments, split_print_config
    from realgen.cli.diagnosis import condense, problems
    from realgen.cli.schema import Place, place_of

    parser = _parser()
    given = list(argv)
    fix_arguments(given)
    if asks_for_help(given):
        parser.parse_args(given)
    given, flags = split_print_config(given)
    root = Place(arguments={name: place_of(hint) for name, hint in _hints().items()})
    tree = read_arguments(given, root)
    for problem in problems(tree, root, values=False):
        raise ConfigError(problem)
    try:
        config = parser.parse_object(tree.plain())
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    except ArgumentError as error:
        found = list(problems(tree, root))
        raise ConfigError(found[0] if found else condense(str(error))) from error
    if flags is not None:
        sys.stdout.write(parser.dump(config, skip_default="skip_default" in flags))
        raise SystemExit(0)
    return config.as_dict()


def check(config: Mapping[str, Any]) -> tuple[Reward, ServerSettings, str | None]:
    """Make what a config names, without its weights, to find its mistakes before a process is started.

    Args:
        config: What ``read_config`` gave.

    Returns:
        The reward, the settings of the server, and the token.

    Raises:
        ConfigError: If not just one of ``reward`` and ``detector`` is given, a constructor refuses its arguments, or
            the token's variable is not set.
    """
    from realgen.cli import ConfigError
    from realgen.cli.diagnosis import blame

    if (config["reward"] is None) == (config["detector"] is None):
        got = "none" if config["reward"] is None else "both"
        raise ConfigError(
            f"reward, detector: give just one of them, got {got}. Try --config configs/serve/omniaid.yaml"
        )
    try:
        made = _make(config)
    except Exception as error:  # a constructor may raise anything
        raise ConfigError(blame(error, config, {"server": "ServerSettings"})) from error
    settings: ServerSettings = made.server
    name = settings.token_variable
    if name is not None and not os.environ.get(name):
        raise ConfigError(f"server.token_variable: the environment variable {name} is not set.")
    return _reward(made), settings, None if name is None else os.environ[name]


def load(config: Mapping[str, Any], device: str) -> Reward:
    """Make the reward of a config, and read its weights.

    Args:
        config: What ``read_config`` gave.
        device: Where it computes.

    Returns:
        The reward, ready to score images.
    """
    return _reward(_make(config)).to(device)


def _serve(config: Mapping[str, Any], reward: Reward, settings: ServerSettings, token: str | None) -> int:
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
    make = functools.partial(load, config)
    with contextlib.suppress(KeyboardInterrupt):  # before it was ready; afterwards litserve catches it
        serve(make, settings, needs_prompts=config["detector"] is None, token=token)
    return 128 + ended[0] if ended else 1  # litserve has given up, and said why


def _report(error: Exception) -> int:
    if os.environ.get("REALGEN_TRACEBACK", "0") not in ("", "0"):
        raise error
    sys.stderr.write(f"error: {error}\n")
    return 1


def _hints() -> dict[str, Any]:
    from realgen.detectors import Detector
    from realgen.rewards import Reward
    from realgen.serving import ServerSettings

    return {"reward": Reward | None, "detector": Detector | None, "server": ServerSettings}


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        parser_mode="omegaconf+", allow_abbrev=False, exit_on_error=False, usage=USAGE, description=""
    )
    parser.add_argument("-c", "--config", action="config", help="A config file; may be given several times.")
    hints = _hints()
    parser.add_argument("--reward", type=hints["reward"], help="What is served; its requests must bring prompts.")
    parser.add_argument("--detector", type=hints["detector"], help="The same: a detector, as the reward 1 - p_fake.")
    parser.add_class_arguments(hints["server"], "server")
    return parser


def _make(config: Mapping[str, Any]) -> Namespace:
    parser = _parser()
    return parser.instantiate(parser.parse_object(dict(config)))


def _reward(made: Namespace) -> Reward:
    from realgen.rewards import Realism

    return made.reward if made.detector is None else Realism(made.detector)


if __name__ == "__main__":
    sys.exit(main())
