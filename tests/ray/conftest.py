"""What the tests of Ray share."""

import pytest
from hidden import hide


def pytest_configure(config: pytest.Config) -> None:
    """Let TensorBoard's reader import no TensorFlow, which it needs none of, unless Keras is tested as well."""
    if config.getoption("--framework") is None:
        hide(["tensorflow"])
