from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from realgen.benchmark.arena.result import ArenaResult, Matchup, PairRow, SingleScore
from realgen.benchmark.report.page import write_report
from realgen.benchmark.results import ImageRow, ModelResults, Results, read_results, write_results
from realgen.functional.estimate import Estimate
from tests.helpers.chart_drawing import Drawing

HOSTILE = "\"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> & صورة {{ 7 * 7 }}"
VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; refuses tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text, self.whole = "", text
        self.style = ""
        self.tables: list[list[list[str]]] = []
        self.svgs = re.findall(r"<svg.*?</svg>", text, re.S)
        self.feed(text)
        self.close()
        assert self.open == []

    @property
    def charts(self) -> list[Drawing]:
        return [Drawing(svg) for svg in self.svgs if "Calibration of" not in svg]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
            return
        self.text += data
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, first: str) -> dict[str, list[str]]:
        """The rows by their first cell, of the table whose heading begins so."""
        found = next(rows for rows in self.tables if rows[0][0] == first)
        return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in found}


def save_image(path: Path, color: tuple[int, ...], size: tuple[int, int] = (64, 48)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return str(path)


def results(folder: Path, *, text: str = "a cat", auroc: float = 0.9, arena: ArenaResult | None = None) -> Results:
    """Real images and two models of four prompts; ``text`` stands wherever a text comes from outside."""
    rows = []
    for level, model in enumerate(("real", "base", text)):
        for number in range(4):
            file = f"images/{level}/{number}.png"
            save_image(folder / file, (60 * level, 60 * number, 90))
            values = {"omniaid": 0.1 * number + 0.2 * level, "hps": None}
            rows.append(ImageRow(f"{number}", model, text, f"{text} {number}", file, values))
    share = Estimate(42.5, 40.5, 44.5, 4, True)
    check = {"auroc": Estimate(auroc), "accuracy": Estimate(0.75), "calibration_error": Estimate(None)}
    models = [
        ModelResults(name, {"omniaid": share, "kid": Estimate(1.25, higher_is_better=False)},
                     {text: {"omniaid": share}}, {"omniaid": check}, text)
        for name in ("base", text)
    ]  # fmt: skip
    real = ModelResults("real", {"omniaid": Estimate(90.0, 85.0, 95.0, 4, True)}, images=text)
    settings = {
        "command": f"python -m realgen.realbench {text}", "config": {text: [text]}, "time": text, "prompts": 4,
        "files": {text: text}, "warnings": [text], "seconds": 83.2,
    }  # fmt: skip
    return Results(tuple(models), real, tuple(rows), ("omniaid",), arena, settings)


def arena_of(text: str) -> ArenaResult:
    pairs = (
        PairRow("0", text, "base", "real", "x", "y", 1.0, "first", f"won {text}", "second", ""),
        PairRow("1", text, "base", "real", "x", "y", 0.5, "first", "clear", "first", "the other way"),
        PairRow("2", text, "base", "real", "x", "y", None, None, "", "first", "unread"),
        PairRow("3", text, "base", "real", "x", "y", 0.0, "second", "lost", "first", "lost again"),
        PairRow("9", text, "base", "real", "nowhere.png", "y", 0.5, "tie", "alike", "tie", "alike too"),
    )
    rate = Estimate(0.5, 0.25, 0.75, 4)
    return ArenaResult(
        judge=text, protocol="swapped",
        matchups=(Matchup("base", "real", rate, {text: rate}, 1, 2, 1, 1, 1, 0.625),),
        singles=(SingleScore("base", Estimate(0.1, 0.0, 0.3, 10), {}, 2), SingleScore("real", None, {}, 0)),
        ranking={"real": Estimate(1034.7, 1017.4, 1052.1, 4)},
        first_share=0.625, disagreement_share=0.25, pairs=pairs,
        questions=1200, asked=900, unreadable=3, failed=2, tokens_in=123456, tokens_out=789, requests=950,
    )  # fmt: skip


def page(folder: Path, found: Results, **settings: Any) -> Page:
    """The page as it is made of what lies on disk."""
    write_results(found, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(f"realgen.benchmark.report.page.{name.upper()}", value)
        write_report(read_results(folder), folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_what_a_language_model_made_of_a_prompt_stands_under_its_pictures(tmp_path: Path) -> None:
    found = results(tmp_path, arena=arena_of("a cat"))
    rows = [replace(row, rewritten=f"<b>{row.name}</b>, 35 mm") if row.model == "base" else row for row in found.rows]
    shown = page(tmp_path, replace(found, rows=tuple(rows)))
    titles = [attributes.get("title") for attributes in shown.all("span")]
    pictures = shown.text.count("as: <b>0</b>, 35 mm"), titles.count("<b>0</b>, 35 mm")
    in_pairs = len(re.findall(r'<figure class="(?:chosen)?">(?:(?!</figure>).)*as: &lt;b&gt;0', shown.whole, re.S))
    assert (pictures, in_pairs) == ((2, 2), 1)  # once among the pictures of a model, once beside the other


def test_scores_stand_in_the_table_and_as_bars(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path))
    table = shown.table("score")
    assert table["score"] == ["real", "base", "a cat"]
    assert table["omniaid ↑"] == ["90.0 [85.0, 95.0]", "42.5 [40.5, 44.5]", "42.5 [40.5, 44.5]"]
    assert table["kid ↓"] == ["-", "1.250", "1.250"]
    assert shown.table("category")["a cat"] == ["42.5 [40.5, 44.5]"] * 2
    percent, kid = shown.charts
    assert percent.ticks == ["0", "25", "50", "75", "100"]
    assert percent.bars == [(0.0, 90.0), (0.0, 42.5), (0.0, 42.5)]
    assert percent.whiskers == [(85.0, 95.0), (40.5, 44.5), (40.5, 44.5)]
    assert percent.references == [90.0]  # the real images
    assert (kid.bars, kid.whiskers, kid.references) == ([(0.0, 1.25)] * 2, [], [])


def test_nothing_is_fetched_and_nothing_runs(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path, text=HOSTILE, arena=arena_of(HOSTILE)))
    tags = {name for name, _ in shown.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "use", "image"}
    assert len(shown.all("img")) >= 12
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in shown.all("img"))
    for _, attributes in shown.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
    ids = {attributes["id"] for _, attributes in shown.elements if "id" in attributes}
    links = [attributes["href"] for _, attributes in shown.elements if "href" in attributes]
    assert len(links) == 6
    assert all(link[:1] == "#" and link[1:] in ids for link in links)
    assert not re.search(r"url\(|@import|expression", shown.style)
    (policy,) = [meta["content"] for meta in shown.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_comes_from_outside_is_shown_as_it_is(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path, text=HOSTILE, arena=arena_of(HOSTILE)))
    assert f"Judge: {HOSTILE}." in shown.text
    assert f"won {HOSTILE}" in shown.text
    assert f"{HOSTILE} 3" in shown.text
    assert f"python -m realgen.realbench {HOSTILE}" in shown.text
    assert f"base: {HOSTILE} 3" in [image["alt"] for image in shown.all("img")]
    assert HOSTILE in shown.table("score")["score"]
    assert "49" not in re.sub(r"[\d.]*\d49|49\d", "", shown.text.replace(HOSTILE, ""))  # no template of theirs ran


