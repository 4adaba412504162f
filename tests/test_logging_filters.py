"""Filters for what libraries print."""

from __future__ import annotations

import logging

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from realgen.logging_filters import TRUNCATED, Truncations, no_loading_bars, quiet_imports, report_truncation_once


def test_bars_are_back_afterwards() -> None:
    shown = diffusers_logging.is_progress_bar_enabled()
    with no_loading_bars():
        assert not diffusers_logging.is_progress_bar_enabled()
    assert diffusers_logging.is_progress_bar_enabled() == shown


def test_what_libraries_say_of_each_other_while_imported_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    quiet_imports()
    quiet_imports()
    logger = logging.getLogger("torch.utils._pytree")
    assert len(logger.filters) == 1
    logger.propagate = True
    logger.warning("<enum 'KernelPreference'> is an Enum subclass and is now natively supported")
    logger.warning("something else")
    logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").warning(
        "Unable to import `torchao` Tensor objects."
    )
    assert [record.message for record in caplog.records if record.name == logger.name] == ["something else"]
    assert not [record for record in caplog.records if "torchao" in record.name]


def test_truncation_is_reported_once_and_all_else_always() -> None:
    logger = diffusers_logging.get_logger("diffusers.pipelines.some_pipeline")
    report_truncation_once()
    report_truncation_once()
    handler = logging.getLogger("diffusers").handlers[0]  # the others are pytest's
    (once,) = handler.filters
    once.seen.clear()
    messages = [f"{TRUNCATED} because CLIP can only handle: ['a']", "something else", f"{TRUNCATED}: ['b']", "and more"]
    records = [logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None) for text in messages]
    assert [bool(handler.filter(record)) for record in records] == [True, True, False, True]


def test_truncation_is_told_in_our_words_and_in_short() -> None:
    logger = diffusers_logging.get_logger("diffusers.pipelines.some_pipeline")
    report_truncation_once()
    handler = logging.getLogger("diffusers").handlers[0]
    (once,) = handler.filters
    once.seen.clear()
    text = f"{TRUNCATED} because CLIP can only handle sequences up to 77 tokens: {['grain ' * 4999 + 'film']}"
    record = logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)
    assert handler.filter(record)
    said = "a prompt is cut off behind 77 tokens, which a text encoder reads; without effect are its last 5000 words: ["
    assert record.getMessage().startswith(said)
    assert len(record.getMessage()) < 400


def test_how_many_are_cut_off_and_by_how_much_is_told_at_the_tenth() -> None:
    logger = diffusers_logging.get_logger("diffusers.pipelines.some_pipeline")
    first, second = Truncations(), Truncations()  # of two handlers
    told = []
    for number in (0, 0, *range(12)):
        text = f"{TRUNCATED} because CLIP can only handle sequences up to 77 tokens: {['word ' * number + 'end']}"
        record = logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None)
        passed = first.filter(record), second.filter(record)
        assert passed[0] == passed[1]
        told += [record.getMessage()] if passed[0] else []
    assert told[0].startswith("a prompt is cut off behind 77 tokens")
    assert told[1:] == ["10 different prompts are cut off so far, by up to 10 words"]


def test_the_tokenizers_frightening_line_is_kept_off_and_its_others_are_not() -> None:
    logger = transformers_logging.get_logger("transformers.tokenization_utils_base")
    report_truncation_once()
    handler = logging.getLogger("transformers").handlers[0]
    texts = [
        "Token indices sequence length is longer than the specified maximum (99 > 77). ... indexing errors",
        "other",
    ]
    records = [logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None) for text in texts]
    assert [bool(handler.filter(record)) for record in records] == [False, True]
