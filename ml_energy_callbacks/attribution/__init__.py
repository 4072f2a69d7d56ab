"""Split a device's energy between the phases of a loop; pure."""
