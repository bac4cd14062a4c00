"""One small frame, drawn once: drawing it is the slow part."""

import pytest

from heph_vl.simulate.frame import draw_frame


@pytest.fixture(scope="session")
def small_frame():
    return draw_frame("128D_09016_110500", size=144, dates=8, seed=5)
