"""The devices of this machine that can be measured and how accurately, and why others cannot be measured, with the fix."""

from ml_energy_callbacks.doctor.examination import SECONDS, Diagnosis, Examined, Unmeasured, examine, live_watts
from ml_energy_callbacks.doctor.table import render, render_watts

__all__ = ["SECONDS", "Diagnosis", "Examined", "Unmeasured", "examine", "live_watts", "render", "render_watts"]
