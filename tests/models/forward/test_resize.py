"""Pictures of features are resized as the published models resize them."""

import math

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlora.models.forward.resize import resize_bicubic, resize_bicubic_smoothly, resize_bilinear, resize_linear


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_resizing(height: int, width: int, to_height: int, to_width: int) -> None:
    """Each new point is the mean of its four neighbours, weighted by nearness, edges repeated."""
    generator = np.random.default_rng(height * width)
    image = generator.standard_normal((height, width, 2)).astype(np.float32)
    expected = np.zeros((to_height, to_width, 2))
    for row in range(to_height):
        for column in range(to_width):
            y = max((row + 0.5) * height / to_height - 0.5, 0)
            x = max((column + 0.5) * width / to_width - 0.5, 0)
            for near_y in (math.floor(y), math.floor(y) + 1):
                for near_x in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                    expected[row, column] += weight * image[min(near_y, height - 1), min(near_x, width - 1)]

    assert np.allclose(np.array(resize_bilinear(mx.array(image), (to_height, to_width))), expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_cubic_resizing(height: int, width: int, to_height: int, to_width: int) -> None:
    """Each new point is Keys' cubic convolution of its sixteen neighbours, edges repeated."""
    image = np.random.default_rng(height * width).standard_normal((height, width, 2)).astype(np.float32)
    expected = np.zeros((to_height, to_width, 2))

    def kernel(distance: float) -> float:
        if distance <= 1:
            return 1.25 * distance**3 - 2.25 * distance**2 + 1
        return -0.75 * distance**3 + 3.75 * distance**2 - 6 * distance + 3

    for row in range(to_height):
        for column in range(to_width):
            y, x = (row + 0.5) * height / to_height - 0.5, (column + 0.5) * width / to_width - 0.5
            for near_y in range(math.floor(y) - 1, math.floor(y) + 3):
                for near_x in range(math.floor(x) - 1, math.floor(x) + 3):
                    point = image[min(max(near_y, 0), height - 1), min(max(near_x, 0), width - 1)]
                    expected[row, column] += kernel(abs(y - near_y)) * kernel(abs(x - near_x)) * point

    assert np.allclose(np.array(resize_bicubic(mx.array(image), (to_height, to_width))), expected, atol=1e-5)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 9))
def test_smooth_cubic_resizing(length: int, to_length: int, width: int) -> None:
    """Each new point is the mean of what a kernel reaches that is as much wider as the picture gets smaller."""
    image = np.random.default_rng(length).standard_normal((length, width, 2)).astype(np.float32)
    wider = max(length / to_length, 1)
    expected = np.zeros((to_length, width, 2))
    for row in range(to_length):
        weights = []
        for place in range(length):
            distance = abs((row + 0.5) * length / to_length - 0.5 - place) / wider
            if distance <= 1:
                weights.append(1.5 * distance**3 - 2.5 * distance**2 + 1)
            else:
                weights.append(-0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0)
        expected[row] = sum(weight * line for weight, line in zip(weights, image, strict=True)) / sum(weights)

    assert np.allclose(np.array(resize_bicubic_smoothly(mx.array(image), (to_length, width))), expected, atol=1e-5)


def test_a_line_is_resized_from_the_middles_of_its_places() -> None:
    """Three places of five lie at 1/3, 2 and 11/3 of them."""
    line = mx.array([[0.0], [3.0], [6.0], [12.0], [15.0]])
    assert np.allclose(np.array(resize_linear(line, 3))[:, 0], [1, 6, 14], atol=1e-5)
