"""What users write, right and wrong: checked by type checkers, and never run.

A line that ends in `# mistake` is one that a checker must report, and no other is.
"""

from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import anyoptim as ao

Array = NDArray[np.float64]


class Signed(ao.Optimizer):
    """A method of one's own."""

    lr: ao.Nonnegative = 0.01
    share: ao.Fraction = 0.5
    slots = ("m",)


def right(params: dict[str, Array], grads: dict[str, Array | None], x: Array) -> None:
    """Correct code, with the types that its author expects."""
    optimizer = ao.Adam(lr=1e-3, beta1=0.9, engine="compiled")
    optimizer.lr = 1e-4
    optimizer.lr = ao.schedules.Cosine(1e-3, 100)
    optimizer.lr = lambda t: 0.1 / t
    optimizer.engine = None
    assert_type(optimizer.update(params, grads), dict[str, Array])
    assert_type(optimizer.init(params), ao.State)
    assert_type(optimizer.step(params, grads, optimizer.init(params)), tuple[dict[str, Array], ao.State])
    assert_type(ao.SGD().update(1.0, 1.0), float)
    chain = ao.chain(ao.ClipGlobalNorm(1.0), ao.AdamW(weight_decay=0.1), ao.EMA(0.99), ao.groups({...: {"lr": 0.1}}))
    assert_type(chain.update([x, x], [x, None]), list[Array])
    assert_type(chain.eval_params(params), dict[str, Array])
    assert_type(chain.flush(params), dict[str, Array])
    rate: ao.Hyper = 0.1
    engine: ao.EngineName = "blocked"
    mine = Signed(rate, share=0.25, engine=engine)
    mine.share = 0.75
    layer = ao.Dropout(dropout_ratio=0.5, seed=0)
    assert_type(layer.forward(x, training=True), Array)
    assert_type(layer.forward(x, False), Array)
    assert_type(layer.backward(x), Array)
    assert_type(ao.dropout(x, 0.5, key=1), Array)
    assert_type(ao.random.normal((3,), key=0, like=x), Array)
    ao.save("run.safetensors", params=params, optimizer=optimizer, dropout=layer)
    ao.load("run.safetensors", like=params)
    ao.compat.torch.AdamW(lr=1e-3, betas=(0.9, 0.999))
    print(optimizer.lr, mine.share, optimizer.state, optimizer.explain(params, grads))


def wrong(params: dict[str, Array], grads: dict[str, Array], x: Array) -> None:
    """The same with a mistake in each line that says so."""
    optimizer, layer, mine = ao.Adam(), ao.Dropout(), Signed()
    optimizer.learning_rate = 0.1  # mistake
    optimizer.lr = "0.1"  # mistake
    optimizer.engine = "gpu"  # mistake
    optimizer.updates(params, grads)  # mistake
    optimizer.update(params)  # mistake
    optimizer.step(params, grads)  # mistake
    print(optimizer.beta3)  # mistake
    ao.Adm(lr=0.1)  # mistake
    ao.Adam(lr="0.1")  # mistake
    ao.Adam(learning_rate=0.1)  # mistake
    ao.SGD(engine="numba")  # mistake
    ao.chain(ao.SGD(), engine="fast")  # mistake
    ao.chain("sgd")  # mistake
    ao.schedules.Cosin(1e-3, 100)  # mistake
    print(ao.compat.pytorch)  # mistake
    Signed(lr=0.1, shares=0.5)  # mistake
    mine.shares = 0.5  # mistake
    layer.forwards(x)  # mistake
    layer.ratio = 0.3  # mistake
    layer.forward(x, training="yes")  # mistake
    ao.Dropout(ratio=0.5)  # mistake
    ao.saves("run.safetensors")  # mistake
    found: list[Array] = optimizer.update(params, grads)  # mistake
    number: int = optimizer.lr  # mistake
    ao.save()  # mistake
    print(found, number)