def test_the_best_and_the_worst_images_are_the_right_ones(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path), examples=1)
    alts = [image["alt"] for image in shown.all("img")]
    assert alts == ["base: a cat 3", "base: a cat 0", "a cat: a cat 3", "a cat: a cat 0"]
    assert re.findall(r"(\d+\.\d)%", shown.text) == ["50.0", "20.0", "70.0", "40.0"]
    best = Image.open(io.BytesIO(base64.b64decode(shown.all("img")[0]["src"].partition(",")[2])))
    assert best.size == (64, 48)  # never enlarged
    assert best.convert("RGB").getpixel((30, 20)) == pytest.approx((60, 180, 90), abs=3)
    assert shown.all("img")[0]["class"] == "tiny"


def test_an_image_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = results(tmp_path)
    (tmp_path / "images/1/3.png").unlink()
    shown = page(tmp_path, found, examples=1)
    assert len(shown.all("img")) == 3
    assert "images/1/3.png" in shown.text


def test_a_detector_that_cannot_tell_is_warned_of(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path, auroc=0.55))
    assert "omniaid hardly tells base's images from the real images (AUROC 0.55)" in " ".join(shown.text.split())
    assert shown.table("detector")["omniaid"][:3] == ["a cat", "0.550", "0.750"]  # the later of the two models
    calm = page(tmp_path / "calm", results(tmp_path / "calm"))
    assert "hardly tells" not in calm.text
    assert "is inverted on" not in calm.text


