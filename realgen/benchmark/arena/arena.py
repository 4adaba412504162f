"""Arena-Scoring: a judge compares images of the same prompts, pair by pair, and says which ones look real."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from realgen.benchmark.arena.answer_log import AnswerLog
from realgen.benchmark.arena.questions import (
    Against,
    PairQuestions,
    Protocol,
    Question,
    pair_questions,
    question_keys,
    single_questions,
)
from realgen.benchmark.arena.result import COUNTS, Answer, ArenaResult
from realgen.benchmark.arena.scoring import Resampling, bias, pair_row, rank, score_matchups, score_singles
from realgen.benchmark.inputs.image_sets import BenchmarkPrompt, ImageSet
from realgen.benchmark.inputs.matching import FormatMatching, read_matched
from realgen.checks import check_at_least
from realgen.failures import describe
from realgen.judges.base import ArenaJudge, IdentityChangedError, Kind, Verdict
from realgen.progress import ProgressBar
from realgen.remote_calls import RefusedError, UnavailableError, run_async

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArenaPlan:
    """What a run would do."""

    questions: int
    """That the arena consists of; equal ones are counted once."""
    kept: int
    """Of them done already."""
    calls: int
    """Questions that a run would ask; unreadable replies and failures come on top."""
    most_calls: int
    """Questions that it would ask if no reply could be read."""

    def __str__(self) -> str:
        """Return one line for the user."""
        more = f", at most {self.most_calls} with repetitions" if self.most_calls > self.calls else ""
        return f"{self.calls} calls of the judge{more} ({self.questions} questions, {self.kept} answered already)"


class Arena:
    """Compares models with real images and with each other, by a judge.

    Against RealGen's published protocol (generated image first, always; no tie; replies that are not in its words are
    lost) each pair is asked in both orders, a disagreement is a tie, the position bias is reported, and replies that
    cannot be read are asked for again and then counted. ``protocol: published`` is theirs. ValueError if a number is
    below 1, or nothing is to be asked.

    Args:
        judge: Who is asked.
        protocol: ``swapped``: both orders. ``published``: the model first, the real image second.
        against: What models are compared with: the real images (``real``), each other (``models``), ``both``, ``none``.
        single: Ask of each image alone whether it is real or fake, too; of the real images as well.
        replies: Times that the judge is asked in all, over all runs, while its reply cannot be read, >= 1; one that
            always replies the same is asked once.
        ask_again: Ask questions again whose replies could not be read in an earlier run.
        max_failures: Questions in a row without an answer after which the run stops, >= 1; the next one goes on.
        resampling: How intervals are made; null for the defaults.
    """

    def __init__(
        self,
        judge: ArenaJudge,
        protocol: Protocol = "swapped",
        against: Against = "real",
        single: bool = True,
        replies: int = 3,
        ask_again: bool = False,
        max_failures: int = 10,
        resampling: Resampling | None = None,
    ) -> None:
        check_at_least(1, replies=replies, max_failures=max_failures)
        if against == "none" and not single:
            raise ValueError("against=none and single=false leave nothing to ask the judge.")
        self.judge, self.protocol, self.against, self.single = judge, protocol, against, single
        self.replies, self.ask_again, self.max_failures = 1 if judge.deterministic else replies, ask_again, max_failures
        self.resampling = resampling or Resampling()

    def times_to_ask(self, earlier: Answer | None) -> int:
        """Return how often a question with this answer, if any, is to be asked while its reply cannot be read."""
        if earlier is None:
            return self.replies
        if earlier.choice is not None:
            return 0
        return self.replies if self.ask_again else max(0, self.replies - earlier.replies)

    def plan(
        self,
        prompts: Sequence[BenchmarkPrompt],
        sets: Sequence[ImageSet],
        log: Path,
        *,
        matching: FormatMatching | None = None,
    ) -> ArenaPlan:
        """Count what ``run`` would ask, and ask nobody; reads images and a local judge's weights. Raises as ``run``."""
        arena_run = _ArenaRun(self, prompts, sets, matching)
        answers = AnswerLog(log)
        times = [self.times_to_ask(answers.get(key)) for key in arena_run.by_key]
        calls = sum(number > 0 for number in times)
        return ArenaPlan(len(times), len(times) - calls, calls, sum(times))

    def run(
        self,
        prompts: Sequence[BenchmarkPrompt],
        sets: Sequence[ImageSet],
        log: Path,
        *,
        matching: FormatMatching | None = None,
    ) -> ArenaResult:
        """Ask all questions that have no answer in the file of answers yet, and score.

        The file has one JSON object per line, and is made if it does not exist; a run that was stopped goes on from it.
        Every set has an image of each prompt; ``matching`` makes them alike before they are shown. ValueError if images
        are missing or broken, or the file is none of answers or written by another run; RefusedError if the judge
        refuses all questions; RuntimeError if ``max_failures`` in a row got no answer; OSError if one is not written.
        """
        self.judge.check()
        arena_run = _ArenaRun(self, prompts, sets, matching)
        answers = AnswerLog(log)
        with answers.writing():
            try:
                asked, failed = self._ask(arena_run, answers, matching)
            except IdentityChangedError:  # answers have other keys from now on, and some may be kept already
                arena_run = _ArenaRun(self, prompts, sets, matching)
                asked, failed = self._ask(arena_run, answers, matching)
        return arena_run.result(answers, asked=asked, failed=failed)

    def _ask(self, arena_run: _ArenaRun, answers: AnswerLog, matching: FormatMatching | None) -> tuple[int, int]:
        """Ask the open questions; return how many got an answer, and how many none."""
        questions = [each for each in arena_run.by_key.items() if self.times_to_ask(answers.get(each[0]))]
        with ProgressBar(len(questions), "arena", unit="question", hidden=not questions) as bar:
            failed = run_async(_Asking(self, answers, matching, bar.update).ask_all(questions))
        return len(questions) - failed, failed


