"""The command: its configs, its mistakes, and a real server on loopback from start to end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx
import pytest
import torch
import yaml

from realgen.detectors import OmniAID
from realgen.functional.images import from_uint8, to_uint8
from realgen.rewards import Realism, RemoteReward
from realgen.serve import check, config_reader, load, main
from realgen.serving import ConnectionSettings
from realgen.serving.wire import encode_request
from realgen.types import Samples
from tests.helpers.forked import Fork, forked

ROOT = Path(__file__).resolve().parent.parent
SERVED = sorted((ROOT / "configs" / "serve").glob("*.yaml"))
OMNIAID = "configs/serve/omniaid.yaml"
TOKEN = "correct-horse"
PATIENCE = 400.0
"""Seconds that a server may take to start on a busy machine."""


def test_the_walk_finds_the_configs() -> None:
    assert {"alignment", "forensic_chat", "omniaid"} <= {path.stem for path in SERVED}


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_every_config_makes_a_reward(path: Path, repository: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    reward, settings, token = check(config_reader().read(["--config", str(path)]))
    assert callable(reward.score)
    assert (settings.host, token) == ("127.0.0.1", None)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.stem)
def test_every_config_has_a_port_of_its_own(path: Path) -> None:
    ports = [yaml.safe_load(other.read_text(encoding="utf-8"))["server"]["port"] for other in SERVED]
    assert len(set(ports)) == len(SERVED)


def test_what_is_loaded_scores(repository: Path, nano: Path) -> None:
    reward = load(config_reader().read(["--config", OMNIAID]), (), "cpu")
    images = torch.rand(2, 3, 32, 32)
    expected = 1 - OmniAID(str(nano / "omniaid"))(images)
    assert torch.equal(reward.score(Samples(("", ""), 1, images)), expected)


def test_print_config_can_be_read_back(repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--config", OMNIAID, "--server.port=9000", "--print_config"])
    assert stop.value.code == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
    config = config_reader().read(["--config", str(tmp_path / "shown.yaml")])
    assert config["server"]["port"] == 9000
    assert config["detector"]["class_path"] == "realgen.detectors.OmniAID"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", OMNIAID, "--server.prt=1"], "server.prt: ServerSettings has no such key (command line). Did you"),
        (["--config", OMNIAID, "--server.port=80"], "server.port must be 1024 to 65535, got 80."),
        (["--config", OMNIAID, "--server.max_images=0"], "server.max_images must be at least 1, got 0."),
        (["--config", OMNIAID, "--server.port=abc"], "server.port: expected int, got 'abc' (command line)."),
        (
            ["--config", OMNIAID, "--server.host=10.0.0.1"],
            "server.host: expected '127.0.0.1' or '0.0.0.0' or '::', got",
        ),
        (
            ["--config", OMNIAID, "--detector.checkpointt=x"],
            "detector.checkpointt: OmniAID has no such key (command line).",
        ),
        (["--config", OMNIAID, "--detector.checkpoint=nowhere"], "detector.checkpoint must be"),
        (
            ["--config", OMNIAID, "--reward=configs/rewards/alignment_only.yaml"],
            "reward, detector: give just one of them",
        ),
        (["--server.port=8000"], "reward, detector: give just one of them, got none."),
        (
            ["--config", "configs/serve/omniad.yaml"],
            "cannot read configs/serve/omniad.yaml: No such file or directory. Did",
        ),
        (
            ["--config", OMNIAID, "--server.token_variable=NOT_SET"],
            "server.token_variable: the environment variable NOT_SET",
        ),
        (
            ["--config", OMNIAID, "--server.token_variable=se-cret"],
            "server.token_variable must be the name of an environment variable, such as REALGEN_TOKEN, not the key",
        ),
        (["--config", OMNIAID, "serve"], "unrecognized argument 'serve'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_without_arguments_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "--config configs/serve/omniaid.yaml" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.attack("secrets", "in the error of a server that cannot begin")
def test_a_worker_shows_no_value_of_the_environment(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "correct-horse"
    shutil.copytree(nano / "effort", secret)
    (secret / "model.safetensors").write_bytes(b"no weights")
    monkeypatch.setenv("MY_SECRET", str(secret))
    detector = "{class_path: realgen.detectors.Effort, init_args: {checkpoint: '${oc.env:MY_SECRET}'}}"
    words = [f"--detector={detector}", f"--server.port={free_port()}"]
    ended = forked(lambda: main(words), ROOT)
    assert ended.returncode == 1
    assert "cpu: ValueError: ${oc.env:MY_SECRET}/model.safetensors is no whole safetensors file" in ended.stderr
    assert "correct-horse" not in ended.stdout + ended.stderr


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Server:
    process: Fork
    url: str
    log: Path

    def health(self) -> int:
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=10.0)
        with contextlib.closing(connection):  # httpx reads all certificates each time, and this is asked a lot
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status
            except (OSError, HTTPException):
                return 0

    def wait_until(self, health: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.health() != health:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def post(self, body: bytes | Iterator[bytes], content_type: str, token: str | None = TOKEN) -> httpx.Response:
        headers = {"Content-Type": content_type} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        return httpx.post(f"{self.url}/rewards", content=body, headers=headers, trust_env=False, timeout=60.0)

    def remote(self, **arguments: object) -> RemoteReward:
        patient = ConnectionSettings(retries=8, max_backoff=2.0, failures_to_rest=100)
        defaults = {"send_prompts": False, "token_variable": "REALGEN_TEST_TOKEN", "connection": patient}
        return RemoteReward([self.url], **defaults | arguments)

    def children(self) -> dict[int, str]:
        """The processes of the server, with their command lines; Linux only."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in listed}


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, but that nobody has asked about yet, has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text() != ""
    except OSError:
        return False


