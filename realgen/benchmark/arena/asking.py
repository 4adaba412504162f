"""Asks a judge all questions of an arena, some at a time, and keeps every answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from realgen.benchmark.arena.answer_log import AnswerLog
from realgen.benchmark.arena.questions import Question, Shown
from realgen.benchmark.arena.result import Answer
from realgen.benchmark.inputs.matching import FormatMatching
from realgen.data.image_files import read_image
from realgen.judges.base import ArenaJudge, IdentityChangedError, Kind, Verdict
from realgen.remote_calls import UnavailableError

_LOGGER = logging.getLogger(__name__)


def times_to_ask(earlier: Answer | None, *, replies: int, ask_again: bool) -> int:
    """How often a question is to be asked while its reply cannot be read.

    Args:
        earlier: What is known; None where nothing is.
        replies: Times that the judge is asked in all.
        ask_again: Ask as often once more where no reply could be read.

    Example:
        >>> times_to_ask(None, replies=3, ask_again=False)
        3
    """
    if earlier is None:
        return replies
    if earlier.choice is not None:
        return 0
    return replies if ask_again else max(0, replies - earlier.replies)


class Asking:
    """Asks questions, as many at a time as the judge takes, and keeps every answer.

    Args:
        judge: Who is asked.
        answers: Where answers are kept; held open by the caller.
        matching: How images are made alike before they are shown; None shows them as they are.
        replies: Times that the judge is asked in all while its reply cannot be read.
        ask_again: Ask as often once more where no reply of an earlier run could be read.
        max_failures: Questions in a row without an answer after which all stops.
        advance: Called after each question.
    """

    def __init__(
        self,
        judge: ArenaJudge,
        answers: AnswerLog,
        *,
        matching: FormatMatching | None,
        replies: int,
        ask_again: bool,
        max_failures: int,
        advance: Callable[[], object],
    ) -> None:
        self.judge, self.answers, self.matching, self.advance = judge, answers, matching, advance
        self.replies, self.ask_again, self.max_failures = replies, ask_again, max_failures
        kinds: tuple[Kind, ...] = ("compare", "single")
        self._identities = {kind: judge.identity(kind) for kind in kinds}
        self._failed = 0
        self._failures_in_a_row = 0
        self._stopped_by: Exception | None = None

    async def ask_all(self, questions: Sequence[tuple[str, Question]]) -> int:
        """Ask.

        Raises:
            ValueError: If an image cannot be read.
            OSError: If an answer cannot be written.
            RefusedError: If the judge refuses all questions.
            RuntimeError: If too many in a row got no answer.
        """
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
        """Until a reply can be read, or often enough; each reply is kept at once, so that none is paid for in vain."""
        first = await asyncio.to_thread(self._read, question.first)
        second = None if question.second is None else await asyncio.to_thread(self._read, question.second)
        text = question.prompt.prompt
        for _ in range(times_to_ask(self.answers.get(key), replies=self.replies, ask_again=self.ask_again)):
            if self.judge.identity(question.kind) != self._identities[question.kind]:
                # Another worker's question has changed it meanwhile: the answer would be kept under the wrong key.
                raise IdentityChangedError(f"{self.judge.name} answers in another form now")
            if second is None:
                verdict = await self.judge.judge_single(first, text)
            else:
                verdict = await self.judge.compare(first, second, text)
            self.answers.append(self._answer(key, question, verdict))
            if verdict.choice is not None:
                return

    def _answer(self, key: str, question: Question, verdict: Verdict) -> Answer:
        """The latest reply, at the cost of all replies to the question so far."""
        earlier = self.answers.get(key)
        spent = (0, 0, 0, 0)
        if earlier is not None:
            spent = (earlier.tokens_in, earlier.tokens_out, earlier.replies, earlier.requests)
        return Answer(
            key=key,
            kind=question.kind,
            judge=self.judge.name,
            name=question.prompt.name,
            first=question.first.model,
            second="" if question.second is None else question.second.model,
            choice=verdict.choice,
            reason=verdict.reason,
            reply=verdict.reply,
            tokens_in=spent[0] + verdict.tokens_in,
            tokens_out=spent[1] + verdict.tokens_out,
            replies=spent[2] + 1,
            requests=spent[3] + verdict.attempts,
        )

    def _read(self, shown: Shown) -> Float[Tensor, "3 height width"]:
        try:
            image = read_image(shown.file)
        except ValueError as error:
            raise ValueError(f"{shown.file}: {error}.") from error
        return image if self.matching is None else self.matching(image.unsqueeze(0))[0]

    def _count(self, error: UnavailableError) -> None:
        self._failed += 1
        self._failures_in_a_row += 1
        _LOGGER.warning("a question got no answer: %s", error)
        if self._failures_in_a_row >= self.max_failures:
            self._stopped_by = RuntimeError(
                f"{self._failures_in_a_row} questions in a row got no answer; the last one: {error}. Answers so far "
                f"are kept in {self.answers.path}; run again to go on."
            )
