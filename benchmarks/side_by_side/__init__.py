"""Compare energy tools on the same work: `python -m side_by_side`, from this folder's parent."""
