"""Random numbers for any array library: Philox4x32-10, counted by element.

Word i of call c under a key is word i % 4 of Philox(counter = (i // 4, c), key), both halves of the
counter and the key of 64 bits, least significant word first: a number is made of one. Choice i, of which truth values
and Dropout's masks are made, is one of the four words of Philox(counter = (i // 8, c), key), or, for i % 8 >= 4, the
same with its halves exchanged. They depend on nothing else: not on the library, the device, the memory order, or how
the elements are divided. Elements are counted in logical C order, and go on beyond 2**64, if an offset is that large.
"""

from anyoptim.random._numbers import bernoulli, normal, uniform
from anyoptim.random._philox import bits, philox4x32
from anyoptim.random._spawn import spawn

__all__ = ["bernoulli", "bits", "normal", "philox4x32", "spawn", "uniform"]
