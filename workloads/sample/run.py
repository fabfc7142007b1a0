"""A sample stage: answers, then scores, then the dataset. Each goes on where an attempt ended."""

from __future__ import annotations

import json
import time
from pathlib import Path

from jobs.errors import UserError
from jobs.observed import Progress, timestamp, utc_now, write_progress
from jobs.spec.sample import SampleSpec
from storage.commit import begin, commit
from storage.committed import read_committed
from workloads.context import StageContext, StageResult
from workloads.generate.stage import Answers, Question, ask_model, find_model
from workloads.models.resolve import resolve_model
from workloads.models.taken import reward_models
from workloads.sample.dataset import Outcome, rows_of, write_rows
from workloads.sample.score import read_scores, score

RESULTS_FILE = "_results.json"


def run(context: StageContext) -> StageResult:
    """Has the model answer all prompts, scores the answers, and commits those that are kept.

    Raises:
        UserError: if no answer is kept.
        RaysmithError: if engines can't be made, or died too often.
    """
    spec = context.stage.spec
    assert isinstance(spec, SampleSpec)
    clock = time.monotonic()
    model = find_model(context, "model", spec.model, spec.hub_token)
    question = Question(spec.dataset, spec.generation, n=spec.n)
    answers = ask_model(context, "model", model, question, spec.engine)
    context.note(answers.prepared.summary())
    timings = {"generate": time.monotonic() - clock}
    clock = time.monotonic()
    folder = context.layout.model("model").folder / "scores"
    _score(context, spec, answers, folder)
    timings["score"] = time.monotonic() - clock
    _write(context, spec, answers, folder)
    return StageResult(finished=True, timings=timings)


def _score(context: StageContext, spec: SampleSpec, answers: Answers, folder: Path) -> None:
    rows = answers.prepared.rows

    def tell(done: int) -> None:
        progress = Progress(
            phase="scoring", step=done, max_steps=rows, unit="rows", updated_at=timestamp(utc_now())
        )
        write_progress(context.attempt.progress_json, progress)

    models = reward_models(context, spec.rewards, spec.hub_token)
    score(answers, spec, folder, context.base_folders, models, tell)


def _write(context: StageContext, spec: SampleSpec, answers: Answers, folder: Path) -> None:
    begin(context.artifact, context.owner)
    outcome = Outcome()
    scores = read_scores(folder, answers.prepared.rows)
    answered = ((*row, scored) for row, scored in zip(answers, scores, strict=True))
    rows = rows_of(answered, spec, _name(context, spec), outcome)
    write_rows(rows, context.artifact, spec.file_format)
    for line in outcome.lines():
        context.note(line)
    if not outcome.rows:
        raise UserError(_nothing(spec, outcome), _remedy(spec, outcome))
    results = json.dumps(outcome.as_json(), indent=2) + "\n"
    (context.artifact / RESULTS_FILE).write_text(results, encoding="utf-8")
    context.event("sampled", **outcome.as_json())
    commit(context.artifact, context.owner, context.meta(type="dataset", rows=outcome.rows))


def _name(context: StageContext, spec: SampleSpec) -> str:
    """What rows say of the model: its name, or the run and stage that made it."""
    made = context.inputs.get("model")
    manifest = read_committed(made) if made else None
    if manifest:
        return f"{manifest.owner.run_id}/{manifest.owner.stage}"
    is_folder = resolve_model(spec.model, context.base_folders).kind == "folder"
    return Path(spec.model).name if is_folder else spec.model


def _nothing(spec: SampleSpec, outcome: Outcome) -> str:
    text = f"none of {outcome.answers:,} answers is kept"
    if outcome.best_reward is not None and spec.keep.min_reward is not None:
        text += f": the highest reward is {outcome.best_reward:g}, and keep.min_reward is "
        text += f"{spec.keep.min_reward:g}"
    elif outcome.truncated == outcome.answers:
        text += ": all were cut off at their greatest length"
    return text


def _remedy(spec: SampleSpec, outcome: Outcome) -> str:
    if outcome.truncated == outcome.answers and not spec.keep.truncated:
        return "raise generation.max_new_tokens, or set keep.truncated"
    return "lower keep.min_reward, ask for more answers (n), or take a better model"
