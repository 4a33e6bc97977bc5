"""The five points and the similarity: against transforms that are known, and against least squares by other means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidproc.models.alignment import similarity, template


@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.05, 20),
    shift=st.tuples(st.floats(-1000, 1000), st.floats(-1000, 1000)),
)
def test_a_turned_scaled_and_shifted_template_comes_back(
    angle: float, scale: float, shift: tuple[float, float]
) -> None:
    target = template(112, 112)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = target @ turn.T + shift
    [matrix], [residual] = similarity(points[None], target)
    assert points @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(target, abs=1e-6)
    assert residual < 1e-9


def test_it_is_the_least_squares_fit_among_similarities() -> None:
    """A similarity is linear in (a, b, tx, ty): x' = ax - by + tx, y' = bx + ay + ty."""
    rng = np.random.default_rng(0)
    target = template(112, 96)
    points = target + rng.normal(0, 6, (20, 5, 2))
    matrices, residuals = similarity(points, target)
    for one, matrix, residual in zip(points, matrices, residuals, strict=True):
        x, y = one.T
        rows = np.concatenate(
            [np.stack([x, -y, np.ones(5), np.zeros(5)], 1), np.stack([y, x, np.zeros(5), np.ones(5)], 1)]
        )
        (a, b, tx, ty), *_ = np.linalg.lstsq(rows, target.T.reshape(-1), rcond=None)
        assert matrix == pytest.approx(np.array([[a, -b, tx], [b, a, ty]]), abs=1e-8)
        left = one @ matrix[:, :2].T + matrix[:, 2] - target
        eyes = np.linalg.norm(target[1] - target[0])
        assert residual == pytest.approx(np.sqrt((left**2).sum(1).mean()) / eyes)


def test_a_mirrored_face_is_not_mirrored_back_and_fits_badly() -> None:
    target = template(112, 112)
    mirrored = (target * [-1, 1])[None]
    [matrix], [residual] = similarity(mirrored, target)
    assert np.linalg.det(matrix[:, :2]) > 0 and residual > 0.3
    _, [profile] = similarity((target * [0.3, 1])[None], target)
    assert 0.1 < profile < residual


def test_points_in_one_place_do_no_harm() -> None:
    matrices, residuals = similarity(np.zeros((2, 5, 2)), template(112, 112))
    assert np.isfinite(matrices).all() and np.isfinite(residuals).all()


def test_no_faces() -> None:
    matrices, residuals = similarity(np.empty((0, 5, 2)), template(112, 112))
    assert matrices.shape == (0, 2, 3) and residuals.shape == (0,)


def test_template_is_centred_in_narrower_and_larger_pictures() -> None:
    square, narrow, large = template(112, 112), template(112, 96), template(224, 224)
    assert narrow == pytest.approx(square - [8, 0])
    assert large == pytest.approx(2 * square)
    assert narrow[:2, 0] == pytest.approx([30.2946, 65.5318])  # the points that SphereFace's code has
