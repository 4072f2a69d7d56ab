"""Exports a meter to monitoring systems: :mod:`.prometheus` and :mod:`.opentelemetry`, each an optional extra."""
