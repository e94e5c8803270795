"""How long the search looks, and how long that takes."""

import math

from dynackd.search.settings import Effort

SHARE = 0.25  # of a bounded time
EXPORTS = 24  # sub-networks that every search exports beside its samples
TIMED_S = 1.5  # of an exported one, beside the export
EFFORTS = (Effort(), Effort(160, 192, 20), Effort(80, 128, 14), Effort(48, 96, 10), Effort(24, 64, 8))  # long to short


def search_s(effort: Effort, row_s: float, export_s: float, hidden_sizes: int = 1) -> float:
    """The seconds of a search. row_s: of a row through the full network; export_s: of an export; hidden_sizes: how many
    there are, each with samples of its own."""
    evaluated = effort.evaluations * effort.rows * row_s / 2  # of half its size in the mean
    return evaluated + (effort.samples * hidden_sizes + EXPORTS) * (export_s + TIMED_S)


def effort_for(seconds: float | None, row_s: float, export_s: float, hidden_sizes: int = 1) -> Effort:
    """The longest search that takes no more than `SHARE` of so many seconds, or the shortest."""
    most = math.inf if seconds is None else SHARE * seconds
    fitting = [own for own in EFFORTS if search_s(own, row_s, export_s, hidden_sizes) <= most]
    return [*fitting, EFFORTS[-1]][0]
