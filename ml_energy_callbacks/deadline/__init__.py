"""Calls that may hang, or answer without end: into drivers, to files and to services, each with a limit."""
