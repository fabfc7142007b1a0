"""The reason why an engine did not start is found among all that is printed of it."""

from workloads.serve.releases import last_error

NESTED = """\
ray::ServeReplica.initialize() (pid=1)
  File "a.py", line 1, in f
RuntimeError: Traceback (most recent call last):
  File "b.py", line 2, in g
    raise ValueError(
ValueError: Couldn't load the tokenizer
"""
ENGINE = """\
(EngineCore pid=7) ERROR 11-22 [core.py:1] torch.OutOfMemoryError: 4 GiB are too much
(EngineCore pid=7) Process EngineCore:
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_last_error_is_told_in_one_line() -> None:
    assert last_error(NESTED) == "ValueError: Couldn't load the tokenizer"
    assert last_error(ENGINE) == "torch.OutOfMemoryError: 4 GiB are too much"
    assert last_error("INFO all is well\nno error here") is None
