"""From rewards to a loss: the GRPO family, in the names of ms-swift and TRL."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jobs.spec.fields import Spec

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"]
AdvantageEstimator = Literal["grpo", "rloo", "reinforce_plus_plus"]
ScaleRewards = Literal["group", "batch", "none"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class AlgorithmSpec(Spec):
    """How advantages follow from rewards, and the loss from advantages."""

    loss_type: LossType = "grpo"
    """grpo: mean over a completion's tokens, then over completions. bnpo, dapo: mean over all
    tokens of the batch. dr_grpo: sum over tokens, by max_completion_length. cispo: REINFORCE with
    capped weights. sapo: a soft gate instead of a clip."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """One ratio for each token, or one for the completion (GSPO)."""
    epsilon: float = Field(default=0.2, ge=0, lt=1)
    """Ratios are clipped at 1 - epsilon."""
    epsilon_high: PositiveFloat | None = None
    """And at 1 + epsilon_high; epsilon when absent. For cispo the cap of the weight itself, and
    then needed, 5.0 for instance."""
    delta: Annotated[float, Field(gt=1)] | None = None
    """A cap of the ratio where the advantage is negative (two-sided clipping)."""
    beta: NonNegativeFloat = 0.04
    """Weight of the KL divergence from the reference model; at 0 there is none."""
    advantage_estimator: AdvantageEstimator = "grpo"
    """What a reward is compared with. grpo: the group's mean. rloo: the mean of the others in the
    group. reinforce_plus_plus: the group's mean, scaled by the spread of the batch."""
    scale_rewards: ScaleRewards | None = None
    """Divides advantages by the standard deviation of the group or the batch, or not at all. When
    absent: group for grpo, none for rloo, batch for reinforce_plus_plus."""
    num_iterations: PositiveInt = 1
    """How often each generated batch is trained on."""
    steps_per_generation: PositiveInt = 1
    """Optimiser steps that a generated batch is cut into."""
    top_entropy_quantile: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens, those of highest entropy, that are learned from."""
    mask_truncated_completions: bool = False
    """Leaves completions that hit max_completion_length out of the loss."""
    rollout_importance_sampling_mode: CorrectionMode | None = "token_truncate"
    """Corrects for what differs between the engine's probabilities and the trainer's, by token or
    completion; beyond the threshold a ratio is truncated, or its tokens masked."""
    rollout_importance_sampling_threshold: Annotated[float, Field(gt=1)] = 2.0
    """The largest ratio of trainer to engine that counts in full."""
    dynamic_sample: bool = False
    """Groups whose rewards are all equal teach nothing: draws others for them."""
    max_resample_times: PositiveInt = 3
    """Rounds of drawing others, after which such groups are taken."""
    sync_ref_model: bool = False
    """Lets the reference model follow the policy."""
    ref_model_sync_steps: PositiveInt = 512
    """Steps from one such update to the next."""
    ref_model_mixup_alpha: float = Field(default=0.6, gt=0, le=1)
    """Share of the policy in the new reference: alpha x policy + (1 - alpha) x reference."""
    sapo_temperature_pos: PositiveFloat = 1.0
    """sapo's temperature where the advantage is positive."""
    sapo_temperature_neg: PositiveFloat = 1.05
    """sapo's temperature where it is negative."""

    @model_validator(mode="after")
    def _parts_fit(self) -> AlgorithmSpec:
        if self.loss_type == "cispo" and self.epsilon_high is None:
            raise ValueError(
                "cispo needs epsilon_high, the cap of its weights; set it to 5.0 for instance"
            )
        if self.sync_ref_model and not self.beta:
            raise ValueError(
                "sync_ref_model without a reference model: beta is 0; raise beta or remove it"
            )
        return self

    @property
    def scaling(self) -> ScaleRewards:
        """What advantages are divided by."""
        by_estimator: dict[str, ScaleRewards] = {
            "grpo": "group",
            "rloo": "none",
            "reinforce_plus_plus": "batch",
        }
        return self.scale_rewards or by_estimator[self.advantage_estimator]

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on each generated batch."""
        return self.steps_per_generation * self.num_iterations
