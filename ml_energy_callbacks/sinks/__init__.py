"""A meter's figures where services are watched: :mod:`.prometheus` and :mod:`.opentelemetry`, each an optional extra."""
