"""A reward model: a sequence classifier with one output, which reads prompt and completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from jobs.errors import UserError
from workloads.data.rows import Message
from workloads.models.resolve import ADAPTER_CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Classifier:
    """A reward model in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def load_classifier(folder: str, gpus: int) -> Classifier:
    """The reward model in a folder, on CPUs or on this process's GPUs.

    Raises:
        UserError: if it is no sequence classifier with one output, or has no chat template.
    """
    if Path(folder, ADAPTER_CONFIG).is_file():
        raise UserError(f"the reward model in {folder!r} is an adapter", "merge it, then name that")
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    labels = AutoConfig.from_pretrained(folder, trust_remote_code=False).num_labels
    if labels != 1:
        raise UserError(
            f"the model in {folder!r} has {labels} outputs, and a reward model has one",
            "give a sequence classifier that was trained with num_labels=1",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of the reward model in {folder!r} has no chat template",
            "add chat_template.jinja to the folder",
        )
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=torch.bfloat16 if gpus else torch.float32,
        device_map="auto" if gpus > 1 else ("cuda" if gpus else None),
        output_loading_info=True,
    )
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"the model in {folder!r} has no weights for {missing[0]}: it is no reward model",
            "give a sequence classifier, such as `kind: rm` makes",
        )
    # Batches end at different tokens: the classifier finds the last one by the padding.
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return Classifier(model.eval(), tokenizer)


def model_scores(
    completions: Sequence[str],
    prompts: Sequence[Sequence[Message]],
    *,
    classifier: Classifier,
    batch_size: Annotated[int, Field(ge=1)] = 8,
    max_length: Annotated[int, Field(ge=1)] | None = None,
) -> list[float]:
    """The classifier's output for each conversation of prompt and completion.

    Args:
        completions: the texts.
        prompts: what they answer.
        classifier: the reward model.
        batch_size: conversations that are computed at once.
        max_length: the most tokens of a conversation, whose beginning is cut off; as many as the
            model has positions when absent.
    """
    import torch

    tokenizer, model = classifier.tokenizer, classifier.model
    conversations = [
        tokenizer.apply_chat_template(
            [*prompt, {"role": "assistant", "content": completion}], tokenize=False
        )
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    longest = max_length or getattr(model.config, "max_position_embeddings", None)
    scores: list[float] = []
    for start in range(0, len(conversations), batch_size):
        batch = tokenizer(
            conversations[start : start + batch_size],
            add_special_tokens=False,
            padding=True,
            truncation=longest is not None,
            max_length=longest,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = model(**batch.to(model.device)).logits  # (B, 1)
        scores += logits[:, 0].float().tolist()
    return scores
