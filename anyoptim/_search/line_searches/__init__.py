"""Line searches: how far to go along a direction, by values and slopes; numbers of the host, and no arrays."""

from anyoptim._search.line_searches._interpolation import Trial
from anyoptim._search.line_searches._line_search import LineSearch, Trials
from anyoptim._search.line_searches.armijo import Armijo
from anyoptim._search.line_searches.hager_zhang import HagerZhang
from anyoptim._search.line_searches.more_thuente import MoreThuente
from anyoptim._search.line_searches.strong_wolfe import StrongWolfe

__all__ = ["Armijo", "HagerZhang", "LineSearch", "MoreThuente", "StrongWolfe", "Trial", "Trials"]
