"""An evaluation, seen from the driver: every model answers, is measured, and passes or does not."""

from __future__ import annotations

import time
from typing import Any

from jobs.errors import UserError
from jobs.observed import write_phase
from jobs.spec.evaluation import EvaluateSpec, field_of
from storage.commit import begin, commit
from workloads.context import StageContext, StageResult
from workloads.evaluate.confusion import draw_confusion
from workloads.evaluate.gate import demand, judge
from workloads.evaluate.measure import measure
from workloads.evaluate.report import ModelReport, plain, values_of, write_report
from workloads.generate.answers import chunks
from workloads.generate.stage import Answers, AskedModel, Question, ask_model, find_model


def run(context: StageContext) -> StageResult:
    """Measures every model, commits the report, and holds the first one to the gate.

    Raises:
        GateNotMet: if a number is not what it must be; the report is committed all the same.
        SpecError: if there is no row to ask about.
        RaysmithError: if engines failed, or refused every row.
    """
    spec = context.stage.spec
    assert isinstance(spec, EvaluateSpec)
    timings: dict[str, float] = {}
    models = {
        name: find_model(context, field_of(name, spec), reference, spec.hub_token)
        for name, reference in spec.asked.items()
    }
    context.attempt.args_json.write_text(spec.model_dump_json(indent=2))
    answers: dict[str, Answers] = {}
    for name, model in models.items():
        clock = time.monotonic()
        if spec.dataset:
            answers[name] = _ask(context, spec, name, model)
        timings[f"answers_{name}"] = time.monotonic() - clock
    begin(context.artifact, context.owner)
    clock = time.monotonic()
    reports = [_report(context, spec, name, models[name], answers.get(name)) for name in models]
    timings["metrics"] = time.monotonic() - clock
    verdicts = judge(spec.gate, values_of(reports))
    write_report(context.artifact, reports, verdicts)
    commit(context.artifact, context.owner, context.meta(type="report"))
    context.event("evaluated", **{report.name: dict(report.values) for report in reports})
    context.note(f"measured:\n{plain(reports)}")
    context.event("gate", met=all(each.holds for each in verdicts), metrics=list(spec.gate))
    demand(verdicts, context.artifact)
    if verdicts:
        context.note(f"the gate is passed: {'; '.join(map(str, verdicts))}")
    return StageResult(finished=True, timings=timings)


def _ask(context: StageContext, spec: EvaluateSpec, name: str, model: AskedModel) -> Answers:
    assert spec.dataset
    question = Question(
        dataset=spec.dataset,
        generation=spec.generation if spec.generates else None,
        scores="loss" in spec.metrics,
    )
    answers = ask_model(context, name, model, question, spec.engine)
    label = f"{name}: " * bool(spec.models)
    context.note(f"{label}{answers.prepared.summary()}")
    refusals = [answer.refusal for _, answer in answers if answer.refusal]
    if len(refusals) == answers.prepared.rows:
        raise UserError(
            f"{label}the engine refused every row, such as for this: {refusals[0]}",
            "lower dataset.max_length or generation.max_new_tokens, or raise engine.max_model_len",
        )
    if refusals:
        context.note(
            f"{label}the engine refused {len(refusals):,} rows, which count as answered with "
            f"nothing: {refusals[0]}"
        )
    return answers


def _report(
    context: StageContext, spec: EvaluateSpec, name: str, model: AskedModel,
    answers: Answers | None,
) -> ModelReport:  # fmt: skip
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    part = f".{name}" if spec.models else ""
    if answers:
        write_phase(context.attempt.progress_json, f"measuring {name}")
        predictions = context.artifact / f"generated_predictions{part}.jsonl"
        found = measure(spec, iter(answers), predictions)
        values |= found.values
        details |= found.details
        values |= _speed(answers)
        details["rows"] = answers.prepared.rows
        if "classification" in details and "labels" in details["classification"]:
            for folder in (context.attempt.images, context.artifact / "images"):
                draw_confusion(details["classification"], folder / f"confusion_matrix{part}.png")
    if spec.lm_eval:
        from workloads.evaluate.lm_eval_tasks import measure_tasks

        write_phase(context.attempt.progress_json, f"lm-eval: {', '.join(spec.lm_eval.tasks)}")
        tasks = measure_tasks(context, spec, name, model)
        values |= tasks.values
        details |= tasks.details
    return ModelReport(name, spec.asked[name], values, details)


def _speed(answers: Answers) -> dict[str, float]:
    """How fast the rows were answered. The names are transformers'."""
    tally = answers.tally
    seconds = tally.seconds or float("nan")
    return {
        "model_preparation_time": tally.preparation_s,
        "runtime": tally.seconds,
        "samples_per_second": tally.of / seconds,
        "steps_per_second": len(chunks(tally.of)) / seconds,
    }
