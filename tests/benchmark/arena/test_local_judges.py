"""Whole arenas by the judges that configs/judges ships, through the real code: real images against waxy copies."""

import pytest
from jsonargparse import ArgumentParser
from PIL import Image

from experiments.nano.corpus import make_corpus
from realgen.benchmark.arena.arena import Arena
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.cli.components import expand
from realgen.cli.schema import slot_of
from realgen.cli.tree import read_file
from realgen.judges import ArenaJudge, OpenAIJudge

NUMBER = 8


def build(path):
    """The judge of a part, as the command line would make it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--judge", type=ArenaJudge)
    parsed = parser.parse_object({"judge": expand(read_file(path), slot_of(ArenaJudge)).plain()})
    return parser.instantiate(parsed).judge


def save(images, folder):
    folder.mkdir()
    files = {}
    for number, image in enumerate(images):
        files[f"{number:05d}"] = folder / f"{number:05d}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[f"{number:05d}"])
    return files


@pytest.fixture
def images(tmp_path):
    corpus = make_corpus(1, seed=5, held_out=True)
    real_images = save(corpus.real[:NUMBER], tmp_path / "real")
    prompts = [BenchmarkPrompt(i, name, "a crop", "", path) for i, (name, path) in enumerate(real_images.items())]
    return prompts, [ImageSet("waxy", tmp_path / "waxy", save(corpus.ai[:NUMBER], tmp_path / "waxy"))]


@pytest.mark.parametrize(
    ("part", "name"),
    [("vlm", "DIR (local, by logits)"), ("detector", "effort (a detector as a stand-in)")],
)
def test_real_images_win(part, name, images, tmp_path, repository):
    judge = build(repository / "configs" / "judges" / f"{part}.yaml")
    arena = Arena(judge, replies=3)
    plan = arena.plan(*images, tmp_path / "arena.jsonl")
    assert plan.calls == plan.most_calls == 4 * NUMBER  # asked again it would say the same
    result = arena.run(*images, tmp_path / "arena.jsonl", matching=FormatMatching(64, 95))
    assert result.judge == name.replace("DIR", "data/nano/forensic_chat")
    (matchup,) = result.matchups
    assert matchup.win_rate.value < 0.35
    assert (matchup.disagreements, matchup.unjudged, result.unreadable, result.failed) == (0, 0, 0, 0)
    assert result.first_share == 0.5
    shares = {score.model: score.real_share.value for score in result.singles}
    assert shares["real"] > 0.6 > 0.4 > shares["waxy"]
    assert (result.asked, result.tokens_in) == (4 * NUMBER, 0)


def test_the_part_for_an_endpoint_is_a_judge(repository, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    judge = build(repository / "configs" / "judges" / "openai.yaml")
    assert isinstance(judge, OpenAIJudge)
    assert judge.name == "gpt-5"
