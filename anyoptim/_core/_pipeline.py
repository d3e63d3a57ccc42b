"""Stages in a row: the programs that engines run, and their coefficients at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from anyoptim._arrays._checks import Parameter
from anyoptim._core._coefficients import FLOAT32, Live, Turn, Turning
from anyoptim._core._measures import distinct
from anyoptim._core._param_groups import Division, Layout
from anyoptim._core._stage import Stage
from anyoptim._core._stage_program import Track
from anyoptim._core._state import Flat
from anyoptim._engines import Crew, start
from anyoptim._trace._program import Row

__all__ = ["Pipeline"]


class Pipeline:
    """The stages of an optimizer."""

    def __init__(self, stages: Sequence[Stage], layout: Layout) -> None:
        self.stages = stages
        lanes = dict.fromkeys([*layout.lanes, *layout.frozen])
        self.tracks: Mapping[Any, Track] = {
            lane: Track(stages, tuple(k for k, of in enumerate(layout.lanes) if of is None or of == lane))
            for lane in lanes
            if lane is not None or layout.partition is None
        }
        """By the selectors of a partition; where there is none, by None."""
        self.simple = not any(stage.numbers or stage.norms or stage.totals for stage in stages)
        """Whether `row` says all, where there are no groups and nothing is measured."""

    @property
    def track(self) -> Track:
        """The only one, or the first."""
        return next(iter(self.tracks.values()))

    def start(self, ps: Sequence[Parameter | None], division: Division) -> Flat:
        """No steps taken, slots as the stages start them."""
        slots = [
            None
            if p is None
            else tuple(
                slot
                for k in division.track(i).of
                for slot in start(self.stages[k].init_slots, self.stages[k].slot_shapes, p.library, p.array)
            )
            for i, p in enumerate(ps)
        ]
        none = [None if p is None else 0 for p in ps]
        pending = list(none) if self.stages[0].due is not None else ()
        return Flat(0, none, slots, tuple(dict(s.numbers) for s in self.stages), pending)

    def row(self, step: int, t: int) -> Row | None:
        """The coefficients of all parameters, where no stage measures anything or has overrides for some.

        None where a learning rate is larger than some dtypes can hold.
        """
        row: list[Mapping[str, Any]] = []
        for entry in self.track.order:
            if entry is None:
                row.append({})
                continue
            stage = self.stages[entry.stage]
            values = stage._values(step, {})
            rate = values.get("lr")
            if type(rate) is float and rate > FLOAT32.largest:
                return None
            row.append(stage._coefficients(t, values))
        return tuple(row)

    def turn(
        self,
        crew: Crew,
        gathered: Sequence[Any],
        flat: Flat,
        moving: Sequence[int],
        division: Division,
        live: Live | None = None,
        watching: bool = True,
        unsure: Mapping[int, Any] = MappingProxyType({}),
    ) -> Turn:
        """What this step needs to know: above all, the coefficients of each parameter that moves.

        `live` has other values of counts and hyperparameters: those that stand on a device. `watching` is whether
        stages may look at what is only for a report. `unsure` says of some parameters, by traced bools, whether they
        move at all.
        """
        turning = Turning(self.stages, crew, gathered, flat, moving, division, live, watching, unsure)
        for k in range(len(self.stages)):
            if not turning.passed(k):
                break
        return turning.result()

    def measured(self, track: Track) -> list[list[int]]:
        """What the measures of a track read that every step takes, each once: the numbers of the arrays."""
        graphs = distinct(track, self.sample(track)).items()
        entries = [(track.order[k], graph) for k, graph in graphs]
        return [graph.read for entry, graph in entries if entry is None or entry.norm != "nonfinite"]

    def sample(self, track: Track, t: int = 1, norm: Any = 1.0) -> Row:
        """The coefficients of step `t` if all that is measured were `norm`: for their names and static options."""
        row: list[dict[str, Any]] = []
        for entry in track.order:
            stage = None if entry is None or entry.norm else self.stages[entry.stage]
            if stage is None:
                row.append({})
                continue
            more: dict[str, Any] = {**stage.numbers, **dict.fromkeys(stage.totals, norm)}
            more |= {} if stage.measure is None else {"norm": norm}
            more |= {**dict.fromkeys(stage.norms, norm), "size": 1} if stage.norms else {}
            row.append(stage._coefficients(t, {**stage._values(t, {}), **more}))
        return tuple(row)
