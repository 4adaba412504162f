"""Asks a judge all questions of an arena, some at a time, and keeps every answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from realgen.benchmark.arena.answer_log import AnswerLog
from realgen.benchmark.arena.questions import Question
from realgen.benchmark.arena.result import COUNTS, Answer
from realgen.benchmark.inputs.matching import FormatMatching, read_matched
from realgen.failures import describe
from realgen.judges.base import ArenaJudge, IdentityChangedError, Kind, Verdict
from realgen.remote_calls import RefusedError, UnavailableError

_LOGGER = logging.getLogger(__name__)


class AskingLimits(NamedTuple):
    """How often a question is asked, and when to give up."""

    replies: int
    """Times that the judge is asked in all, over all runs, while its reply cannot be read."""
    ask_again: bool
    """Ask as often once more where no reply of an earlier run could be read."""
    max_failures: int
    """Questions in a row without an answer after which all stops."""

    def times_to_ask(self, earlier: Answer | None) -> int:
        """Return how often a question with this answer, if any, is to be asked while its reply cannot be read.

        Example:
            >>> AskingLimits(replies=3, ask_again=False, max_failures=10).times_to_ask(None)
            3
        """
        if earlier is None:
            return self.replies
        if earlier.choice is not None:
            return 0
        return self.replies if self.ask_again else max(0, self.replies - earlier.replies)


class Asking:
    """Asks questions, as many at a time as the judge takes, and keeps every answer.

    The caller holds ``answers`` open. ``matching`` makes images alike before they are shown; None shows them as they
    are. ``advance`` is called after each question.
    """

    def __init__(
        self,
        judge: ArenaJudge,
        answers: AnswerLog,
        limits: AskingLimits,
        *,
        matching: FormatMatching | None,
        advance: Callable[[], object],
    ) -> None:
        self.judge, self.answers, self.limits, self.matching, self.advance = judge, answers, limits, matching, advance
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
        for _ in range(self.limits.times_to_ask(self.answers.get(key))):
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
        if self._failures_in_a_row >= self.limits.max_failures:
            self._stopped_by = RuntimeError(
                f"{self._failures_in_a_row} questions in a row got no answer; the last one: {error}. Answers so far "
                f"are kept in {self.answers.path}; run again to go on, with a larger "
                "max_failures where it refuses only these."
            )
