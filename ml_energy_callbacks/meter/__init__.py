"""EnergyMeter and what it is made of."""