def start(log: Path) -> Server:
    """Start ``realgen.serve`` in a process of its own, and wait until it is ready."""
    settings = [
        f"port={free_port()}",
        "accelerator=cpu",
        "max_bytes=300000",
        "max_images=8",
        "token_variable=REALGEN_TEST_TOKEN",
    ]
    words = ["--config", OMNIAID, *(f"--server.{each}" for each in settings)]
    environment = os.environ | {"REALGEN_TEST_TOKEN": TOKEN}
    with open(os.devnull, encoding="utf-8") as nothing, log.open("w", encoding="utf-8") as output:
        process = Fork(lambda: main(words), ROOT, [nothing, output, output], environment=environment)
    running = Server(process, f"http://127.0.0.1:{settings[0].removeprefix('port=')}", log)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(process.kill)
        running.wait_until(200)
        on_failure.pop_all()
    return running


def wait_for_end(processes: dict[int, str]) -> None:
    """Wait until none of some processes is left; the last one ends when it sees that the others have."""
    assert len(processes) >= 3
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``realgen.serve``, which in the end obeys SIGTERM and leaves no process behind."""
    running = start(tmp_path_factory.mktemp("serve") / "log.txt")
    try:
        yield running
        children = running.children()
    finally:
        running.process.kill(signal.SIGTERM)
        code = running.process.wait(PATIENCE)
    assert code == 128 + signal.SIGTERM
    wait_for_end(children)
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGEN_TEST_TOKEN", TOKEN)


@pytest.fixture
def local(nano: Path) -> Realism:
    return Realism(OmniAID(str(nano / "omniaid")))


@pytest.mark.slow
def test_served_rewards_equal_local_ones(server: Server, local: Realism) -> None:
    samples = Samples(("",) * 10, 1, torch.rand(10, 3, 48, 40))
    served = server.remote(images_per_request=3).score(samples)
    torch.testing.assert_close(served, local.score(samples), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_files_are_scored_as_the_rounded_images(encoding: str, server: Server, local: Realism) -> None:
    images = torch.rand(3, 3, 48, 40)
    served = server.remote(encoding=encoding).score(Samples(("",) * 3, 1, images))
    rounded = local.score(Samples(("",) * 3, 1, from_uint8(to_uint8(images))))
    torch.testing.assert_close(served, rounded, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_many_clients_at_once_each_get_their_own(server: Server, local: Realism) -> None:
    """Requests of several sizes, batched together by the server."""
    batches = [torch.rand(1 + i % 3, 3, 32 + 8 * (i % 2), 32) for i in range(16)]

    def ask(images: torch.Tensor) -> list[float]:
        return server.post(*encode_request(images, None, "safetensors")).json()["rewards"]

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(ask, batches))
    for images, answer in zip(batches, answers, strict=True):
        expected = local.score(Samples(("",) * len(images), 1, images))
        torch.testing.assert_close(torch.tensor(answer), expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_what_is_wrong_is_refused_and_the_worker_lives_on(server: Server) -> None:
    good = encode_request(torch.rand(1, 3, 32, 32), None, "png")
    outside = encode_request(torch.full((1, 3, 32, 32), 2.0), None, "safetensors")
    many = encode_request(torch.rand(9, 3, 4, 4), None, "safetensors")
    wrong = [
        (server.post(b"garbage", "application/json"), 400),
        (server.post(b"garbage", "application/safetensors"), 400),
        (server.post(b"\x80\x04K\x01.", "application/python-pickle"), 415),
        (server.post(*outside), 422),
        (server.post(*many), 413),
        (server.post(b"x" * 300_001, "application/json"), 413),
        (server.post(iter([b"x" * 100_000] * 4), "application/json"), 413),
        (server.post(*good, token=None), 401),
        (server.post(*good, token=f"{TOKEN}r"), 401),
    ]
    for answer, status in wrong:
        assert answer.status_code == status
        assert list(answer.json()) == ["detail"]
        assert answer.json()["detail"].isprintable()
    (reward,) = server.post(*good).json()["rewards"]
    assert 0 <= reward <= 1


@pytest.mark.slow
def test_an_image_with_nan_is_null_and_no_zero(server: Server) -> None:
    images = torch.rand(2, 3, 32, 32)
    images[0, 0, 0, 0] = torch.nan
    first, second = server.post(*encode_request(images, None, "safetensors")).json()["rewards"]
    assert first is None
    assert 0 <= second <= 1


@pytest.mark.slow
@pytest.mark.attack("server", "paths without a token")
def test_without_the_token_only_health_is_open(server: Server) -> None:
    assert server.health() == 200
    paths = ("", "/info", "/docs", "/openapi.json", "/rewards", "/shutdown")
    assert {httpx.get(f"{server.url}{path}", trust_env=False).status_code for path in paths} == {401}


@pytest.mark.slow
def test_a_wrong_token_stops_a_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALGEN_TEST_TOKEN", "wrong")
    with pytest.raises(RuntimeError, match="401: a valid token is needed"):
        server.remote(max_failed_share=1.0).score(Samples(("",), 1, torch.rand(1, 3, 32, 32)))


@pytest.mark.slow
@pytest.mark.attack("server", "a worker killed")
def test_a_worker_that_dies_is_replaced(server: Server, local: Realism) -> None:
    (worker,) = [pid for pid, command in server.children().items() if "spawn_main" in command]
    os.kill(worker, signal.SIGKILL)
    server.wait_until(503)
    server.wait_until(200)
    samples = Samples(("", ""), 1, torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(server.remote().score(samples), local.score(samples), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.attack("server", "a redirect to the host that the client claims")
def test_no_answer_names_the_host_that_the_client_claims(server: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example", "X-Forwarded-Host": "evil.example"}
    for path in ("/rewards/", "/health/", "/info/", "//rewards", "/docs", "/rewards/%2e%2e/"):
        for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT"):
            answer = httpx.request(method, server.url + path, headers=headers, trust_env=False)
            assert answer.status_code in (404, 405), (method, path)
            assert "evil" not in answer.text + str(answer.headers)


@pytest.mark.slow
@pytest.mark.attack("server", "one of its processes killed")
@pytest.mark.parametrize("victim", ["web", "queues", "main"])
def test_no_process_outlives_the_others(victim: str, tmp_path: Path) -> None:
    """The device's memory is free, and whoever started the server sees that it has ended."""
    running = start(tmp_path / "log.txt")
    children = running.children()
    queues, *_, web = children  # in the order in which they were started
    try:
        os.kill({"web": web, "queues": queues, "main": running.process.pid}[victim], signal.SIGKILL)
        assert running.process.wait(PATIENCE) == (-signal.SIGKILL if victim == "main" else 1)
        wait_for_end(children)
    finally:
        running.process.kill()
    last = running.log.read_text().splitlines()[-1]
    if victim != "main":
        assert last.startswith("error: the ")
        assert last.endswith("has ended; the server ends, too")
    assert "Traceback" not in running.log.read_text()
