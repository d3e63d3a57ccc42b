"""Run benchopt on the folders here, and put a table and a picture of the results into README.md beside this file.

Wants benchopt, pandas, matplotlib and scikit-learn; `python -m benchmarks.benchopt` in an environment that has them.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

HERE = Path(__file__).resolve().parent
FOLDERS = ("ols", "nnls", "logreg_l2", "huber_l2", "lasso")
SHARES = (1e-2, 1e-4, 1e-6, 1e-8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.benchopt", description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="points of each curve, at most")
    parser.add_argument("--timeout", type=int, default=30, help="seconds for each solver")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        found = {name: curves(name, Path(kept), options.runs, options.timeout) for name in FOLDERS}
    draw(found)
    text = (HERE / "README.md").read_text(encoding="utf-8")
    begin, end = "<!-- table:begin -->\n", "<!-- table:end -->"
    before, after = text.partition(begin)[0], text.partition(end)[2]
    (HERE / "README.md").write_text(before + begin + table(found) + end + after, encoding="utf-8")


def curves(name: str, kept: Path, runs: int, timeout: int) -> pd.DataFrame:
    """What benchopt measured in one folder: for each solver seconds, and how far the value is above the least found."""
    output = kept / f"{name}.parquet"
    given = [
        "-n",
        str(runs),
        "--timeout",
        str(timeout),
        "--no-plot",
        "--no-display",
        "--output",
        str(output),
        "-f",
        "all",
    ]
    path = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchopt", "run", str(HERE / name), *given]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    shutil.rmtree(HERE / name / "__cache__", ignore_errors=True)
    frame = pd.read_parquet(output)
    frame["of"] = name + frame.get("p_obj_reg", pd.Series("", frame.index)).map(
        lambda r: f", {r} of the largest penalty" if r else ""
    )
    if "p_obj_fit_intercept" in frame and frame["p_obj_fit_intercept"].nunique() > 1:
        frame["of"] += frame["p_obj_fit_intercept"].map({True: ", with intercept", False: ""})
    for of in frame["of"].unique():
        rows = frame["of"] == of
        values = frame.loc[rows, "objective_value"]
        start = values[frame.loc[rows, "stop_val"] == 0].max()
        frame.loc[rows, "share"] = (values - values.min()) / (start - values.min())
    return frame


def table(found: dict[str, pd.DataFrame]) -> str:
    """Seconds until so little is left of the value at the start, above the least that any solver found."""
    lines = ["| seconds until what is left is | solver | " + " | ".join(f"{s:g}" for s in SHARES) + " |"]
    lines.append("| --- | --- | " + " | ".join("---:" for _ in SHARES) + " |")
    for frame in found.values():
        for (of, solver), rows in frame.groupby(["of", "solver_name"]):
            times = [rows.loc[rows["share"] <= share, "time"].min() for share in SHARES]
            lines.append(
                f"| {of} | {solver} | " + " | ".join("" if math.isnan(t) else f"{t:.3g}" for t in times) + " |"
            )
    return "\n".join(lines) + "\n"


def draw(found: dict[str, pd.DataFrame]) -> None:
    """The curves, one panel for each folder: of several objectives the last."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3), layout="constrained")
    for axis, (name, frame) in zip(axes, found.items(), strict=True):
        last = frame[frame["of"] == frame["of"].iloc[-1]]
        for solver, rows in last.groupby("solver_name"):
            axis.plot(rows["time"], rows["share"].clip(lower=1e-12), marker=".", label=solver)
        axis.set(title=name, yscale="log", xlabel="seconds")
        axis.set_xscale("symlog", linthresh=0.01)
        axis.legend(fontsize="x-small")
    axes[0].set_ylabel("left of the value at the start")
    figure.savefig(HERE / "curves.png", dpi=80)


if __name__ == "__main__":
    main()
