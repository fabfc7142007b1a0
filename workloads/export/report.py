"""What an export came to, in figures: sizes, and what quantization cost."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

REPORT_FILE = "export.json"


class Fidelity(BaseModel):
    """How close the quantized model is to the one it was made of, on a fixed text."""

    model_config = ConfigDict(frozen=True)

    tokens: int
    """Tokens of the text."""
    perplexity: float
    """The quantized model's."""
    full_perplexity: float
    """That of the weights before."""
    top1_agreement: float
    """Share of places where both hold the same token for the likeliest."""
    mean_logit_difference: float
    max_logit_difference: float

    @property
    def perplexity_increase(self) -> float:
        """The rise of perplexity, as a share."""
        return self.perplexity / self.full_perplexity - 1


class Report(BaseModel):
    """What was written."""

    model_config = ConfigDict(frozen=True)

    architecture: str
    parameters: int
    torch_dtype: str
    full_bytes: int
    """The weights before quantization."""
    weights_bytes: int
    """The weights in safetensors that are delivered."""
    quantize_method: str | None = None
    fidelity: Fidelity | None = None
    gguf_file: str | None = None
    gguf_type: str | None = None
    gguf_bytes: int | None = None
    modelfile: bool = False

    @property
    def ratio(self) -> float:
        """The size of the delivered weights, as a share of the full ones."""
        return self.weights_bytes / self.full_bytes


def report_lines(report: Report) -> Iterator[str]:
    """The figures in words, a line to each form of the model."""
    head = f"{report.parameters / 1e6:,.1f} million parameters"
    if report.quantize_method is None or report.fidelity is None:
        yield f"{head}, {report.torch_dtype}, {megabytes(report.weights_bytes)}"
    else:
        found = report.fidelity
        yield (
            f"{head}, {report.quantize_method}: {megabytes(report.weights_bytes)}, "
            f"{report.ratio:.0%} of {report.torch_dtype}'s {megabytes(report.full_bytes)}"
        )
        yield (
            f"perplexity {found.perplexity:.3f} against {found.full_perplexity:.3f} before "
            f"({found.perplexity_increase:+.1%}); the likeliest token agrees at "
            f"{found.top1_agreement:.1%} of {found.tokens} places; logits differ by "
            f"{found.mean_logit_difference:.3f} on average"
        )
    if report.gguf_file and report.gguf_bytes:
        modelfile = "; Modelfile for Ollama" if report.modelfile else ""
        yield f"{report.gguf_file}: {report.gguf_type}, {megabytes(report.gguf_bytes)}{modelfile}"


def megabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 1e9:.2f} GB" if size >= 10**9 else f"{size / 1e6:.1f} MB"
