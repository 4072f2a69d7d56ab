"""``ml-energy when``: when a run would emit least and cost least."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path

import msgspec

from ml_energy_callbacks.carbon import check_currency, forecast, plan, price_table
from ml_energy_callbacks.cli.output import console_for, print_json
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.record.utf8 import encode_json
from ml_energy_callbacks.report.plan_table import render_plan

_HOURS_OF_A_YEAR = 8784.0


def plan_run(
    *,
    location: str | None,
    series: Path | None,
    kwh: float,
    run_hours: float,
    hours: float,
    price: Sequence[str] | None,
    currency: str,
    json: bool,
) -> None:
    """Print the best starts; the arguments are the command's options."""
    check_currency(currency)
    kwh = _check_positive("--kwh", kwh)
    duration = timedelta(hours=_check_positive("--run-hours", run_hours, _HOURS_OF_A_YEAR))
    within = timedelta(hours=_check_positive("--hours", hours, _HOURS_OF_A_YEAR))
    now = datetime.now(UTC)
    prices = price_table(_parse_prices(price) if price else None)
    ahead = forecast(location, series, now)
    found = plan(ahead, prices, kwh=kwh, duration=duration, now=now, within=within)
    if json:
        facts = {"source": ahead.source, "currency": None if prices is None else currency, **msgspec.to_builtins(found)}
        print_json(encode_json(facts).decode())
    else:
        console_for().print(render_plan(found, ahead.source, currency))


def _check_positive(option: str, value: float, most: float | None = None) -> float:
    if not (isfinite(value) and 0 < value <= (most or value)):
        limit = "" if most is None else f" and at most {most:g}"
        msg = f"{option} is {value:g}; give a number above 0{limit}."
        raise ConfigurationError(msg)
    return value


def _parse_prices(texts: Sequence[str]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for text in texts:
        time, _, value = text.partition("=")
        if time in prices:
            msg = f"--price has two prices for {time}; give one for each time."
            raise ConfigurationError(msg)
        try:
            prices[time] = float(value)
        except ValueError:
            msg = f"--price {text!r} is not a time and a price; write it as 06:00=0.32."
            raise ConfigurationError(msg) from None
    return prices
