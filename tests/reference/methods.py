"""One row for each method, which a new method needs before the tests are content with it.

Beside its row here a method needs a transcription of its paper which has nothing of anyoptim's: in METHODS in papers.py
or, with values to take in the test of the same name, in papers_signs.py, papers_composed.py or textbook.py. A method
that measures, or keeps numbers, has values in HYPER in tests/support/chains.py, too. The row's lines in
docs/features.md and in docs/problems.md are written by `python -m tests.support.features` and by
`python -m benchmarks.problems`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.reference import papers, papers_composed, papers_signs, textbook
from tests.reference.problems import Run, run

__all__ = ["METHODS", "TRANSCRIBED", "Row", "wanted"]


class Row(NamedTuple):
    """The facts that the tests know of a method, and the losses that it documents."""

    what: str
    """The method in a few words, for the table of features."""
    reached: tuple[Run, Run, Run]
    """The losses on the problems of tests/reference/problems.py: `python -m benchmarks.problems --search NAME`."""
    torch: str = ""
    """The names that the peers have for it, as in tests/support/features.py."""
    optax: str = ""
    keras: str = ""
    letters: str = ""
    """The coefficients and slots of its equation, which its source has, too; none where it sees whole arrays."""
    slow: str = ""
    """Why it need not be better than SGD on any of the problems."""


METHODS: Mapping[str, Row] = {
    "SGD": Row(
        "gradient descent",
        torch="optim.SGD",
        optax="sgd",
        keras="optimizers.SGD",
        letters="lr",
        reached=(run(0.00163, lr=1.0), run(0.0707, lr=0.002), run(0.000223, lr=10.0)),
        slow="it is what the others are compared with",
    ),
    "Momentum": Row(
        "momentum, lr inside",
        keras="optimizers.SGD(momentum)",
        letters="lr momentum v",
        reached=(run(1.03e-08, lr=2.0), run(1.77e-08, lr=0.002), run(0.000168, lr=2.0)),
    ),
    "HeavyBall": Row(
        "momentum, lr outside",
        torch="optim.SGD(momentum, dampening)",
        optax="sgd(momentum)",
        letters="lr momentum new b",
        reached=(run(1.03e-08, lr=2.0), run(1.77e-08, lr=0.002), run(0.000168, lr=2.0)),
    ),
    "Nesterov": Row(
        "Nesterov, lr inside",
        keras="optimizers.SGD(nesterov)",
        letters="lr momentum v",
        reached=(run(3.15e-06, lr=1.0), run(3.44e-05, lr=0.001), run(1.65e-05, lr=5.0)),
    ),
    "HeavyBallNesterov": Row(
        "Nesterov, lr outside",
        torch="optim.SGD(nesterov)",
        optax="sgd(nesterov)",
        letters="lr momentum new b",
        reached=(run(3.15e-06, lr=1.0), run(3.44e-05, lr=0.001), run(1.65e-05, lr=5.0)),
    ),
    "TextbookNesterov": Row(
        "Nesterov, a textbook's",
        letters="lr momentum v",
        reached=(run(6.47e-05, lr=0.5), run(0.00328, lr=0.0005), run(3.96e-06, lr=5.0)),
    ),
    "AdaGrad": Row(
        "AdaGrad",
        torch="optim.Adagrad",
        optax="adagrad",
        keras="optimizers.Adagrad",
        letters="lr eps h",
        reached=(run(0.000465, lr=1.0), run(0.0346, lr=2.0), run(0.00129, lr=1.0)),
    ),
    "RMSProp": Row(
        "RMSProp",
        torch="optim.RMSprop",
        optax="rmsprop",
        keras="optimizers.RMSprop",
        letters="lr rho eps h",
        reached=(run(0.000918, cosine=0.1), run(0.0626, lr=0.005), run(0.000944, lr=0.1)),
    ),
    "CenteredRMSProp": Row(
        "RMSProp, centered",
        torch="optim.RMSprop(centered)",
        optax="rmsprop(centered)",
        keras="optimizers.RMSprop(centered)",
        letters="lr rho eps s m",
        reached=(run(0.000919, cosine=0.1), run(0.0294, cosine=0.02), run(0.000941, lr=0.1)),
    ),
    "AdaDelta": Row(
        "AdaDelta",
        torch="optim.Adadelta",
        optax="adadelta",
        keras="optimizers.Adadelta",
        letters="lr rho eps h s",
        reached=(run(0.00374, lr=5.0), run(0.028, cosine=5.0), run(0.00124, lr=20.0)),
    ),
    "Adam": Row(
        "Adam",
        torch="optim.Adam",
        optax="adam",
        keras="optimizers.Adam",
        letters="lr_t a1 a2 eps m v",
        reached=(run(1.96e-08, lr=1.0), run(2.26e-13, lr=0.5), run(0.000118, lr=2.0)),
    ),
    "AMSGrad": Row(
        "Adam, the largest v",
        torch="optim.Adam(amsgrad)",
        keras="optimizers.Adam(amsgrad)",
        letters="lr_t a1 a2 eps m v u",
        reached=(run(2.95e-08, lr=1.0), run(5.4e-10, lr=0.5), run(0.000122, lr=2.0)),
    ),
    "CorrectedAMSGrad": Row(
        "Adam, the largest corrected v",
        optax="amsgrad",
        letters="lr_t beta1 beta2 correction eps m v u",
        reached=(run(0.000171, lr=1.0), run(0.00368, lr=1.0), run(0.00091, lr=10.0)),
    ),
    "AdamW": Row(
        "Adam, decoupled decay",
        torch="optim.AdamW",
        optax="adamw",
        keras="optimizers.AdamW",
        letters="lr_t a1 a2 eps decay m v",
        reached=(run(7.26e-05, lr=0.5), run(0.00633, lr=0.1), run(0.000223, lr=5.0)),
    ),
    "Adamax": Row(
        "Adam, largest gradients",
        torch="optim.Adamax",
        optax="adamax, adamaxw",
        keras="optimizers.Adamax",
        letters="lr_t beta1 beta2 eps eps_max m u",
        reached=(run(0.000196, lr=1.0), run(0.00155, lr=1.0), run(0.000965, lr=10.0)),
    ),
    "NAdam": Row(
        "Adam, Nesterov",
        torch="optim.NAdam",
        optax="nadam, nadamw",
        keras="optimizers.Nadam",
        letters="lr_m lr_g beta1 beta2 eps m v",
        reached=(run(4.1e-05, cosine=50.0), run(0.0497, cosine=0.05), run(6.98e-05, lr=0.5)),
    ),
    "RAdam": Row(
        "Adam, rectified",
        torch="optim.RAdam",
        optax="radam",
        letters="lr_t beta1 beta2 trust eps m v",
        reached=(run(1.19e-06, lr=2.0), run(0.454, lr=0.005), run(0.000221, lr=2.0)),
    ),
    "AdaBelief": Row(
        "AdaBelief",
        optax="adabelief",
        letters="lr_t beta1 beta2 eps eps_root m s",
        reached=(run(1.48e-08, lr=0.5), run(3.55e-13, lr=0.5), run(0.000236, lr=2.0)),
    ),
    "Yogi": Row(
        "Yogi",
        letters="lr_t beta1 eps m v",
        reached=(run(2.05e-08, lr=0.5), run(4.18e-06, lr=0.2), run(0.000227, lr=0.5)),
    ),
    "CorrectedYogi": Row(
        "Yogi, corrected",
        optax="yogi",
        letters="lr_t beta1 eps m v",
        reached=(run(2.63e-08, lr=1.0), run(6.66e-10, lr=0.5), run(0.00015, lr=1.0)),
    ),
    "Adan": Row(
        "Adan",
        optax="adan",
        letters="lr_m lr_v beta1 beta2 beta3 ahead later eps decay shrink m v n h",
        reached=(run(1.12e-05, lr=2.0), run(1.45e-07, cosine=0.05), run(0.00825, lr=5.0)),
    ),
    "Lion": Row(
        "Lion",
        optax="lion",
        keras="optimizers.Lion",
        letters="lr beta1 beta2 m",
        reached=(run(0.000308, cosine=0.1), run(1.81e-05, cosine=0.02), run(0.00527, cosine=0.5)),
    ),
    "Signum": Row(
        "signs, with momentum",
        optax="signum, sign_sgd",
        letters="lr momentum m",
        reached=(run(8.09e-06, cosine=0.1), run(0.000147, cosine=0.01), run(0.000475, lr=0.02)),
    ),
    "Rprop": Row(
        "Rprop",
        torch="optim.Rprop",
        optax="rprop",
        letters="lr eta_minus eta_plus step_min step_max d s",
        reached=(run(1.34e-05, lr=0.5), run(0.00248, lr=0.0002), run(8.41e-07, lr=1.0)),
    ),
    "ASGD": Row(
        "averaged SGD",
        torch="optim.ASGD",
        letters="eta lambd mu average",
        reached=(run(0.000762, lr=2.0), run(0.0707, lr=0.002), run(0.000195, lr=10.0)),
    ),
    "LARS": Row(
        "LARS",
        optax="lars",
        reached=(
            run(1.23e-07, cosine=0.1, trust=0.1),
            run(0.0248, lr=0.05, trust=0.1),
            run(7.45e-06, cosine=0.1, trust=0.1),
        ),
    ),
    "LAMB": Row(
        "LAMB",
        optax="lamb",
        keras="optimizers.Lamb",
        reached=(run(4.94e-06, cosine=0.1), run(0.907, lr=0.02), run(0.000104, cosine=0.2)),
    ),
    "Adafactor": Row(
        "Adafactor",
        torch="optim.Adafactor",
        optax="adafactor",
        keras="optimizers.Adafactor",
        reached=(run(0.00149, lr=0.2), run(0.442, cosine=0.2), run(0.0091, lr=1.0)),
        slow="it has no momentum, and steps that are relative to the parameter, which here begins at 0",
    ),
    "Muon": Row(
        "Muon",
        torch="optim.Muon",
        optax="contrib.muon",
        keras="optimizers.Muon",
        reached=(run(8.88e-06, cosine=0.05), run(2.79e-08, cosine=0.02), run(0.000658, cosine=2.0)),
    ),
    "Shampoo": Row(
        "Shampoo",
        reached=(run(9.92e-06, lr=5.0), run(0.0703, lr=0.5), run(0.000115, lr=5.0)),
    ),
    "ScheduleFreeSGD": Row(
        "SGD, schedule-free",
        optax="contrib.schedule_free_sgd, contrib.schedule_free",
        reached=(run(2.03e-05, lr=10.0), run(0.00156, lr=0.005), run(0.00365, lr=50.0)),
    ),
    "ScheduleFreeAdamW": Row(
        "AdamW, schedule-free",
        optax="contrib.schedule_free_adamw",
        keras="optimizers.ScheduleFreeAdamW",
        reached=(run(9.38e-06, lr=5.0), run(6.2e-06, lr=2.0), run(3.09e-05, lr=1.0)),
    ),
    "Prodigy": Row(
        "Prodigy",
        optax="contrib.prodigy",
        reached=(run(1.29e-09, lr=2.0), run(5.89e-08, lr=0.2), run(4.06e-05, lr=2.0)),
    ),
    "SGLD": Row(
        "Langevin noise",
        optax="noisy_sgd, add_noise",
        reached=(
            run(0.00163, lr=1.0, temperature=0.0),
            run(0.0707, lr=0.002, temperature=0.0),
            run(0.000223, lr=10.0, temperature=0.0),
        ),
        slow="without noise, as here, it is SGD",
    ),
}
"""The rows, in the order of the table of features."""

TRANSCRIBED: Mapping[str, Any] = {
    **textbook.METHODS,
    **papers_signs.METHODS,
    **papers.METHODS,
    **papers_composed.METHODS,
}
"""The transcription of each method's paper, or else of a textbook: a class of the hyperparameters with an `update`."""


def wanted(name: str) -> Row:
    """The row of a method, or an error that says where it would be."""
    assert name in METHODS, f"{name} has no row; wanted one in METHODS in tests/reference/methods.py"
    return METHODS[name]
