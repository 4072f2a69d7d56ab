"""CUDA events of torch: instants in a GPU's queue of work."""

from collections.abc import Callable

import torch


def cuda_event_recorder() -> Callable[[], torch.cuda.Event | None]:
    """Return a function that puts an event into the queue of the current GPU, on its current stream.

    While a CUDA graph is captured it does nothing and returns None: what is recorded then is part of the graph.
    """

    def record() -> torch.cuda.Event | None:
        if torch.cuda.is_current_stream_capturing():
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    return record
