"""``ml-energy verify``: whether records are what their raw readings say."""

from collections.abc import Sequence

import msgspec
import typer

from ml_energy_callbacks.cli.output import print_json, print_line
from ml_energy_callbacks.record.find import find_files
from ml_energy_callbacks.record.load import dump_json
from ml_energy_callbacks.testing.verifying import Verification, verify_record


class _Verified(msgspec.Struct, kw_only=True):
    path: str
    run: str
    result: Verification


def verify_records(paths: Sequence[str], *, json: bool) -> None:
    """Verify the records at these places, and print the results.

    Raises:
        Exit: With status 1 where a record is not the same, else with 2 where one cannot be verified.
    """
    results = []
    for file in find_files(paths, lambda place: print_line(f"{place} cannot be listed.", stderr=True)):
        record = file.load()
        results.append(_Verified(path=file.name, run=record.run.id, result=verify_record(record, file.place)))
        if not json:
            _print(results[-1])
    if json:
        print_json(dump_json(results))
    found = {verified.result.same for verified in results}
    if found != {True}:
        raise typer.Exit(1 if False in found else 2)


def _print(verified: _Verified) -> None:
    result = verified.result
    _print_result(verified.path, result)
    if result.not_compared:
        print_line(f"  Not compared, as the raw readings do not have it: {', '.join(result.not_compared)}.")


def _print_result(path: str, result: Verification) -> None:
    if result.same:
        exact = not result.largest_difference
        digits = "to the last digit" if exact else f"but for rounding: by a share of {result.largest_difference:.1g} at most"
        print_line(f"{path}: the same, {digits}. Reckoned from the raw readings of {result.seconds:.6g} s.")
        return
    print_line(f"{path}: {'cannot be verified' if result.same is None else 'NOT the same'}. {result.reason}")
    for difference in result.differences:
        print_line(f"  {difference.field}: recorded {difference.recorded}, reckoned {difference.reckoned}")