class _ArenaRun:
    """The questions of one arena over one set of images."""

    def __init__(
        self,
        arena: Arena,
        prompts: Sequence[BenchmarkPrompt],
        sets: Sequence[ImageSet],
        matching: FormatMatching | None,
    ) -> None:
        self.arena = arena
        self.pairs: list[PairQuestions] = pair_questions(prompts, sets, against=arena.against, protocol=arena.protocol)
        self.singles = single_questions(prompts, sets) if arena.single else []
        asked = chain(filter(None, chain.from_iterable(self.pairs)), self.singles)
        self.keys = question_keys(asked, arena.judge, matching)
        self.by_key: dict[str, Question] = {}
        for question, key in self.keys.items():
            self.by_key.setdefault(key, question)

    def result(self, answers: AnswerLog, *, asked: int, failed: int) -> ArenaResult:
        """Score what the file holds."""
        arena, resampling = self.arena, self.arena.resampling

        def answer_of(question: Question) -> Answer | None:
            return answers.get(self.keys[question])

        pairs = tuple(pair_row(pair, answer_of) for pair in self.pairs)
        first_share, disagreement = bias(pairs)
        kept = [answer for answer in map(answers.get, self.by_key) if answer is not None]
        return ArenaResult(
            judge=arena.judge.name,
            protocol=arena.protocol,
            matchups=score_matchups(pairs, resampling),
            singles=score_singles(self.singles, answer_of, resampling),
            ranking=rank(pairs, resampling),
            first_share=first_share,
            disagreement_share=disagreement,
            pairs=pairs,
            questions=len(self.by_key),
            asked=asked,
            unreadable=sum(answer.choice is None and answer.replies >= arena.replies for answer in kept),
            failed=failed,
            tokens_in=sum(answer.tokens_in for answer in kept),
            tokens_out=sum(answer.tokens_out for answer in kept),
            requests=sum(answer.requests for answer in kept),
        )


