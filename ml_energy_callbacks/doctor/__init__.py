"""What can be measured on this machine, how and how well, and what cannot, why, and what to do about it."""

from ml_energy_callbacks.doctor.examination import SECONDS, Diagnosis, Examined, Unmeasured, examine, live_watts
from ml_energy_callbacks.doctor.table import render, render_watts

__all__ = ["SECONDS", "Diagnosis", "Examined", "Unmeasured", "examine", "live_watts", "render", "render_watts"]
