"""The embedded data: digits that the program draws, for when MNIST cannot be reached.

Every image starts from one of the shapes in ``GLYPHS``, a few per digit, given as the points
a pen passes through. The points are jittered, joined by a smooth curve, bent, stretched,
turned, slanted and traced by a pen of varying width. Then MNIST's own recipe follows
(http://yann.lecun.com/exdb/mnist/): the ink is scaled to a box of 20x20 pixels, keeping its
proportions, and its centre of mass is moved to the centre of 28x28.

Measured on the 10,000 images of MNIST's test set, which nothing here was tuned on: 96.8%,
97.0% and 97.4% for seeds 2, 3 and 1, by a CNN trained on 60,000 drawn digits alone (two
5x5 convolutions of stride 2 with 16 and 32 filters, a dense layer of 128, batch norm after
each; Adam, cosine from 3e-3, batch 128, 4 epochs). The yardstick for the shapes and for the
constants was the first 10,000 images of MNIST's training set (96.4% to 96.7% on those).
Drawing 60,000 takes 3.2 s of one 2026 x86-64 core, 50 MB beside the images.

The same seed is to give the same bytes on every machine and with every numpy. So the random
numbers come straight from Philox's raw stream, which numpy promises to keep, unlike that of
Generator's methods (NEP 19), and floats are only ever added, subtracted, multiplied, divided,
rooted and compared element by element, which IEEE 754 rounds in one way: no sin, no exp, no
matmul, no float sum. Seen to hold on x86-64 for numpy 2.0 and 2.4, with and without AVX2.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

# Per digit its shapes as (weight, strokes): out of the sum of the digit's weights so many
# images have this shape. A stroke is a smooth curve through its points "x,y", y downwards, in
# hundredths of the digit's height; a point given twice is a corner; "|" lifts the pen.
GLYPHS: tuple[tuple[tuple[int, str], ...], ...] = (
    (  # 0
        (4, "50,0 22,14 12,50 22,86 50,100 78,86 88,50 78,14 50,0"),
        (2, "62,4 30,8 12,45 20,88 48,100 78,82 88,40 70,8 42,3 34,14"),
        (2, "50,0 34,16 28,50 34,84 50,100 66,84 72,50 66,16 50,0"),
        (1, "70,10 60,22 86,45 72,85 45,100 18,80 14,40 36,6 60,0 72,12"),
        (1, "50,10 16,24 0,55 16,88 50,97 86,86 100,54 84,22 50,10"),
        (2, "56,2 20,16 14,60 44,98 84,70 84,24 52,2"),
        (1, "66,30 60,6 30,10 12,50 28,94 64,94 86,50 70,14 44,4"),
        (1, "40,40 62,20 50,2 22,20 12,60 36,98 72,84 84,40 66,6 44,8"),
    ),
    (  # 1
        (14, "50,0 50,50 50,100"),
        (2, "52,0 48,50 52,100"),
        (2, "30,22 52,0 52,0 52,50 52,100"),
        (2, "30,22 52,0 52,0 52,50 52,100 | 28,100 52,100 78,99"),
        (1, "20,6 52,3 52,3 52,50 52,100 | 24,100 52,100 80,99"),
        (1, "24,36 52,0 52,0 50,50 46,100"),
    ),
    (  # 2
        (4, "16,24 32,4 58,0 78,16 74,42 46,72 12,100 12,100 50,98 90,97"),
        (3, "16,24 34,3 60,2 78,20 68,54 40,86 16,96 10,84 24,76 50,88 90,97"),
        (2, "16,26 36,2 62,4 74,30 56,72 30,98 6,94 8,74 34,70 60,84 98,92"),
        (2, "18,20 40,2 68,6 72,34 46,72 14,98 14,98 40,88 64,96 90,90"),
        (2, "20,10 48,0 74,14 70,48 52,84 28,98 14,86 28,74 52,84 92,100"),
        (1, "36,36 20,28 26,6 56,0 76,20 66,56 40,84 14,98 14,98 50,94 90,98"),
        (1, "36,34 22,26 34,4 60,2 74,26 64,68 36,98 14,92 24,74 52,84 76,98"),
        (1, "24,22 46,0 76,20 62,62 34,96 8,84 26,66 52,80 72,100 96,86"),
        (1, "14,30 16,8 50,0 80,14 66,50 12,90 12,90 50,90 92,88"),
        (1, "10,30 36,0 74,10 78,50 60,86 24,96 4,80 24,64 56,74 90,96"),
        (1, "40,8 52,0 58,26 42,68 20,96 20,96 60,92 96,90"),
    ),
    (  # 3
        (3, "18,14 42,0 70,8 70,30 42,46 42,46 74,54 82,78 56,99 14,90"),
        (1, "16,4 78,3 78,3 44,40 44,40 76,54 78,84 48,100 14,92"),
        (3, "20,10 48,0 72,14 62,36 42,48 66,52 80,72 66,94 38,100 14,88"),
        (2, "20,12 46,0 70,12 62,34 40,50 34,44 48,42 76,58 74,88 44,100 14,90"),
        (1, "30,12 48,0 64,12 58,34 44,46 44,46 62,60 60,84 40,100 26,92"),
        (1, "22,16 44,0 66,14 60,36 46,46 62,54 72,72 56,92 28,98 8,86 20,76 40,84"),
        (1, "14,22 38,0 74,10 66,34 36,48 66,50 80,68 58,90 10,100"),
        (1, "22,10 50,0 66,14 46,38 46,38 64,52 60,80 26,100"),
        (1, "22,20 40,2 66,8 60,36 46,46 66,56 74,80 50,98 22,90 26,72 46,70"),
    ),
    (  # 4
        (3, "26,0 14,52 14,52 50,54 88,50 | 74,2 68,50 64,100"),
        (2, "20,4 12,38 26,54 58,50 82,40 | 82,0 78,50 74,100"),
        (2, "62,0 36,34 8,66 8,66 50,66 92,64 | 64,0 64,50 64,100"),
        (2, "22,2 16,34 32,48 62,44 80,26 84,0 84,0 76,50 70,100"),
        (1, "80,4 50,22 22,44 22,44 50,52 80,46 | 84,2 76,50 66,100"),
        (1, "30,0 12,56 12,56 50,58 90,54 | 60,26 58,60 56,100"),
    ),
    (  # 5
        (3, "86,3 58,3 30,4 30,4 22,42 22,42 50,36 80,54 76,84 46,100 12,90"),
        (2, "30,4 24,42 24,42 54,40 76,60 68,88 40,100 12,90 | 30,5 60,3 92,0"),
        (2, "84,2 50,4 28,14 24,36 48,46 72,62 66,90 38,100 12,90"),
        (1, "92,0 60,4 44,10 44,10 32,40 32,40 56,54 60,76 44,96 12,98"),
        (1, "40,10 28,44 28,44 54,56 58,82 34,100 14,90 20,82 | 40,10 70,8 98,0"),
        (1, "80,4 32,4 32,4 30,40 30,40 60,32 84,50 80,84 52,100 24,92 16,78 28,74"),
        (1, "70,0 56,12 40,14 40,14 36,46 36,46 58,60 56,86 36,100 26,86"),
        (1, "76,2 36,6 36,6 28,36 28,36 66,40 84,66 56,96 18,90 14,74 40,76"),
        (1, "100,0 30,10 30,10 22,40 22,40 60,44 66,70 40,96 0,100"),
        (1, "100,10 60,0 34,10 34,10 26,40 26,40 64,40 72,70 44,98 18,86 34,70"),
    ),
    (  # 6
        (3, "68,0 36,24 16,62 24,94 54,100 78,82 70,60 42,58 20,78"),
        (2, "60,0 30,40 14,78 32,99 64,94 72,72 50,60 22,74"),
        (1, "78,8 58,0 30,22 16,62 28,96 60,100 80,76 60,54 34,62 20,80"),
        (2, "34,0 14,34 8,74 34,100 72,94 88,66 70,42 42,50 30,76 40,92"),
        (1, "56,0 36,40 30,78 42,100 58,92 58,72 44,66 34,80"),
        (1, "40,0 20,40 12,78 36,100 80,90 94,66 72,54 40,64 26,88"),
    ),
    (  # 7
        (3, "10,6 48,5 86,4 86,4 62,46 42,100"),
        (2, "10,6 48,5 86,4 86,4 62,46 42,100 | 32,52 56,50 78,46"),
        (2, "12,22 14,6 14,6 50,5 86,4 86,4 64,46 50,100"),
        (1, "10,12 40,4 74,4 78,22 58,56 44,100"),
        (1, "18,34 26,8 26,8 56,14 84,6 84,6 70,50 62,100"),
        (1, "16,26 26,4 48,16 80,2 80,2 60,50 40,100 | 36,54 56,52 76,48"),
        (1, "24,10 52,2 70,10 70,40 60,70 54,100"),
        (1, "0,22 50,14 96,10 96,10 70,50 40,92"),
        (2, "14,36 18,8 18,8 50,8 84,2 84,2 62,50 48,100"),
        (1, "12,30 30,6 30,6 74,4 74,4 72,50 66,100"),
        (2, "14,40 20,8 20,8 50,12 84,6 84,6 60,50 44,100"),
        (1, "20,4 56,4 72,26 60,66 34,100"),
        (1, "0,8 70,6 70,6 56,40 40,100 | 20,56 60,52 96,54"),
        (1, "10,26 14,8 50,10 80,2 80,2 54,50 30,98 | 40,46 60,48 84,40"),
    ),
    (  # 8
        (3, "76,14 50,0 24,14 34,38 64,58 78,82 50,100 22,82 34,58 64,38 76,14"),
        (2, "82,12 52,2 26,16 36,40 64,60 72,86 46,100 22,84 36,58 66,36 84,8"),
        (1, "50,46 28,36 28,10 50,0 72,10 72,36 50,46 24,60 22,88 50,100 78,88 76,60 50,46"),
        (2, "92,14 64,2 34,6 24,26 46,46 62,68 54,96 30,98 28,76 50,54 80,34 96,22"),
        (1, "30,6 36,34 64,62 62,92 42,100 32,84 48,58 72,30 70,6 48,0 30,8"),
        (1, "62,4 36,0 24,18 42,36 60,52 60,84 44,100 36,84 50,54 72,30 66,6"),
        (1, "86,10 60,20 40,2 20,14 40,40 66,62 66,90 40,100 26,84 52,54 84,14"),
        (1, "70,20 60,2 36,0 30,24 56,44 76,66 70,94 40,100 24,84 32,62 54,46"),
        (1, "36,44 22,20 50,0 78,18 58,40 36,48 16,74 44,100 82,82 70,54 40,42"),
        (1, "80,16 54,0 24,12 28,34 52,48 56,80 44,100 34,84 46,54 72,36 80,16"),
        (1, "26,0 40,30 64,60 60,94 36,98 30,76 50,46 76,10 50,16 22,6"),
        (1, "50,46 10,36 14,6 50,0 86,8 88,36 50,46 16,60 12,90 50,100 90,90 84,58 50,46"),
    ),
    (  # 9
        (3, "76,16 50,0 22,16 22,42 48,50 72,30 78,6 78,6 74,52 66,100"),
        (2, "72,8 44,2 20,22 28,46 56,42 76,14 76,14 78,56 62,92 34,100 22,92"),
        (1, "78,18 54,0 26,10 18,34 40,46 70,34 78,18 68,60 50,100"),
        (2, "84,24 56,4 20,18 8,50 28,66 62,54 84,24 84,24 84,62 82,100"),
        (1, "70,10 48,0 36,18 46,36 64,28 70,10 70,10 62,56 50,100"),
        (1, "86,6 50,8 14,24 10,40 44,40 78,22 86,6 70,52 50,100"),
        (1, "76,14 44,0 18,18 26,44 58,40 74,20 78,50 68,86 44,100 20,88 30,76"),
        (2, "74,2 40,12 20,38 44,46 74,6 74,6 62,54 50,100"),
        (2, "68,6 44,4 28,24 36,40 60,34 76,8 76,8 60,50 36,100"),
        (1, "60,6 30,14 24,36 46,44 76,28 80,6 80,6 74,60 72,100"),
        (1, "78,20 50,0 14,12 2,40 14,66 44,72 70,50 78,20 78,20 80,60 86,100"),
        (1, "84,14 56,4 28,24 34,44 62,36 70,34 60,64 40,100"),
    ),
)

SIDE = 28
BOX = 20
BLOCK = 500  # images drawn at a time; each block has its own random stream
SAMPLES = 72  # dots of ink per image: on nearly all strokes at most a pixel apart

# How much the drawings vary. (low, high) is uniform; a single number is a standard deviation.
JITTER = 0.035  # of a point, in heights; two of these are added
JITTER_OF_IMAGE = (0.3, 1.5)  # neat and untidy writers: a factor on JITTER
BEND = 0.22  # of the coefficients of second- and third-degree terms in x and y
WIDTH = (0.55, 1.55)  # factor on the width
TURN = 0.1  # radians, nearly
SLANT, SLANT_MEAN = 0.26, 0.2  # pixels to the right per pixel upwards
RADIUS, RADIUS_RANGE = np.float32(0.9), np.float32(2.1)  # pixels; thin pens are frequent
PRESSURE = 0.12  # relative change of the radius along the strokes
EDGE = (0.8, 1.4)  # pixels over which ink fades to background
GRAIN = (-0.125, 0.125)  # noise added to inked pixels, as a fraction of full ink
BRIGHTNESS = (0.95, 1.1)  # of full ink


class _Shapes(NamedTuple):
    """All shapes of all digits as arrays: S shapes of at most C points each."""

    points: Floats  # [S, C, 2], in heights, the middle of the digit's box at 0
    nearby: Integers  # [S, SAMPLES, 4]: the four points that determine a dot
    weight: Floats  # [S, SAMPLES, 4]: how much each contributes
    of_digit: tuple[Integers, ...]  # per digit its shapes, each as often as its weight says


class _Random:
    """Random float32 arrays that depend on (seed, block) alone."""

    def __init__(self, seed: int, block: int) -> None:
        self._bits = np.random.Philox(key=np.array([seed, block], np.uint64))

    def uniform(self, bounds: tuple[float, float], *shape: int) -> Floats:
        """Uniform values in [low, high)."""
        low, high = bounds
        raw = self._bits.random_raw(int(np.prod(shape))) >> np.uint64(40)
        unit = raw.astype(np.float32).reshape(shape) * np.float32(2**-24)
        return np.float32(low) + np.float32(high - low) * unit

    def bell(self, deviation: float, *shape: int) -> Floats:
        """Sums of three uniform values: bell-shaped around 0, within three deviations."""
        first, second, third = self.uniform((-deviation, deviation), 3, *shape)
        total: Floats = first + second + third
        return total


def draw(count: int, seed: int, first: int = 0) -> tuple[Bytes, Bytes]:
    """Draws digits first .. first + count - 1, every ten being each digit once, in random order.

    Image i depends on the seed and i alone: a longer draw begins with the shorter one.

    Args:
        count: Number of images, 0 or more.
        seed: 0 to 2**64 - 1.
        first: Number of the first image, from 0.

    Returns:
        Images, uint8 [count, 28, 28], background 0 and full ink 255, and labels, uint8 [count].
    """
    assert count >= 0, count
    assert 0 <= seed < 2**64, seed
    images = np.empty((count, SIDE, SIDE), np.uint8)
    labels = np.empty(count, np.uint8)
    done = 0
    while done < count:
        block, skipped = divmod(first + done, BLOCK)
        some = slice(skipped, skipped + count - done)  # ends with the block
        some_images, some_labels = (array[some] for array in _draw_block(_Random(seed, block)))
        images[done : done + len(some_labels)] = some_images
        labels[done : done + len(some_labels)] = some_labels
        done += len(some_labels)
    return images, labels


def _draw_block(random: _Random) -> tuple[Bytes, Bytes]:
    tens = random.uniform((0, 1), BLOCK // 10, 10)
    labels = np.argsort(tens, axis=1, kind="stable").reshape(BLOCK)
    x, y = _bend(*_write(labels, random), random)
    return _centre(_ink(x, y, random)), labels.astype(np.uint8)


def _write(labels: Integers, random: _Random) -> tuple[Floats, Floats]:
    """Chooses and jitters shapes; returns the dots' x and y, each [SAMPLES, n], in heights."""
    shapes, n = _shapes(), len(labels)
    choice = random.uniform((0, 1), n)
    shape = np.empty(n, np.int64)
    for digit, options in enumerate(shapes.of_digit):
        mine = labels == digit
        shape[mine] = options[(choice[mine] * np.float32(len(options))).astype(np.int64)]
    # Neighbours share half of their jitter, or every point would be a kink.
    jitter = random.bell(JITTER, n, shapes.points.shape[1] + 1, 2)
    jitter *= random.uniform(JITTER_OF_IMAGE, n, 1, 1)
    points = shapes.points[shape] + jitter[:, 1:] + jitter[:, :-1]
    nearby, weight = shapes.nearby[shape], shapes.weight[shape, :, :, None]
    image = np.arange(n)[:, None]
    dots = points[image, nearby[:, :, 0]] * weight[:, :, 0]
    for k in (1, 2, 3):
        dots += points[image, nearby[:, :, k]] * weight[:, :, k]
    return np.ascontiguousarray(dots[:, :, 0].T), np.ascontiguousarray(dots[:, :, 1].T)


