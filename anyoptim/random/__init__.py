"""Random numbers for any array library: Philox4x32-10, counted by element.

Word i of call c under a key is word i % 4 of Philox(counter = (i // 4, c), key), both halves of the
counter and the key of 64 bits, least significant word first. It depends on nothing else: not on the
library, the device, the memory order, or how the elements are divided. Each number is made of one word; choices, as
`bernoulli`'s and Dropout's are, take half as many.
"""

from anyoptim.random._numbers import bernoulli, normal, uniform
from anyoptim.random._philox import bits, philox4x32
from anyoptim.random._spawn import spawn

__all__ = ["bernoulli", "bits", "normal", "philox4x32", "spawn", "uniform"]
