"""The constructors of optax, with its names, parameters, order and defaults, over the methods and stages here.

`ao.compat.optax.adamw(1e-3, mask=mask)` is an optimizer of anyoptim, which takes the steps that optax's does.
Schedules are called with the count of steps so far, from 0, as optax calls its own, and may be optax's own. An
option that can't be met is refused by name.

Otherwise than there: what is kept has the dtype of the arithmetic, at least float32, so that `mu_dtype` and its like
may be None, float32 or float64; a mask is a tree of bools (`mask(params)` where it is a function); learning rates and
decays are at least 0. Where optax takes a complex element as a whole, so do these (`joint=True`); `adadelta`, which
squares complex numbers there, and `rprop`, which refuses them, take it as two reals.
"""

from anyoptim.compat.optax import _adams, _lbfgs, _methods, _schedules, _transforms, contrib
from anyoptim.compat.optax._adams import *  # noqa: F403
from anyoptim.compat.optax._lbfgs import *  # noqa: F403
from anyoptim.compat.optax._linesearch import scale_by_zoom_linesearch
from anyoptim.compat.optax._methods import *  # noqa: F403
from anyoptim.compat.optax._schedules import *  # noqa: F403
from anyoptim.compat.optax._state import from_optax, to_optax
from anyoptim.compat.optax._transforms import *  # noqa: F403

__all__ = ["contrib", "from_optax", "scale_by_zoom_linesearch", "to_optax"]
__all__ += _adams.__all__ + _lbfgs.__all__ + _methods.__all__ + _schedules.__all__ + _transforms.__all__