def _bend(x: Floats, y: Floats, random: _Random) -> tuple[Floats, Floats]:
    """Bends, stretches, turns and slants the dots of each image, x and y being [SAMPLES, n]."""
    n = x.shape[1]
    a = random.bell(BEND, 10, n)
    xx, xy, yy = x * x, x * y, y * y
    bent_x = x + a[0] * xx + a[1] * xy + a[2] * yy + 2 * (a[3] * xx * x + a[4] * yy * y)
    bent_y = y + a[5] * xx + a[6] * xy + a[7] * yy + 2 * (a[8] * xx * x + a[9] * yy * y)
    bent_x *= random.uniform(WIDTH, n)
    half = random.bell(TURN / 2, n)  # tangent of half the angle, in place of sin, cos
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x, y = bent_x * cos - bent_y * sin, bent_x * sin + bent_y * cos
    return x - (np.float32(SLANT_MEAN) + random.bell(SLANT, n)) * y, y


def _ink(x: Floats, y: Floats, random: _Random) -> Bytes:
    """Traces dots, each [SAMPLES, n], with a pen; returns ink that fills boxes, [n, BOX, BOX]."""
    n = x.shape[1]
    radius = RADIUS + RADIUS_RANGE * random.uniform((0, 1), n) * random.uniform((0, 1), n)
    left, right, top, bottom = x.min(axis=0), x.max(axis=0), y.min(axis=0), y.max(axis=0)
    scale = (np.float32(BOX - 0.6) - 2 * radius) / np.maximum(right - left, bottom - top)
    x = (x - (left + right) / 2) * scale + np.float32((BOX - 1) / 2)
    y = (y - (top + bottom) / 2) * scale + np.float32((BOX - 1) / 2)

    along = np.linspace(-1, 1, SAMPLES, dtype=np.float32)[:, None]
    lighter = random.bell(PRESSURE, n) * along
    lighter += random.bell(PRESSURE, n) * (along * along - np.float32(1 / 3))
    # A lighter dot counts as farther away: a pixel's nearest dot is the one of least
    # distance**2 + radius**2 - dot_radius**2, which needs one root per pixel, not per dot.
    dot_radius = radius * np.clip(1 - lighter, np.float32(0.5), 1)
    pixel = np.arange(BOX, dtype=np.float32)[:, None]
    across, down = x[:, None] - pixel, y[:, None] - pixel
    across = across * across + (radius * radius - dot_radius * dot_radius)[:, None]
    down *= down
    nearest = np.full((BOX, BOX, n), np.inf, np.float32)
    for dot in range(SAMPLES):
        np.minimum(nearest, down[dot, :, None] + across[dot], out=nearest)

    ink = (radius - np.sqrt(nearest)) / random.uniform(EDGE, n)
    ink += np.float32(0.5)
    ink += (ink > 0) * random.uniform(GRAIN, BOX, BOX, n)
    ink *= random.uniform(BRIGHTNESS, n)
    boxes: Bytes = (np.clip(ink, 0, 1) * 255).astype(np.uint8).transpose(2, 0, 1)
    return boxes