def test_what_has_no_interval_is_shown_without(tmp_path: Path) -> None:
    """One prompt, and a contestant that won everything."""
    arena = arena_of("a cat")
    matchup = replace(arena.matchups[0], win_rate=Estimate(0.5, count=4))
    arena = replace(arena, ranking={"real": Estimate(1034.7, count=4)}, matchups=(matchup,))
    alone = Results((ModelResults("mine", {"omniaid": Estimate(42.5, None, None, 1, True)}),), arena=arena)
    shown = page(tmp_path, alone)
    assert shown.table("score")["omniaid ↑"] == ["42.5"]
    assert shown.table("contestant")["real"] == ["1", "1035"]
    assert shown.table("contestants")["base against real"][0] == "50.0%"
    assert "Who won all, lost all or tied all has no interval" in shown.text
    assert "None" not in shown.text


def test_elo_stands_around_its_mean_and_win_rates_around_one_half(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path, arena=arena_of("a cat")), examples=0)
    # Scores: the real images' 90. Arena: a pair at one half, called real, and the Elo of one contestant.
    assert [chart.references for chart in shown.charts] == [[90.0], [], [50.0], [], [1000.0]]
    assert [chart.dots for chart in shown.charts[2:]] == [[50.0], [10.0], [1034.7]]


def test_arena_pairs_stand_side_by_side_with_the_reasons(tmp_path: Path) -> None:
    shown = page(tmp_path, results(tmp_path, arena=arena_of("a cat")), examples=0)
    text = " ".join(shown.text.split())
    assert "The image shown first was chosen in 62% of the decided replies" in text
    assert "1,200 questions, 900 of them asked in this run; 3 replies could not be read, 2 got no answer." in text
    row = ["50.0% [25.0, 75.0]", "1", "2", "1", "1", "1", "62%"]
    assert shown.table("contestants")["base against real"] == row
    assert shown.table("contestant")["real"] == ["1", "1035 [1017, 1052]"]
    alts = [image["alt"] for image in shown.all("img")]
    # Won, disagreed, lost, agreed tie; the pair that was not judged is left out, and prompt 9 has no images.
    assert alts == [f"{model}: a cat {number}" for number in (0, 1, 3) for model in ("base", "real")]
    assert [a["class"] for a in shown.all("figure") if "class" in a and a["class"] not in ("plot", "chart")] == [
        "chosen", "", "", "", "", "chosen", "", "",
    ]  # fmt: skip
    assert text.count("A tie: the two orders disagreed.") == 1
    assert text.count("A tie: the judge preferred neither.") == 1
    assert "with real shown first: lost again" in text
    assert "unread " not in text
    assert "nowhere.png" in text


def test_little_is_enough(tmp_path: Path) -> None:
    """One model without real images, categories, rows or settings."""
    shown = page(tmp_path, Results((ModelResults("mine", {"omniaid": Estimate(None)}),)))
    assert shown.table("score") == {"score": ["mine"], "omniaid": ["-"]}
    assert [link["href"] for link in shown.all("a")] == ["#scores", "#settings"]


def test_the_page_keeps_to_its_budget(tmp_path: Path) -> None:
    found = results(tmp_path)
    for row in found.rows:
        Image.effect_noise((400, 400), 120).convert("RGB").save(tmp_path / row.file)
    sizes = {}
    for budget in (40_000, 400_000):
        shown = page(tmp_path, found, budget=budget)
        uris = [image["src"] for image in shown.all("img")]
        assert sum(map(len, uris)) <= budget
        sizes[budget] = [int(image["width"]) for image in shown.all("img")]
    assert len(sizes[40_000]) == len(sizes[400_000]) == 8
    assert max(sizes[40_000]) < min(sizes[400_000])
