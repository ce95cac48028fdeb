"""How numbers, times and curves are written. Pure functions of plain values; a value of None is "not measured"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

NOT_MEASURED = "\u2013"  # an en dash
_MINUS = "\u2212"
_BARS = "▁▂▃▄▅▆▇█"


def ratio_text(value: float | None) -> str:
    """A ratio with three decimals: ``0.815``."""
    return NOT_MEASURED if value is None else f"{value:.3f}"


def signed_text(value: float | None) -> str:
    """A difference of ratios with its sign: ``+0.153``, ``−0.020``; what rounds to zero has none."""
    if value is None:
        return NOT_MEASURED
    text = f"{value:+.3f}"
    return "0.000" if text in {"+0.000", "-0.000"} else text.replace("-", _MINUS)


def loss_text(value: float | None) -> str:
    """A loss with three significant digits: ``1.43``, ``0.0021``; one that was no number is ``not finite``."""
    return "not finite" if value is None else f"{value:.3g}"


def count_text(value: float | None) -> str:
    """A count: ``1,024``."""
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def signed_count_text(value: float | None) -> str:
    """A difference of counts: ``+3``, ``−12``, ``0``."""
    if value is None:
        return NOT_MEASURED
    return "0" if value == 0 else f"{value:+,.0f}".replace("-", _MINUS)


def interval_text(bounds: tuple[float, float] | None, *, signed: bool = False, compact: bool = False) -> str:
    """An interval with two decimals, empty where there is none.

    ``0.76–0.86``, signed ``+0.08 to +0.22``, signed and compact ``+0.08…+0.22``.
    Two decimals, since an interval's ends are not known better than that at any usual number of probes.
    """
    if bounds is None:
        return ""
    if not signed:
        return f"{bounds[0]:.2f}\u2013{bounds[1]:.2f}"
    lower, upper = (_signed_short(bound) for bound in bounds)
    return f"{lower}…{upper}" if compact else f"{lower} to {upper}"


def _signed_short(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if text in {"+0.00", "-0.00"} else text.replace("-", _MINUS)


def sparkline(values: Sequence[float | None], width: int, minimum_span: float = 0.1) -> str:
    """The curve of ``values`` in at most ``width`` block characters; a space where nothing was measured.

    More values than characters are averaged in equal stretches. The scale is the curve's own, but never finer than
    ``minimum_span`` from bottom to top, so that noise in the third decimal does not look like a mountain.
    """
    points = _squeeze(values, width)
    known = [point for point in points if point is not None]
    if not known:
        return ""
    low, high, top = min(known), max(known), len(_BARS) - 1
    if high - low < minimum_span:
        middle = (low + high) / 2
        # The middle falls on a bar, not between two, where the least noise would show as steps.
        low = middle - minimum_span * (len(_BARS) // 2) / top
        high = low + minimum_span
    return "".join(
        " " if point is None else _BARS[min(top, max(0, round((point - low) / (high - low) * top)))] for point in points
    )


def _squeeze(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    squeezed: list[float | None] = []
    for column in range(width):
        stretch = values[column * len(values) // width : (column + 1) * len(values) // width]
        known = [value for value in stretch if value is not None]
        squeezed.append(sum(known) / len(known) if known else None)
    return squeezed


def duration_text(seconds: float) -> str:
    """A duration to two units at most: ``0.42 s``, ``14 s``, ``12 min 5 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    for (size, name), (next_size, next_name) in pairwise(units):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"


def time_text(moment: datetime) -> str:
    """A moment to the minute: ``2026-11-21 09:31 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def ago_text(moment: datetime, now: datetime) -> str:
    """How long ago, to one unit: ``just now``, ``5 min ago``, ``3 h ago``, ``2 d ago``."""
    age = now - moment
    if age < timedelta(minutes=1):
        return "just now"
    if age < timedelta(hours=1):
        return f"{age // timedelta(minutes=1)} min ago"
    if age < timedelta(days=1):
        return f"{age // timedelta(hours=1)} h ago"
    return f"{age.days} d ago"
