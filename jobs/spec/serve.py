"""`kind: serve`: a model behind an OpenAI-compatible API, on Ray Serve.

    serve:
      kind: serve
      model: ${stages.merge.model}
      auth: {api_key: "${secret:SERVE_API_KEY}"}

A client names what answers it: `served_model_name` is the model, and each of `adapters` the same
model with that adapter. Requests pass a gate first, which knows a few routes and refuses the rest;
behind it are replicas, each with a vLLM engine. What the replicas can't take yet waits in a queue.

The stage ends well when it is asked to: it answers what is under way, and takes nothing new.
`raysmith update` puts another model in the place of this one while requests go on.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jobs.spec.engine import EngineSpec
from jobs.spec.fields import (
    Artifact,
    ByteSize,
    Input,
    ModelReference,
    SecretReference,
    Spec,
    StageSpec,
)

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$")]
"""What clients call a model."""
AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
"""As a model's name, but without what separates the parts of a path."""


class ReplicasSpec(Spec):
    """How many engines answer. Their number follows the load, between `min` and `max`."""

    min: PositiveInt = 1
    """Replicas when nothing is asked."""
    max: PositiveInt = 1
    """The most replicas."""
    target_ongoing_requests: PositiveFloat | None = None
    """Requests that each replica should have under way: with more, replicas are added. When absent:
    half of limits.max_ongoing_requests."""
    upscale_delay_s: PositiveFloat = 30.0
    """Seconds of load before replicas are added."""
    downscale_delay_s: PositiveFloat = 600.0
    """Seconds without load before replicas are taken away."""

    @model_validator(mode="after")
    def _max_is_most(self) -> ReplicasSpec:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, which is less than min, {self.min}")
        return self


class LimitsSpec(Spec):
    """What a client may ask for, and how long it may take."""

    max_ongoing_requests: PositiveInt | None = None
    """Requests that each replica has at once. When absent: twice engine.max_num_seqs, so that the
    next ones are there when others end."""
    max_queued_requests: PositiveInt = 1024
    """Requests that wait for a replica; further ones are told 429, to try again later."""
    request_timeout_s: PositiveFloat = 600.0
    """Seconds from a request's arrival to the end of its answer; then it is told 408."""
    max_body: ByteSize = "4MB"
    """The most bytes of a request; larger ones are told 413."""
    max_messages: PositiveInt = 1000
    """The most messages of a chat."""
    max_tokens: PositiveInt | None = None
    """The most tokens of one completion. When absent: what the model's context leaves room for."""
    max_choices: PositiveInt = 64
    """The most completions of one request: `n` times its prompts."""


class AuthSpec(Spec):
    """Who may ask. A client sends its key as `Authorization: Bearer KEY`."""

    api_key: SecretReference | None = None
    """One key: `${secret:SERVE_API_KEY}`, read from the environment of `raysmith run`."""
    api_keys_file: Annotated[str, Field(min_length=1)] | None = None
    """A file with the sha256 of one key a line, in hex, and behind it a label. It is read again
    when it changes, so that keys can be added and revoked while the service runs. A line:
    `printf %s "$KEY" | sha256sum`."""

    @model_validator(mode="after")
    def _has_a_key(self) -> AuthSpec:
        if not self.api_key and not self.api_keys_file:
            raise ValueError("give api_key or api_keys_file")
        return self


class ServeSpec(StageSpec):
    """Serves a model until it is asked to stop."""

    kind: Literal["serve"]
    """An OpenAI-compatible API."""
    model: ModelReference
    """The model. An adapter is served on its base model."""
    adapters: dict[AdapterName, ModelReference] = {}
    """Adapters of the same base model, by the name that clients choose them by."""
    served_model_name: ModelName | None = None
    """What clients call the model. When absent: the job's name."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """The address to listen on. Other machines can ask only where it is another than 127.0.0.1,
    which needs `auth`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """The port to listen on; 0 takes a free one."""
    replicas: ReplicasSpec = ReplicasSpec()
    """How many engines answer."""
    engine: EngineSpec = EngineSpec()
    """Each replica's engine."""
    cpus_per_replica: PositiveInt | None = None
    """CPU cores that each engine computes with. When absent: a local machine's cores shared among
    the replicas, or 4 on a cluster."""
    gpus_per_replica: NonNegativeInt | None = None
    """GPUs of each engine. When absent: tensor_parallel_size where that is more than 1, else 0."""
    tool_call_parser: Annotated[str, Field(min_length=1)] | None = None
    """vLLM's name of how this model writes calls of tools, such as `hermes` or `llama3_json`. When
    absent: told from the model's chat template."""
    limits: LimitsSpec = LimitsSpec()
    """What a client may ask for."""
    auth: AuthSpec | None = None
    """Who may ask; everyone on this machine when absent."""
    start_timeout_s: PositiveFloat = 600.0
    """Seconds that replicas may take to start."""
    drain_timeout_s: PositiveFloat = 120.0
    """Seconds that answers under way are given to end, when the service or a replica stops."""
    hub_token: SecretReference | None = None
    """Opens a gated model on the hub: `${secret:HF_TOKEN}`."""

    @model_validator(mode="after")
    def _parts_fit(self) -> ServeSpec:
        if not is_loopback(self.host) and not self.auth:
            raise ValueError(
                f"on {self.host} other machines can reach the service, so it needs a key; add "
                'auth: {api_key: "${secret:SERVE_API_KEY}"}, or leave host out'
            )
        if self.served_model_name in self.adapters:
            raise ValueError(
                f"{self.served_model_name!r} names the model and an adapter; rename one of them"
            )
        gpus = self.gpus_per_replica
        if gpus and gpus != self.engine.tensor_parallel_size:
            raise ValueError(
                f"gpus_per_replica is {gpus}, and engine.tensor_parallel_size "
                f"{self.engine.tensor_parallel_size}; make them equal"
            )
        return self

    @property
    def produces(self) -> Artifact:
        """An endpoint, for as long as the stage runs."""
        return "service"

    @property
    def takes(self) -> dict[str, Input]:
        """The model and the adapters."""
        return {"model": Input(self.model, ("model", "adapter", "export"))} | {
            f"adapters.{name}": Input(adapter, ("adapter",))
            for name, adapter in self.adapters.items()
        }

    @property
    def processes_at_once(self) -> int:
        """Replicas; an update starts new ones beside the old."""
        return 2 * self.replicas.max

    @property
    def cpus_per_process(self) -> int | None:
        """Cores of each replica."""
        return self.cpus_per_replica


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
