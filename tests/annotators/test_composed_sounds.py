"""Sounds that a network was trained to know are found at their times, among others that it has never heard."""

from pathlib import Path

import numpy as np
import pytest
from bench.composed_sounds import Composition, Placed, figures, measured, trained
from media.decoding import SHARED

TRUTH = Composition("a.mp4", [Placed("dog", 1.0, 3.0), Placed("rain", 4.0, 5.0)], np.arange(60) // 5 % 2 == 1)
"""Six seconds; the second half of each is audible."""


def test_figures_of_known_spans() -> None:
    perfect = figures([TRUTH], {"a.mp4": list(TRUTH.placed)})
    assert (perfect.clips, perfect.right, perfect.time_right, perfect.time_wrong) == (2, 2, 1.0, 0.0)
    assert (perfect.silence_labelled, perfect.start_error_s, perfect.end_error_s) == (0.0, 0.0, 0.0)
    said = [Placed("dog", 0.5, 2.2), Placed("rain", 2.2, 3.0), Placed("dog", 4.0, 5.0)]
    found = figures([TRUTH], {"a.mp4": said})
    assert (found.right, found.start_error_s, found.end_error_s) == pytest.approx((1, 0.5, 0.8))
    assert found.time_right == pytest.approx(1 / 3) and found.time_wrong == pytest.approx(2 / 3)
    assert found.silence_labelled == pytest.approx(0.5 / 3)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_trained_network_labels_the_right_spans(ray_cluster: None, one_thread: None, tmp_path: Path) -> None:
    """Trained on folds 1 to 3, tried on fold 4. A span's edge can be no closer than the grid, half a second."""
    if not (SHARED / "audio" / "esc10").exists():
        pytest.skip("the shared sounds are not there")
    weights = trained(SHARED, tmp_path)
    found = measured(weights, SHARED, tmp_path / "composed", videos=8, seed=0)
    assert found.clips == 48
    assert found.right >= 36, "of ten classes, as clips 0.88 are right"
    assert found.time_right > 0.6 and found.time_wrong < 0.2
    assert found.silence_labelled < 0.12
    assert found.start_error_s < 0.75 and found.end_error_s < 0.75
