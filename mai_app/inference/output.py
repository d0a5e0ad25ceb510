"""What commands print of their results, here or on the caller's side of Modal."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mai_app.config import PredictConfig, SweepConfig
from mai_app.errors import MaiError
from mai_app.inference.prediction import Format, Prediction, write_rows

if TYPE_CHECKING:
    from mai_app.inference.scan import ScanCounts
    from mai_app.training.sweep import Result


def chosen_format(config: PredictConfig) -> Format:
    """The form in which predictions are printed; raises MaiError if several are asked for."""
    asked: dict[Format, bool] = {"json": config.json, "jsonl": config.jsonl, "csv": config.csv}
    forms = [form for form, wanted in asked.items() if wanted]
    if len(forms) > 1:
        raise MaiError(f"--{' and --'.join(forms)} exclude each other")
    return forms[0] if forms else "table"


def show_predictions(predictions: Iterable[Prediction], form: Format, stream: IO[str] | None = None) -> int:
    """Print predictions as they come; returns 0 if all files were judged, 1 if some were not, 2 if none was."""
    judged = failed = 0
    for prediction in write_rows(predictions, form, stream or sys.stdout):
        judged += prediction.error is None
        failed += prediction.error is not None
    if failed:
        print(f"mai: {failed} of {judged + failed} files could not be judged", file=sys.stderr)
    elif not judged:
        print("mai: no file was named", file=sys.stderr)
    return 2 if not judged else 1 if failed else 0


def show_scan(counts: "ScanCounts", out: Path, stream: IO[str] | None = None) -> int:
    """Print what a scan's rows say in all; returns 0 if all files were judged, 1 if some were not, 2 if none was."""
    print(
        f"{counts.files} files: {counts.authentic} authentic, {counts.unsure} unsure, {counts.synthetic} synthetic, "
        f"{counts.failed} not judged; rows in {out}",
        file=stream,
    )
    return 2 if not counts.judged else 1 if counts.failed else 0


def show_sweep(results: "Sequence[Result]", config: SweepConfig, stream: IO[str] | None = None) -> int:
    """Print a sweep's table, and where its file is; returns 0 if all runs finished, 1 if some did not, 2 if none."""
    from mai_app.training.sweep import json_path, table  # noqa: PLC0415

    print(f"{table(results)}\n\nresults: {json_path(config)}", file=stream)
    failed = sum(result.error is not None for result in results)
    return 2 if failed == len(results) else 1 if failed else 0


def show_report(report: dict[str, Any], stream: IO[str] | None = None) -> None:
    """Print a report's tables, and where its page is."""
    from mai_app.evaluation.report import text_tables  # noqa: PLC0415

    print(f"{text_tables(report)}\n\npage: {Path(report['folder']) / 'report.html'}", file=stream)
