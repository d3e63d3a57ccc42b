"""The constructors of keras.optimizers, with its names, parameters, order and defaults, over the methods here.

`ao.compat.keras.AdamW(1e-3, weight_decay=0.01, global_clipnorm=1.0, use_ema=True)` is an optimizer of anyoptim, which
takes the steps that Keras's does. What Keras's base class does comes in its order: accumulation, the scale of the loss,
clipping, decay, the method, the average. Learning rates are numbers, schedules (Keras's own too), which are called with
the count of updates so far, from 0, or functions without arguments. An option that can't be met is refused by name.

Otherwise than there: `name` changes nothing; an infinite gradient under `global_clipnorm` makes the others 0, not NaN;
parameters that do not decay are a matter of `ao.groups`. `eval_params` gives the average of `use_ema`. A decay that
Keras multiplies with the learning rate at each step is multiplied when the optimizer is made (but for `AdamW` and
`Lion`): a rate that shall change later is a schedule; who sets the method's `lr` sets the decay, too.
"""

from anyoptim.compat.keras import _methods, schedules
from anyoptim.compat.keras._methods import *  # noqa: F403
from anyoptim.compat.keras._state import from_keras, to_keras

__all__ = ["from_keras", "schedules", "to_keras"]
__all__ += _methods.__all__
