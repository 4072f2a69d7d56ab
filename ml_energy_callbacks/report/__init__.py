"""A run record -> what a person reads."""

from ml_energy_callbacks.report.quantities import quantity, uncertainty
from ml_energy_callbacks.report.table import render, summary

__all__ = ["quantity", "render", "summary", "uncertainty"]
