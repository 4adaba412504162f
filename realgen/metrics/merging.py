"""Few tensors in place of many, for metrics that are updated often."""

from __future__ import annotations

import torch
from torchmetrics import Metric


def merge_states(metric: Metric) -> None:
    """Concatenate the tensors in a metric's lists, so that after n updates a list holds about log2(n) of them.

    A small tensor that outlives its batch lies in memory where large buffers of the batch were, and those of the next
    batch no longer fit in between: with a few more tensors per batch the process would grow by as much as the buffers,
    each time. Neighbours are concatenated when the earlier one has no more rows, so a row moves log2(n) times at most.

    Args:
        metric: One whose list states hold rows and are concatenated in order; its value stays what it was.

    Example:
        >>> from realgen.metrics import ImageScores
        >>> scores = ImageScores()
        >>> for row in torch.arange(7).split(1):
        ...     scores.update(row.float(), prompts=row, categories=-torch.ones_like(row))
        ...     merge_states(scores)
        >>> [rows.tolist() for rows in scores.values]
        [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0], [6.0]]
    """
    for state in metric.metric_state.values():
        while isinstance(state, list) and len(state) > 1 and len(state[-2]) <= len(state[-1]):
            last = state.pop()
            state[-1] = torch.cat([state[-1], last])
