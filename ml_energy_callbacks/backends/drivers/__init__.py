"""Access of the backends to a machine's libraries, files and environment variables."""
