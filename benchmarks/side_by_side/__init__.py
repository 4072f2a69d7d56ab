"""Energy tools side by side on the same work: `python -m side_by_side`, from this folder's parent."""
