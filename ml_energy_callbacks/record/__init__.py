"""The run record: its form, and how it is built, merged, found, read and written."""
