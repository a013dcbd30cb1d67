"""A decoded frame -> its picture: in its own colours and the right way up."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from stcr_plugin.errors import DataError

if TYPE_CHECKING:
    from stcr_plugin.types import Picture

# How a frame says by which matrix its colours were coded (ITU-T H.273), and what FFmpeg's scaler calls that matrix.
_RGB, _UNKNOWN = 0, 2
_BT601 = (_RGB, _UNKNOWN, 5, 6)  # an RGB format needs no matrix, and what says nothing is read as BT.601
_SCALER_BT601, _DEFAULT = 6, 5
_SCALER = {**dict.fromkeys(_BT601, _SCALER_BT601), 1: 1, 4: 4, 7: 7, 9: 9}
_LIMITED, _FULL = 1, 2  # ranges of values: black to white is 16 to 235, or 0 to 255
_HDR = {16: "PQ", 18: "HLG"}


def picture_of(frame: Any, where: str) -> Picture:
    """uint8 [height, width, 3], RGB, of PyAV's `frame`, turned as it is stored to be shown.

    The video's own matrix and range of values are used; one that names none is read as BT.601. Raises DataError naming
    `where` for a matrix that FFmpeg's scaler does not have.
    """
    return _turned(_rgb(frame, where), frame)


def warn_of_hdr(transfer: int, where: str) -> None:
    """Log once for a video of high dynamic range, whose pictures come out paler than a player shows them."""
    if transfer in _HDR:
        _warn_once(_HDR[transfer], where)


@cache
def _warn_once(kind: str, where: str) -> None:
    text = "%s: a video of high dynamic range (%s), its pictures are paler than a player shows them; "
    logging.getLogger(__name__).warning(text + "convert it to SDR where that matters", where, kind)


def _rgb(frame: Any, where: str) -> Picture:
    name, matrix, range_ = frame.format.name, frame.colorspace, frame.color_range
    # What FFmpeg's scaler takes a frame for if it is not told.
    assumed = _FULL if name.startswith(("yuvj", "gray")) else _LIMITED
    if name.startswith("yuvj") or range_ not in (_FULL, _LIMITED):
        range_ = assumed
    if frame.format.is_rgb or frame.format.has_palette or (matrix in _BT601 and range_ == assumed):
        return frame.to_ndarray(format="rgb24")  # type: ignore[no-any-return]
    if matrix not in _SCALER:
        problem = f"its colours are coded by a matrix that is not supported (number {matrix} of ITU-T H.273)"
        raise DataError(where, problem, "encode the video again as BT.709")
    if name == "gray":  # for which the scaler ignores the range
        frame = frame.reformat(format="gray10le", src_color_range=range_, dst_color_range=range_)
    return frame.to_ndarray(  # type: ignore[no-any-return]
        format="rgb24", src_colorspace=_SCALER[matrix], dst_colorspace=_DEFAULT, src_color_range=range_
    )


def _turned(picture: Picture, frame: Any) -> Picture:
    """By the display matrix that phones store, in quarter turns, and mirrored where it says so."""
    from av.sidedata.sidedata import Type

    try:
        stored = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # a frame with other side data that PyAV has no name for
        return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
    if stored is None:
        return picture
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(bytes(stored), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return np.ascontiguousarray(picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])
