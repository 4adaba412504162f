"""What an arena found: every pair, win rates, position bias, ranking, cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from realgen.functional.estimate import Estimate
from realgen.judges.base import Choice

COUNTS = ("tokens_in", "tokens_out", "replies", "requests")
"""Numbers of an answer that add up over the replies to a question."""


@dataclass(frozen=True)
class Answer:
    """What a judge said to one question, as it is kept."""

    key: str
    """Of the question: judge, question text, images, prompt if it was shown."""
    kind: Literal["compare", "single"]
    judge: str
    name: str
    first: str
    """Model whose image was shown first, or alone; ``real`` for the real image."""
    second: str
    """Model whose image was shown second; empty where there was one image."""
    choice: Choice | None
    """None where no reply could be read."""
    reason: str
    reply: str
    """The whole of the judge's last reply."""
    tokens_in: int
    """Of all replies to this question, as ``tokens_out``."""
    tokens_out: int
    replies: int
    """Times that the judge answered: more than 1 where a reply could not be read."""
    requests: int
    """Requests sent, failed ones included."""


@dataclass(frozen=True)
class PairRow:
    """Two images of one prompt, and what the judge said of them in each order."""

    name: str
    category: str
    """Of the prompt; empty where there is none."""
    first: str
    """Contestant whose outcome it is: a model."""
    second: str
    """The other one: a model, or ``real``."""
    first_file: str
    second_file: str
    outcome: float | None
    """For the first contestant: 1 won, 0.5 tie, 0 lost; None where an order could not be judged."""
    forward: Choice | None
    """The judge's choice with the first contestant shown first."""
    forward_reason: str
    backward: Choice | None = None
    """Its choice with the first contestant shown second, in the words of that order; None in the published protocol."""
    backward_reason: str = ""
    """What it calls Image 1 is the second contestant's."""


@dataclass(frozen=True)
class Matchup:
    """All pairs of two contestants."""

    first: str
    """Contestant whose wins are counted."""
    second: str
    win_rate: Estimate | None
    """Of the first contestant, ties as half, in [0, 1]; None where no pair was judged."""
    categories: Mapping[str, Estimate]
    """The same for each category in which a pair was judged."""
    wins: int
    """Pairs, as all numbers that follow."""
    ties: int
    """``disagreements`` are among them."""
    losses: int
    disagreements: int
    """Ties because the two orders disagreed."""
    unjudged: int
    """Those of which an order could not be judged."""
    first_share: float | None
    """Share of decided replies that chose the image shown first; 0.5 = no position bias. None without any."""


@dataclass(frozen=True)
class SingleScore:
    """How often a model's images, or the real images, were called real."""

    model: str
    """Or ``real``."""
    real_share: Estimate | None
    """In [0, 1]; None where no image was judged."""
    categories: Mapping[str, Estimate]
    """The same for each category in which an image was judged."""
    unjudged: int


@dataclass(frozen=True)
class ArenaResult:
    """All that an arena found."""

    judge: str
    """Name of the judge; a stand-in says that it is one."""
    protocol: Literal["swapped", "published"]
    """Whether both orders were asked, or the generated image was always shown first."""
    matchups: tuple[Matchup, ...]
    singles: tuple[SingleScore, ...]
    """Real or fake, by model; the real images last. Empty where that was not asked."""
    ranking: Mapping[str, Estimate]
    """Bradley-Terry strengths on Elo's scale, with the mean 1000: of the models and ``real``, strongest first. Without
    limits where nothing tells them; empty where strengths do not exist."""
    first_share: float | None
    """Position bias over all replies: share of decided ones that chose the image shown first."""
    disagreement_share: float | None
    """Share of all pairs whose two orders disagreed; None where none was asked in both."""
    pairs: tuple[PairRow, ...]
    questions: int
    """That the arena consists of."""
    asked: int
    """Of them asked in this run; the others were kept from earlier ones."""
    unreadable: int
    """Questions to which no reply could be read."""
    failed: int
    """Questions to which no answer came; the next run asks them again."""
    tokens_in: int
    """Of all answers that count here, also of those kept from earlier runs; as the two that follow."""
    tokens_out: int
    requests: int
    """Failed ones included."""

    @property
    def judged(self) -> bool:
        """Whether the judge said anything of any image."""
        estimates = [match.win_rate for match in self.matchups] + [single.real_share for single in self.singles]
        return any(estimate is not None for estimate in estimates)