def _centre(boxes: Bytes) -> Bytes:
    """Puts boxes [n, BOX, BOX] into images [n, SIDE, SIDE], centred by their centre of mass."""
    pixel = np.arange(BOX)
    rows, columns = boxes.sum(axis=2, dtype=np.int64), boxes.sum(axis=1, dtype=np.int64)
    mass = rows.sum(axis=1)
    corners = [
        np.rint((SIDE - 1) / 2 - (line * pixel).sum(axis=1) / mass) for line in (rows, columns)
    ]
    top, left = np.clip(corners, 0, SIDE - BOX).astype(np.int64)[:, :, None] + pixel
    images = np.zeros((len(boxes), SIDE, SIDE), np.uint8)
    images[np.arange(len(boxes))[:, None, None], top[:, :, None], left[:, None, :]] = boxes
    return images


@cache
def _shapes() -> _Shapes:
    """GLYPHS as arrays."""
    parsed = [_parse(strokes) for shapes in GLYPHS for _, strokes in shapes]
    points = np.zeros((len(parsed), max(len(p) for p, _ in parsed), 2), np.float32)
    nearby = np.empty((len(parsed), SAMPLES, 4), np.int64)
    weight = np.empty((len(parsed), SAMPLES, 4), np.float32)
    for shape, (own_points, segments) in enumerate(parsed):
        points[shape, : len(own_points)] = own_points
        nearby[shape], weight[shape] = _spread_dots(own_points, segments)
    of_digit, first = [], 0
    for shapes in GLYPHS:
        numbers = np.arange(first, first + len(shapes))
        of_digit.append(np.repeat(numbers, [times for times, _ in shapes]))
        first += len(shapes)
    return _Shapes(points, nearby, weight, tuple(of_digit))


