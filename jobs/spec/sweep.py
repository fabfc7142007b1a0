"""`kind: sweep`: tries many settings of one training stage, and keeps the best.

    sweep:
      kind: sweep
      trial: {kind: sft, model: smollm2-135m-instruct, dataset: {train: [./a.jsonl]}}
      search_space:
        training.learning_rate: {loguniform: [1e-5, 1e-3]}
        tuner.rank: {choice: [8, 16, 32]}
      metric: eval_loss
      mode: min
      num_samples: 9
      scheduler: asha

Each trial is the stage under `trial` with other values at the paths of `search_space`. Names and
meanings are Ray Tune's. The stage leaves what its best trial leaves.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from jobs.spec.fields import Artifact, Input, Spec, StageSpec
from jobs.spec.grpo import GrpoSpec
from jobs.spec.sft import SftSpec

Candidates = Annotated[tuple[Any, ...], Field(min_length=1)]
DomainName = Literal["choice", "grid", "zip", "uniform", "loguniform", "randint"]

TrialSpec = SftSpec | GrpoSpec
"""A stage that can be tried."""


class DomainSpec(Spec):
    """The values that a field may take. One of these keys."""

    choice: Candidates | None = None
    """One of these values, each as likely as the others."""
    grid: Candidates | None = None
    """Every one of these values, with every combination of the other grids."""
    zip: Candidates | None = None
    """Every one of these values, together with the values of the same place of all other fields
    that have `zip`."""
    uniform: tuple[float, float] | None = None
    """A number from the first to the second."""
    loguniform: tuple[float, float] | None = None
    """A number from the first to the second, whose logarithm is uniform."""
    randint: tuple[int, int] | None = None
    """A whole number from the first up to, and without, the second."""

    @property
    def name(self) -> DomainName:
        """The key that is given."""
        return next(name for name in _DOMAINS if getattr(self, name) is not None)

    @property
    def values(self) -> tuple[Any, ...]:
        """What that key holds: values to take, or two bounds."""
        values: tuple[Any, ...] = getattr(self, self.name)
        return values

    @property
    def is_listed(self) -> bool:
        """Whether every value is tried, and none is drawn."""
        return self.name in ("grid", "zip")

    @model_validator(mode="after")
    def _is_one_thing(self) -> DomainSpec:
        given = [name for name in _DOMAINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a field's values are one of {', '.join(_DOMAINS)}, and "
                + (f"given are {', '.join(given)}; keep one" if given else "none is given; add one")
            )
        if self.name in ("uniform", "loguniform", "randint"):
            low, high = self.values
            if low >= high:
                turned = f"write [{high}, {low}]" if low > high else "use choice for one value"
                raise ValueError(
                    f"{self.name} goes from low to high, and {low} is not below {high}; {turned}"
                )
            if self.name == "loguniform" and low <= 0:
                raise ValueError(
                    f"loguniform draws a logarithm, and {low:g} has none; begin above 0, such as "
                    "1e-6, or use uniform"
                )
        return self


_DOMAINS: tuple[DomainName, ...] = get_args(DomainName)


class NoSchedulerSpec(Spec):
    """Every trial runs to its end, in the order in which it was drawn."""

    type: Literal["none"] = "none"
    """No trial is stopped early."""


class AshaSpec(Spec):
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934): at each rung, trials that
    are not among the best so far are stopped."""

    type: Literal["asha"] = "asha"
    """Asynchronous successive halving."""
    grace_period: PositiveInt = 1
    """Optimiser steps that every trial may take; the first rung."""
    reduction_factor: Annotated[float, Field(gt=1)] = 4
    """One of so many trials goes on from a rung, and the next rung is so many times as far."""


class HyperBandSpec(Spec):
    """Asynchronous HyperBand: successive halving in several brackets, of which later ones let
    trials run longer before the first of them is stopped."""

    type: Literal["hyperband"] = "hyperband"
    """Asynchronous HyperBand."""
    grace_period: PositiveInt = 1
    """Optimiser steps that every trial may take; the first rung of the first bracket."""
    reduction_factor: Annotated[float, Field(gt=1)] = 4
    """One of so many trials goes on from a rung, and the next rung is so many times as far."""
    brackets: PositiveInt = 3
    """Brackets that trials are spread over."""