class _Asking:
    """Asks questions, as many at a time as the judge takes, and keeps every answer.

    The caller holds ``answers`` open. ``matching`` makes images alike before they are shown; None shows them as they
    are. ``advance`` is called after each question.
    """

    def __init__(
        self, arena: Arena, answers: AnswerLog, matching: FormatMatching | None, advance: Callable[[], object]
    ) -> None:
        self.arena, self.answers, self.matching, self.advance = arena, answers, matching, advance
        self.judge = judge = arena.judge
        kinds: tuple[Kind, ...] = ("compare", "single")
        self._identities = {kind: judge.identity(kind) for kind in kinds}
        self._failed = 0
        self._failures_in_a_row = 0
        self._stopped_by: Exception | None = None

    async def ask_all(self, questions: Sequence[tuple[str, Question]]) -> int:
        """Ask all questions; return how many got no answer. Raises what stopped it, as a judge that refuses all."""
        waiting = iter(questions)
        async with self.judge.session():
            await asyncio.gather(*(self._work(waiting) for _ in range(min(self.judge.concurrency, len(questions)))))
        if self._stopped_by is not None:
            raise self._stopped_by
        return self._failed

    async def _work(self, waiting: Iterator[tuple[str, Question]]) -> None:
        """Ask one question after another; when one worker stops, the others still keep the answers they wait for."""
        while self._stopped_by is None:
            key, question = next(waiting, ("", None))
            if question is None:
                return
            try:
                await self._ask(key, question)
                self._failures_in_a_row = 0
            except UnavailableError as error:
                self._count(error)
            except Exception as error:  # kept for ask_all, which raises it when the others have come to their ends
                self._stopped_by = self._stopped_by or error
            self.advance()

    async def _ask(self, key: str, question: Question) -> None:
        """Ask until a reply can be read, or often enough; keep each reply at once, so that none is paid for in vain."""
        first = await asyncio.to_thread(read_matched, question.first.file, self.matching)
        second = None
        if question.second is not None:
            second = await asyncio.to_thread(read_matched, question.second.file, self.matching)
        text = question.prompt.prompt
        for _ in range(self.arena.times_to_ask(self.answers.get(key))):
            if self.judge.identity(question.kind) != self._identities[question.kind]:
                # Another worker's question has changed it meanwhile: the answer would be kept under the wrong key.
                raise IdentityChangedError(f"{self.judge.name} answers in another form now")
            try:
                if second is None:
                    verdict = await self.judge.judge_single(first, text)
                else:
                    verdict = await self.judge.compare(first, second, text)
            except (UnavailableError, RefusedError, IdentityChangedError):
                raise
            except Exception as error:  # a judge may raise anything
                raise ValueError(f"judge {self.judge.name} failed at {question.name}: {describe(error)}") from error
            self.answers.append(self._answer(key, question, verdict))
            if verdict.choice is not None:
                return

    def _answer(self, key: str, question: Question, verdict: Verdict) -> Answer:
        """Return the latest reply, at the cost of all replies to the question so far."""
        answer = Answer(
            key=key,
            kind=question.kind,
            judge=self.judge.name,
            name=question.prompt.name,
            first=question.first.model,
            second="" if question.second is None else question.second.model,
            replies=1,
            **vars(verdict),
        )
        earlier = self.answers.get(key)
        spent = {} if earlier is None else {name: getattr(earlier, name) + getattr(answer, name) for name in COUNTS}
        return replace(answer, **spent)

    def _count(self, error: UnavailableError) -> None:
        self._failed += 1
        self._failures_in_a_row += 1
        _LOGGER.warning("a question got no answer: %s", error)
        if self._failures_in_a_row >= self.arena.max_failures:
            self._stopped_by = RuntimeError(
                f"{self._failures_in_a_row} questions in a row got no answer; the last one: {error}. Answers so far "
                f"are kept in {self.answers.path}; run again to go on, with a larger "
                "max_failures where it refuses only these."
            )
