"""The numbers of a run as one CSV file, however often the run is stopped and gone on with."""

from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from realgen.tables import complete_rows, csv_bytes
from realgen.whole_files import write_whole

_PLACE = ("iteration", "step")


class MetricsCSV(Logger):
    """Write one row for every call to ``csv/version_0/metrics.csv`` in the run's folder, at once.

    Every row has its ``iteration``, by which training and validation rows are joined. A run that goes on from a
    checkpoint keeps the rows up to there, drops what came later, and replaces the row of a validation that it makes up;
    a row that was cut off by a kill is dropped too.

    Not Lightning's ``CSVLogger``, which begins a file with every start.

    ``iteration`` returns the finished iterations, 0 where they are not counted. A ``fresh`` run begins: rows that are
    there belong to a start that left no checkpoint.
    """

    def __init__(self, folder: Path, *, iteration: Callable[[], int], fresh: bool) -> None:
        super().__init__()
        self.save_folder = folder
        self.path = folder / self.name / f"version_{self.version}" / "metrics.csv"
        self._iteration = iteration
        self._fresh = fresh
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """Return the name of Lightning's folder of CSV logs."""
        return "csv"

    @property
    def version(self) -> int:
        """Return the number of the folder in it: there is only one."""
        return 0

    @property
    def save_dir(self) -> str:
        """Return the folder of the run."""
        return str(self.save_folder)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row of scalars; ``step`` is Lightning's count."""
        row = {"iteration": float(self._iteration()), **metrics, "step": step}
        cells = {name: "" if value is None else str(value) for name, value in row.items()}
        if self._columns is None or not self.path.exists():
            kept, now = [] if self._fresh or not self.path.exists() else complete_rows(self.path), _place(cells)

            def is_before(row: dict[str, str]) -> bool:  # and not the row of this start, which is done once more
                return _place(row) < now or (_place(row) == now and not _values(row) & _values(cells))

            self._rewrite(list(takewhile(is_before, kept)), cells)
        elif cells.keys() - self._columns:
            self._rewrite(complete_rows(self.path), cells)
        else:
            with self.path.open("ab", buffering=0) as file:  # in one call, so that a kill hardly ever cuts a row
                file.write(csv_bytes([[cells.get(name, "") for name in self._columns]]))

    def _rewrite(self, rows: list[dict[str, str]], cells: dict[str, str]) -> None:
        rows = [*rows, cells]
        self._columns = sorted({name for row in rows for name in row})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [[row.get(name, "") for name in self._columns] for row in rows]
        write_whole(self.path, csv_bytes([self._columns, *lines]))


def _place(row: dict[str, str]) -> float:
    return max(float(row.get(name) or 0) for name in _PLACE)  # a module may count steps alone


def _values(row: dict[str, str]) -> set[str]:
    return {name for name, cell in row.items() if cell and name not in (*_PLACE, "epoch")}
