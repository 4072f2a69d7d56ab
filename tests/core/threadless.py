"""A loop, or a training of Lightning, in a process that can start no thread any more; prints the record's warnings."""

import json
import sys
from contextlib import suppress
from pathlib import Path

from privilege import start_no_more_threads

from ml_energy_callbacks import EnergyMeter, load_record


def main(folder: Path, devices: str, framework: str) -> None:
    """Measure in a process that was limited before."""
    options = {"carbon_intensity": 1, "verbose": False, "devices": devices if devices == "auto" else [devices]}
    with EnergyMeter(output_dir=folder / "before", **options):
        pass  # what is imported late may be unreadable for the other user
    if framework == "none":
        start_no_more_threads(folder)
        with EnergyMeter(output_dir=folder, **options) as meter, meter.stage("train"), meter.batch(samples=4):
            pass
        print(json.dumps(meter.record.warnings))  # noqa: T201
        with suppress(ValueError), EnergyMeter(output_dir=folder / "failed", **options):
            raise ValueError
        assert load_record(folder / "failed").run.status == "failed"
        return
    from frameworks.lightning_loops import EnergyCallback, Loops  # noqa: PLC0415 - not needed above

    loops = Loops(folder)
    loops.fit([], epochs=1)  # what torch starts, it starts now
    start_no_more_threads(folder)
    energy = EnergyCallback(**options)
    loops.fit([energy], epochs=1)
    assert energy.record.stages["train"].samples == 40
    print(json.dumps(energy.record.warnings))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