def _parse(strokes: str) -> tuple[npt.NDArray[np.float64], Integers]:
    """Returns points [p, 2] and segments [s, 4]: before, start, end and after, as point numbers."""
    points: list[list[float]] = []
    segments: list[list[int]] = []
    for stroke in strokes.split("|"):
        path: list[int] = []
        for text in stroke.split():
            point = [int(value) / 100 - 0.5 for value in text.split(",")]
            if not path or point != points[-1]:
                points.append(point)
            path.append(len(points) - 1)
        path = [path[0], *path, path[-1]]
        segments += [path[i : i + 4] for i in range(len(path) - 3) if path[i + 1] != path[i + 2]]
    return np.array(points), np.array(segments)


def _spread_dots(points: npt.NDArray[np.float64], segments: Integers) -> tuple[Integers, Floats]:
    """Spreads SAMPLES dots evenly over the strokes, on Catmull-Rom curves through the points.

    Returns the numbers and the weights of the four points that make each dot, [SAMPLES, 4]; the
    weights are those of the cubic with slope (after - before) / 2 at both ends of a segment.
    """
    step = points[segments[:, 2]] - points[segments[:, 1]]
    length = np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1])
    end = np.cumsum(length)
    at = np.linspace(0, end[-1], SAMPLES)
    segment = np.minimum(np.searchsorted(end, at), len(segments) - 1)
    t = 1 - (end[segment] - at) / length[segment]
    tt, ttt = t * t, t * t * t
    weight = np.stack(
        [2 * tt - ttt - t, 3 * ttt - 5 * tt + 2, 4 * tt - 3 * ttt + t, ttt - tt], axis=1
    )
    return segments[segment], (weight / 2).astype(np.float32)
