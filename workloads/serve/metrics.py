"""Figures for Prometheus: the gate's own, and those of every replica's vLLM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class GateMetrics:
    """What the gate counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "raysmith_requests", "Requests by route and status.", ("route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self.ongoing = Gauge(
            "raysmith_requests_ongoing", "Requests that are being answered.",
            registry=self._registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "raysmith_request_seconds", "From a request to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.first_seconds = Histogram(
            "raysmith_first_part_seconds", "From a request to the first part of its answer.",
            ("route",), buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def text(self, replicas: Iterable[str]) -> bytes:
        """All figures; those of each replica carry its number."""
        collected = CollectorRegistry()
        collected.register(_Replicas(replicas))
        return generate_latest(self._registry) + generate_latest(collected)


class _Replicas:
    """The families of several replicas, joined by name."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(texts)

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for number, text in enumerate(self._texts):
            for family in text_string_to_metric_families(text):
                joined = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "replica": str(number)}
                    joined.add_sample(sample.name, labels, sample.value)
        yield from families.values()
