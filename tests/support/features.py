"""The table of features in docs/features.md, here and in torch, optax and Keras, which this module writes.

`python -m tests.support.features` puts it between its markers; tests/project/test_features.py looks up every name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import between_markers
from tests.reference.methods import METHODS

__all__ = ["CHECKED", "FEATURES", "NOT_HERE", "PAGE", "PEERS", "Absence", "Feature", "names", "text"]

PAGE = Path(__file__).parents[2] / "docs" / "features.md"

PEERS = ("torch", "optax", "keras")

CHECKED = {"torch": "2.13", "optax": "0.2.8", "keras": "3.15"}
"""The versions in which the names were looked up."""


class Feature(NamedTuple):
    """One row: names without that of the library, with the argument that has the feature in parentheses."""

    what: str
    anyoptim: str
    torch: str = ""
    optax: str = ""
    keras: str = ""


class Absence(NamedTuple):
    """Features that peers have and anyoptim has not, and why."""

    why: str
    torch: str = ""
    optax: str = ""
    keras: str = ""


FEATURES: Mapping[str, tuple[Feature, ...]] = {
    "Methods": tuple(Feature(row.what, name, row.torch, row.optax, row.keras) for name, row in METHODS.items()),
    "Around a method": (
        Feature("stages in a chain", "chain", "", "chain"),
        Feature("your own stage", "Stage", "", "GradientTransformation"),
        Feature("your own method", "Optimizer", "optim.Optimizer", "GradientTransformation", "optimizers.Optimizer"),
        Feature(
            "state as plain dicts",
            "Optimizer.state_dict",
            "optim.Optimizer.state_dict",
            "",
            "optimizers.Optimizer.save_own_variables",
        ),
        Feature("a checkpoint in one file", "save", "save", "", "saving.save_model"),
        Feature("cut off values", "ClipValue", "nn.utils.clip_grad_value_", "clip", "optimizers.Optimizer(clipvalue)"),
        Feature(
            "clip the norm of all",
            "ClipGlobalNorm",
            "nn.utils.clip_grad_norm_",
            "clip_by_global_norm",
            "optimizers.Optimizer(global_clipnorm)",
        ),
        Feature(
            "L2, decoupled decay",
            "WeightDecay",
            "optim.SGD(weight_decay), optim.AdamW",
            "add_decayed_weights",
            "regularizers.L2, optimizers.Optimizer(weight_decay)",
        ),
        Feature(
            "no decay for some",
            "WeightDecay(where)",
            "optim.Optimizer(params)",
            "add_decayed_weights(mask)",
            "optimizers.Optimizer.exclude_from_weight_decay",
        ),
        Feature("momentum by itself", "Trace", "", "trace"),
        Feature("a factor", "Scale", "", "scale"),
        Feature(
            "average of the parameters",
            "EMA",
            "optim.swa_utils.get_ema_multi_avg_fn",
            "incremental_update",
            "optimizers.Optimizer(use_ema)",
        ),
        Feature("clip the norm of each", "ClipNorm", "", "clip_by_block_rms", "optimizers.Optimizer(clipnorm)"),
        Feature("adaptive clipping", "AdaptiveClip", "", "adaptive_grad_clip"),
        Feature("centralised gradients", "Centralize", "", "centralize"),
        Feature(
            "several batches a step",
            "Accumulate",
            "Tensor.grad",
            "MultiSteps",
            "optimizers.Optimizer(gradient_accumulation_steps)",
        ),
        Feature(
            "skip what is not finite",
            "SkipNonFinite",
            "amp.GradScaler",
            "apply_if_finite",
            "optimizers.LossScaleOptimizer",
        ),
        Feature("loss scaling", "LossScale", "amp.GradScaler", "", "optimizers.LossScaleOptimizer"),
        Feature("plain average (SWA)", "SWA", "optim.swa_utils.AveragedModel"),
        Feature("Lookahead", "Lookahead", "", "lookahead"),
        Feature("cautious steps", "Cautious"),
        Feature("trust ratio", "TrustRatio", "", "scale_by_trust_ratio"),
        Feature("between bounds", "Box", "", "projections.projection_box"),
        Feature("within a support", "Support"),
        Feature("not negative", "NonNegative", "", "keep_params_nonnegative", "constraints.NonNeg"),
        Feature("rows of norm 1", "UnitNorm", "", "projections.projection_l2_sphere", "constraints.UnitNorm"),
        Feature("few elements: soft thresholding", "prox.L1"),
        Feature("a penalty of squares, implicitly", "prox.L2"),
        Feature("both of these", "prox.ElasticNet"),
        Feature("few groups", "prox.L21"),
        Feature("low rank", "prox.Nuclear"),
        Feature("shares of a whole", "prox.Simplex", "", "projections.projection_simplex"),
        Feature("any proximal operator, of pyproximal's, too", "prox.Operator"),
        Feature("uphill", "Maximize", "optim.SGD(maximize)", "scale"),
        Feature("hyperparameters by group", "groups", "optim.Optimizer.add_param_group", "partition"),
        Feature("hyperparameters by element", "Hyper"),
        Feature("methods by group", "partition", "", "partition, multi_transform", "optimizers.MultiOptimizer"),
        Feature("norms of a step, by path", "Metrics", "nn.utils.get_total_norm", "monitor"),
        Feature("no subnormal numbers", "FlushSubnormals", "set_flush_denormal"),
        Feature(
            "parameters that rest",
            "Optimizer.update(grads)",
            "Tensor.requires_grad",
            "freeze",
            "Variable.trainable",
        ),
    ),
    "Conventions": (
        Feature("torch's constructors", "compat.torch", "optim"),
        Feature("optax's constructors", "compat.optax", "", "adam"),
        Feature("Keras's constructors", "compat.keras", "", "", "optimizers"),
        Feature("from torch, in mid-training", "compat.torch.from_torch", "optim.Optimizer.load_state_dict"),
        Feature("to torch", "compat.torch.to_torch", "optim.Optimizer.state_dict"),
    ),
    "Dropout": (
        Feature("of elements", "Dropout", "nn.Dropout", "", "layers.Dropout"),
        Feature("of what shares a draw", "Dropout(noise_shape)", "", "", "layers.Dropout(noise_shape)"),
        Feature(
            "of channels", "SpatialDropout", "nn.Dropout1d, nn.Dropout2d, nn.Dropout3d", "", "layers.SpatialDropout2D"
        ),
        Feature("of samples", "DropPath"),
        Feature("of weights", "DropConnect"),
        Feature("one mask for all time steps", "VariationalDropout", "", "", "layers.GRUCell(recurrent_dropout)"),
        Feature("for SELU", "AlphaDropout", "nn.AlphaDropout", "", "layers.AlphaDropout"),
        Feature("for SELU, of channels", "FeatureAlphaDropout", "nn.FeatureAlphaDropout"),
        Feature("Gaussian", "GaussianDropout", "", "", "layers.GaussianDropout"),
        Feature("of a state's change", "Zoneout"),
        Feature("Monte Carlo samples", "Dropout.sample"),
    ),
    "Schedules": (
        Feature(
            "any function of the step",
            "Stage.hyperparameters",
            "optim.lr_scheduler.LambdaLR",
            "inject_hyperparams",
            "callbacks.LearningRateScheduler",
        ),
        Feature("constant", "schedules.Constant", "", "constant_schedule"),
        Feature("linear", "schedules.Linear", "optim.lr_scheduler.LinearLR", "linear_schedule"),
        Feature(
            "polynomial",
            "schedules.Polynomial",
            "optim.lr_scheduler.PolynomialLR",
            "polynomial_schedule",
            "optimizers.schedules.PolynomialDecay",
        ),
        Feature(
            "exponential",
            "schedules.Exponential",
            "optim.lr_scheduler.ExponentialLR",
            "exponential_decay",
            "optimizers.schedules.ExponentialDecay",
        ),
        Feature(
            "stairs",
            "schedules.StepDecay",
            "optim.lr_scheduler.StepLR",
            "exponential_decay(staircase)",
            "optimizers.schedules.ExponentialDecay(staircase)",
        ),
        Feature(
            "stairs anywhere",
            "schedules.MultiStep",
            "optim.lr_scheduler.MultiStepLR",
            "piecewise_constant_schedule",
            "optimizers.schedules.PiecewiseConstantDecay",
        ),
        Feature("through points", "schedules.piecewise", "", "piecewise_interpolate_schedule"),
        Feature(
            "cosine",
            "schedules.Cosine",
            "optim.lr_scheduler.CosineAnnealingLR",
            "cosine_decay_schedule",
            "optimizers.schedules.CosineDecay",
        ),
        Feature(
            "cosine with restarts",
            "schedules.CosineRestarts",
            "optim.lr_scheduler.CosineAnnealingWarmRestarts",
            "sgdr_schedule",
            "optimizers.schedules.CosineDecayRestarts",
        ),
        Feature("inverse square root", "schedules.InverseSqrt"),
        Feature("cyclic", "schedules.Cyclic", "optim.lr_scheduler.CyclicLR"),
        Feature(
            "one cycle",
            "schedules.OneCycle",
            "optim.lr_scheduler.OneCycleLR",
            "cosine_onecycle_schedule, linear_onecycle_schedule",
        ),
        Feature("warmup, stable, decay", "schedules.WarmupStableDecay"),
        Feature(
            "warmup before any",
            "schedules.warmup",
            "optim.lr_scheduler.LinearLR, optim.lr_scheduler.SequentialLR",
            "warmup_constant_schedule, join_schedules",
        ),
        Feature(
            "warmup, then cosine",
            "schedules.warmup_cosine",
            "",
            "warmup_cosine_decay_schedule",
            "optimizers.schedules.CosineDecay(warmup_steps)",
        ),
        Feature("one after the other", "schedules.join", "optim.lr_scheduler.SequentialLR", "join_schedules"),
        Feature(
            "on a plateau",
            "schedules.Plateau",
            "optim.lr_scheduler.ReduceLROnPlateau",
            "contrib.reduce_on_plateau",
            "callbacks.ReduceLROnPlateau",
        ),
        Feature("a picture of some", "schedules.plot"),
    ),
    "With the loss as well as the gradient": (
        Feature("L-BFGS", "LBFGS", "optim.LBFGS", "lbfgs"),
        Feature("torch's L-BFGS", "compat.torch.LBFGS", "optim.LBFGS"),
        Feature("optax's L-BFGS", "compat.optax.lbfgs", "", "lbfgs"),
        Feature("Polyak's step length", "compat.optax.polyak_sgd", "", "polyak_sgd"),
        Feature("L-BFGS within bounds", "LBFGS(bounds)"),
        Feature("nonlinear conjugate gradients", "NonlinearCG"),
        Feature("gradient descent with a step length that is found", "GradientDescent"),
        Feature("proximal gradients, FISTA", "ProximalGradient"),
        Feature("linear least squares", "CGLS"),
        Feature("Landweber's iteration", "Landweber"),
        Feature("SIRT", "SIRT"),
        Feature("any method until a condition holds", "minimize"),
        Feature("a Lipschitz constant", "lipschitz"),
        Feature("a method of SciPy's minimize", "compat.scipy.method"),
    ),
    "Finding out": (
        Feature("a gradient beside finite differences", "check_grad", "autograd.gradcheck"),
        Feature("an adjoint by the dot-product test", "check_adjoint"),
        Feature("a step before it is taken", "Optimizer.diagnose"),
        Feature(
            "the last learning rate",
            "Optimizer.last_hyperparameters",
            "optim.lr_scheduler.LRScheduler.get_last_lr",
            "tree_utils.tree_get",
        ),
        Feature("one test over many array libraries", "testing.need_library"),
    ),
}

NOT_HERE = (
    Absence("it is given the loss with the gradient, as only solvers are here", "", "contrib.momo, contrib.momo_adam"),
    Absence("the array API has no sparse arrays", "optim.SparseAdam"),
    Absence("it needs the gradients of single examples", "", "contrib.dpsgd"),
    Absence("it needs second derivatives", "", "contrib.sophia"),
    Absence("made for sparse linear models", "", "", "optimizers.Ftrl"),
    Absence("for games, whose gradients turn", "", "optimistic_gradient_descent, optimistic_adam, optimistic_adam_v2"),
    Absence(
        "not asked for so far",
        "",
        "fromage, novograd, sm3, contrib.acprop, contrib.ademamix, contrib.simplified_ademamix, contrib.adopt, "
        "contrib.cocob, contrib.dadapt_adamw, contrib.dog, contrib.dowg, contrib.galore, contrib.madgrad",
    ),
    Absence(
        "here only in `ao.compat`, under these names, because any function of the step is a schedule",
        "optim.lr_scheduler.MultiplicativeLR, optim.lr_scheduler.ConstantLR, optim.lr_scheduler.ChainedScheduler",
        "warmup_exponential_decay_schedule",
        "optimizers.schedules.InverseTimeDecay",
    ),
)


def names(cell: str) -> Iterator[str]:
    """The names in a cell: `optim.SGD(momentum, dampening)` is one."""
    depth, begin = 0, 0
    for i, c in enumerate(f"{cell},"):
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            if name := cell[begin:i].strip():
                yield name
            begin = i + 1


def text() -> str:
    """The table and what it leaves out, as Markdown."""
    lines = [["", "anyoptim", "torch", "optax", "Keras"], ["---"] * 5]
    for section, features in FEATURES.items():
        lines.append([f"**{section}**", "", "", "", ""])
        lines += [[what, *map(_code, cells)] for what, *cells in features]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    absent = "; ".join(
        ", ".join(f"`{peer}.{name}`" for peer, cell in zip(PEERS, cells, strict=True) for name in names(cell))
        + f" ({why})"
        for why, *cells in NOT_HERE
    )
    versions = ", ".join(f"{peer} {version}" for peer, version in CHECKED.items())
    return (
        f"{table}\n\n"
        "A name says that there is such a thing, not that it is the same to the last sign: the docstrings here tell "
        f"where definitions differ. Not here, of the optimizers and schedules that the others have: {absent}. "
        f"Made by `python -m tests.support.features` and looked up by the tests, in {versions}."
    )


def _code(cell: str) -> str:
    return ", ".join(f"`{name}`" for name in names(cell))


def main() -> None:
    """Rewrite the table on its page."""
    PAGE.write_text(between_markers(PAGE.read_text(encoding="utf-8"), text(), "features"), encoding="utf-8")


if __name__ == "__main__":
    main()
