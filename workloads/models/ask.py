"""Asks a model a question, with transformers alone: for demonstrations, not for serving."""

from __future__ import annotations


def ask(folder: str, question: str, max_new_tokens: int = 48) -> str:
    """The likeliest answer of the model in a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    output = model.generate(**prompt, max_new_tokens=max_new_tokens, do_sample=False)
    answer = output[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(answer, skip_special_tokens=True).strip()
