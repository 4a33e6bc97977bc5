"""Where a face's five points lie in the picture that an embedding network was trained on. Pure numpy.

Points are in the order eye, eye, nose, corner of the mouth, corner of the mouth, from the picture's left to its right.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SIDE = 112
_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""(x, y) in a picture of 112x112: the template of ArcFace (Deng et al. 2019, arXiv:1801.07698, section 3.1)."""


def template(height: int, width: int) -> Floats:
    """The points in an aligned picture of this size, float64 [5, 2]: scaled to its height, in its middle across.

    At 112x96 these are the points that SphereFace and its followers use (Liu et al. 2017, arXiv:1704.08063).
    """
    scale = height / _SIDE
    return np.asarray(_POINTS) * scale - [(_SIDE * scale - width) / 2, 0.0]


def similarity(points: Floats, target: Floats) -> tuple[Floats, Floats]:
    """The turn, scale and shift that bring each face's points nearest to `target`, and how near.

    `points`: [faces, n, 2]; `target`: [n, 2]. Returns [faces, 2, 3], which maps (x, y, 1), and the root mean square
    distance that is left, as a share of the distance between the target's first two points: [faces].
    Least squares in closed form by one SVD (Umeyama 1991, IEEE PAMI 13(4), equations 39 to 43): never a mirror image.
    """
    points = np.asarray(points, np.float64).reshape(-1, *target.shape)
    means, mean = points.mean(axis=1), target.mean(axis=0)
    centred, aim = points - means[:, None], target - mean
    spread = np.maximum((centred**2).sum(axis=(1, 2)), 1e-12)
    u, d, v = np.linalg.svd(aim.T @ centred)
    mirrored = np.linalg.det(u) * np.linalg.det(v) < 0
    signs = np.stack([np.ones(len(points)), np.where(mirrored, -1.0, 1.0)], axis=1)
    turn = (u * signs[:, None]) @ v
    scale = (d * signs).sum(axis=1) / spread
    matrix = scale[:, None, None] * turn
    shift = mean - (matrix @ means[..., None])[..., 0]
    left = points @ matrix.transpose(0, 2, 1) + shift[:, None] - target
    residual = np.sqrt((left**2).sum(axis=2).mean(axis=1)) / np.linalg.norm(target[1] - target[0])
    return np.concatenate([matrix, shift[..., None]], axis=2), residual
