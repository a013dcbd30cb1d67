import numpy as np
import pytest
from PIL import Image

from stcr_plugin.engines.picture_changes import GRID, change, visibly_different
from stcr_plugin.types import Shown

GREY = (128, 128, 128)


def scene(place, size=(160, 96), noise=0):
    """Dark noise, a bright square in cell (4, `place`), and a code in the upper left corner."""
    pixels = np.random.default_rng(noise).integers(30, 34, (size[1], size[0], 3)).astype(np.uint8)
    width, height = size[0] // GRID, size[1] // GRID
    pixels[4 * height : 5 * height, place * width : (place + 1) * width] = 200
    pixels[:height, :width] = 40 + 10 * place
    return Image.fromarray(pixels)


FIRST, SECOND = scene(5), scene(9, noise=1)


def changed(kind, picture=FIRST, image="a", other="b"):
    made = change(picture, Shown(image, kind, other), lambda path: {"a": FIRST, "b": SECOND}[path])
    return np.asarray(made)


def test_cells_that_visibly_differ_are_those_of_the_change_and_the_same_for_both():
    cells = visibly_different(FIRST, SECOND)
    assert {tuple(cell) for cell in np.argwhere(cells)} == {(0, 0), (4, 5), (4, 9)}
    assert (visibly_different(SECOND, FIRST) == cells).all()
    assert not visibly_different(FIRST, FIRST).any()


@pytest.mark.parametrize("size", [(64, 64), (56, 56), (30, 200), (161, 97)])
def test_masked_change_leaves_nothing_that_visibly_differs_at_any_size(size):
    pictures = {"a": scene(5, size), "b": scene(9, size, noise=1)}
    first, second = (
        change(pictures[name], Shown(name, "mask change", other), pictures.__getitem__)
        for name, other in (("a", "b"), ("b", "a"))
    )
    assert first.size == size
    assert not visibly_different(first, second).any()
    assert (np.asarray(first) == GREY).all(axis=-1).mean() < 0.1


def test_mask_elsewhere_is_as_large_and_the_same_in_both_pictures():
    first, second = changed("mask elsewhere"), changed("mask elsewhere", SECOND, "b", "a")
    masked = (first == GREY).all(axis=-1)
    assert masked.mean() == 3 / GRID**2
    assert ((second == GREY).all(axis=-1) == masked).all()
    assert not masked[(changed("mask change") == GREY).all(axis=-1)].any()


def test_border_is_masked_at_all_sides_and_wider_in_the_corners():
    masked = (changed("mask border") == GREY).all(axis=-1)[::6, ::10]  # one pixel of each cell
    expected = np.zeros((GRID, GRID), dtype=bool)
    expected[[0, -1], :] = expected[:, [0, -1]] = True
    for rows in (slice(0, 3), slice(-3, None)):
        for columns in (slice(0, 3), slice(-3, None)):
            expected[rows, columns] = True
    assert (masked == expected).all()


def test_rest_is_swapped_and_the_visible_change_stays():
    made = changed("swap rest")
    first, second = np.asarray(FIRST), np.asarray(SECOND)
    cell = (slice(24, 30), slice(50, 60))
    assert (made[cell] == first[cell]).all()
    code = (slice(0, 6), slice(0, 10))
    assert (made[code] == second[code]).all()
    assert (made[40:, 40:] == second[40:, 40:]).all()
