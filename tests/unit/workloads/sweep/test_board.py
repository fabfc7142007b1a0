"""What TensorBoard's HPARAMS tab reads of a trial."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from workloads.sweep.board import write_hparams


def test_a_trial_s_values_and_its_metric_are_there(tmp_path: Path) -> None:
    values = {"training.learning_rate": 1e-4, "tuner.rank": 8, "dataset.train": ["./a.jsonl"]}
    write_hparams(tmp_path, values, "eval_loss", 1.25)
    events = EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("hparam/eval_loss")
    assert scalar.value == 1.25
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(start).session_start_info.hparams
    assert given["training.learning_rate"].number_value == 1e-4
    assert given["tuner.rank"].number_value == 8
    assert given["dataset.train"].string_value == '["./a.jsonl"]'
