"""Filters for what libraries print."""

from __future__ import annotations

import logging

from diffusers.utils import logging as diffusers_logging

from realgen.logging_filters import TRUNCATED, no_loading_bars, report_truncation_once


def test_bars_are_back_afterwards() -> None:
    shown = diffusers_logging.is_progress_bar_enabled()
    with no_loading_bars():
        assert not diffusers_logging.is_progress_bar_enabled()
    assert diffusers_logging.is_progress_bar_enabled() == shown


def test_truncation_is_reported_once_and_all_else_always() -> None:
    logger = diffusers_logging.get_logger("diffusers.pipelines.some_pipeline")
    report_truncation_once()
    report_truncation_once()
    handler = logging.getLogger("diffusers").handlers[0]  # the others are pytest's
    (once,) = handler.filters
    once.reported = False
    messages = [f"{TRUNCATED} because CLIP can only handle: ['a']", "something else", f"{TRUNCATED}: ['b']", "and more"]
    records = [logger.makeRecord(logger.name, logging.WARNING, "", 0, text, (), None) for text in messages]
    assert [bool(handler.filter(record)) for record in records] == [True, True, False, True]


def test_truncation_is_reported_in_short() -> None:
    logger = diffusers_logging.get_logger("diffusers.pipelines.some_pipeline")
    report_truncation_once()
    handler = logging.getLogger("diffusers").handlers[0]
    (once,) = handler.filters
    once.reported = False
    record = logger.makeRecord(logger.name, logging.WARNING, "", 0, f"{TRUNCATED}: %s", (["cat"] * 5000,), None)
    assert handler.filter(record)
    assert record.getMessage().startswith(f"{TRUNCATED}: ['cat', 'cat'")
    assert len(record.getMessage()) < 250
