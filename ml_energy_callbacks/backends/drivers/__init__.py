"""What backends read through: libraries, files and environment variables of a machine."""
