"""Charts as PNG: what the layout has is there, in its colours, with smooth edges."""

import numpy as np
import pytest
from PIL import Image

from tests.report.charts.test_layout import make_chart
from vlora.report.charts.layout import lay_out
from vlora.report.charts.png import BORDER, COLOURS, PAPER, draw_png


def count(picture: Image.Image, colour: str) -> int:
    """Count the pixels of a colour."""
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return int((np.asarray(picture) == wanted).all(axis=-1).sum())


@pytest.mark.parametrize("n_lines", [1, 2, 6])
def test_every_line_is_drawn_in_its_colour(n_lines: int) -> None:
    """And none that there is not."""
    picture = draw_png(lay_out(make_chart(n_lines), 800, 460, 13))

    assert picture.size == (1200 + 2 * round(BORDER * 1.5), 690 + 2 * round(BORDER * 1.5))
    assert [count(picture, colour) > 100 for colour in COLOURS] == [number < n_lines for number in range(6)]


def test_edges_are_smooth_and_the_border_is_empty() -> None:
    """Colours between a line's and the paper's."""
    picture = draw_png(lay_out(make_chart(1), 800, 460, 13))
    pixels = np.asarray(picture)

    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    border = round(BORDER * 1.5)
    outer = Image.fromarray(pixels[: border - 1])
    assert count(outer, PAPER) == outer.width * outer.height


def test_a_broken_line_has_gaps_of_the_right_length() -> None:
    """The second line is drawn for 7 of 11 pixels."""
    whole = count(draw_png(lay_out(make_chart(1), 800, 460, 13)), COLOURS[0])
    broken = count(draw_png(lay_out(make_chart(2), 800, 460, 13)), COLOURS[1])

    assert 0.4 < broken / whole < 0.85
