"""What a user may write, one concept to a file. Nothing here does anything but describe."""

from jobs.spec.job import SCHEMA_VERSION, JobSpec

__all__ = ["SCHEMA_VERSION", "JobSpec"]