class MedianSpec(Spec):
    """Stops a trial whose best result is worse than the median of the others' averages so far."""

    type: Literal["median"] = "median"
    """The median stopping rule."""
    grace_period: PositiveInt = 1
    """Optimiser steps that every trial may take."""
    min_samples_required: PositiveInt = 3
    """Trials whose results there must be for a median."""


class PbtSpec(Spec):
    """Population based training (https://arxiv.org/abs/1711.09846): from time to time, the worst
    trials go on from a checkpoint of the best ones, with values near theirs."""

    type: Literal["pbt"] = "pbt"
    """Population based training."""
    perturbation_interval: PositiveInt
    """Optimiser steps from one comparison of the trials to the next."""
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """Share of the trials that are replaced, and share that they are replaced by."""
    resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    """How likely a value is drawn anew, and not taken near the better trial's."""
    perturbation_factors: tuple[PositiveFloat, PositiveFloat] = (1.2, 0.8)
    """What a number is multiplied by, one or the other, to be near it."""


def _long_form(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


SchedulerName = Literal["asha", "hyperband", "median", "pbt", "none"]
SchedulerSpec = AshaSpec | HyperBandSpec | MedianSpec | PbtSpec | NoSchedulerSpec
Scheduler = Annotated[
    SchedulerSpec,
    Field(discriminator="type"),
    BeforeValidator(
        _long_form,
        json_schema_input_type=SchedulerName
        | Annotated[SchedulerSpec, Field(discriminator="type")],
    ),
]
"""A scheduler, or its name alone."""


class BudgetSpec(Spec):
    """What a sweep may use. At the first of these limits no trial is started any more."""

    time_s: PositiveFloat | None = None
    """Seconds from the sweep's start; trials that run then are stopped."""
    trials: PositiveInt | None = None
    """Trials in all."""
    gpu_hours: PositiveFloat | None = None
    """Hours of trials, each times its GPUs; trials that run then are stopped."""


class PlateauSpec(Spec):
    """Ends a sweep that finds nothing better any more."""

    trials: PositiveInt
    """Trials that end in a row without a better one."""
    min_delta: NonNegativeFloat = 0.0
    """By how much a trial's metric must be better to count."""


class SweepSpec(StageSpec):
    """Tries settings of a training stage by Ray Tune, and leaves what the best trial leaves."""

    kind: Literal["sweep"]
    """A search for the best settings of a training stage."""
    trial: Annotated[TrialSpec, Field(discriminator="kind")]
    """The stage to try, as it would stand alone."""
    search_space: Annotated[dict[str, DomainSpec], Field(min_length=1)]
    """What varies: the values of fields by their path in the trial, such as `tuner.rank`."""
    metric: Annotated[str, Field(min_length=1)]
    """What trials are compared by: a name in their `logging.jsonl`, such as `eval_loss`."""
    mode: Literal["min", "max"]
    """Whether the least or the greatest metric is best."""
    num_samples: PositiveInt = 1
    """How many trials are drawn. With `grid` or `zip`: how often each combination is tried."""
    search: Literal["random", "optuna", "bayesopt"] = "random"
    """How values are chosen: each on its own; by Optuna's tree of Parzen estimators; or by its
    Gaussian process. The latter two learn from trials that have ended."""
    scheduler: Scheduler = NoSchedulerSpec()
    """What becomes of trials that do badly: a scheduler, or its name alone."""
    max_concurrent_trials: PositiveInt | None = None
    """Trials at a time. When absent: as many as the cluster has room for."""
    budget: BudgetSpec = BudgetSpec()
    """What the sweep may use."""
    plateau: PlateauSpec | None = None
    """When to give up looking for something better; never when absent."""
    max_failed_trials: NonNegativeInt = 3
    """Trials that may fail; with one more the stage fails."""

    @property
    def model(self) -> str:
        """The model that trials start from, where it is not searched for."""
        return self.trial.model

    @property
    def produces(self) -> Artifact:
        """What the best trial leaves."""
        return self.trial.produces

    @property
    def takes(self) -> dict[str, Input]:
        """What the trial takes."""
        return {f"trial.{field}": taken for field, taken in self.trial.takes.items()}

    @property
    def processes_at_once(self) -> int:
        """The processes of the trials that run at a time."""
        return (self.max_concurrent_trials or 1) * self.trial.processes_at_once

    @property
    def cpus_per_process(self) -> int | None:
        """CPU cores of each of them, where the spec says it."""
        return self.trial.cpus_per_process

    @property
    def listed(self) -> dict[str, DomainSpec]:
        """The fields of which every value is tried."""
        return {path: domain for path, domain in self.search_space.items() if domain.is_listed}

    @model_validator(mode="after")
    def _lists_fit(self) -> SweepSpec:
        zipped = {p: len(d.values) for p, d in self.search_space.items() if d.name == "zip"}
        if len(set(zipped.values())) > 1:
            sizes = ", ".join(f"{path} has {size}" for path, size in zipped.items())
            raise ValueError(
                f"fields of search_space with zip take their values together, and {sizes}; give "
                "all of them as many"
            )
        if len(zipped) == 1:
            raise ValueError(
                f"zip pairs fields of search_space, and {next(iter(zipped))} is the only one with "
                "it; write grid"
            )
        for path, domain in self.listed.items():
            if self.search != "random":
                raise ValueError(
                    f"search {self.search} chooses the values itself, and those of {path} are all "
                    f"to be tried ({domain.name}); write choice, or set search to random"
                )
            if isinstance(self.scheduler, PbtSpec):
                raise ValueError(
                    f"scheduler pbt changes values as it goes, and those of {path} are all to be "
                    f"tried ({domain.name}); write choice, or take another scheduler"
                )
        return self

    @model_validator(mode="after")
    def _trial_is_part_of_this_stage(self) -> SweepSpec:
        if self.trial.after:
            raise ValueError("trial.after has no use in a trial; write `after` beside `trial`")
        if self.trial.checkpoint.load_best_model_at_end:
            raise ValueError(
                "trial.checkpoint.load_best_model_at_end has no use in a trial: trials are "
                "compared by the values of their last steps; remove it"
            )
        if self.trial.stall_timeout != StageSpec.model_fields["stall_timeout"].default:
            raise ValueError(
                "trial.stall_timeout has no use in a trial; write `stall_timeout` beside `trial`"
            )
        if self.budget.gpu_hours and not self.trial.resources.gpus_per_worker:
            raise ValueError(
                "budget.gpu_hours counts GPUs, and the trial's workers have none; set "
                "budget.time_s, or trial.resources.gpus_per_worker"
            )
        return self

    @model_validator(mode="after")
    def _population_can_be_compared(self) -> SweepSpec:
        scheduler = self.scheduler
        if not isinstance(scheduler, PbtSpec):
            return self
        if self.search != "random":
            raise ValueError(
                f"search {self.search} chooses values for trials that start, and pbt those of "
                "trials that run; set search to random, or take another scheduler"
            )
        if self.num_samples < 2:
            raise ValueError(
                "num_samples is the size of pbt's population, and nothing can be compared with "
                "itself; set it to 4 or more"
            )
        interval, saved = scheduler.perturbation_interval, self.trial.checkpoint.save_steps
        if interval % saved:
            raise ValueError(
                f"trial.checkpoint.save_steps is {saved}, and pbt compares checkpoints every "
                f"{interval} steps, which is no multiple of it; set it to {interval}"
            )
        evaluated = self.trial.training.eval_steps or saved
        if self.metric.startswith("eval_") and interval % evaluated:
            raise ValueError(
                f"trial.training.eval_steps is {evaluated}, and pbt compares {self.metric} every "
                f"{interval} steps, which is no multiple of it; set it to {interval}"
            )
        return self
