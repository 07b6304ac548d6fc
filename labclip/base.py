"""The record of the OpenCLIP model that a matrix belongs to. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINGERPRINT_CAPTION = "a photo of a cat next to a dog"
"""The base's embedding of this caption is saved as `fingerprint`. Every CLIP's tokenizer knows its words."""

FINGERPRINT_COSINE = 0.99
"""A model whose fingerprint has a lower cosine is a different base: half precision costs 1e-4, the wrong activation
several percent."""

FOLDED = "labclip_folded"
"""The attribute, and the key in the config, of a folded model that records the merged matrix."""

PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16")
"""OpenCLIP's names for precisions; the first is the default."""


@dataclass(frozen=True)
class Base:
    """The OpenCLIP model a matrix was fitted on; the matrix works only with its text embeddings.

    Attributes:
        model: OpenCLIP architecture name, for example "ViT-B-32-quickgelu".
        pretrained: OpenCLIP tag of its weights, for example "openai".
        quick_gelu: Whether the towers run QuickGELU.
        embed_dim: The embedding dimension.
    """

    model: str
    pretrained: str
    quick_gelu: bool
    embed_dim: int

    def matches(self, other: Base | None) -> bool:
        """Whether both records mean the same model. None, an unknown base, matches every model.

        OpenCLIP has some architectures under two names, with and without "-quickgelu", and reads the tag
        "laion2B-s34B" as "laion2b_s34b". So does this comparison.

        Example:
            >>> openai = Base("ViT-B-32-quickgelu", "openai", quick_gelu=True, embed_dim=512)
            >>> openai.matches(Base("ViT-B-32", "OpenAI", quick_gelu=True, embed_dim=512))
            True
        """

        def key(base: Base) -> tuple[Any, ...]:
            tag = base.pretrained.lower().replace("-", "_")
            return base.model.removesuffix("-quickgelu"), tag, base.quick_gelu, base.embed_dim

        return other is None or key(self) == key(other)

    def __str__(self) -> str:
        return f"{self.model} ({self.pretrained})" if self.pretrained else self.model


def describe_mark(mark: Mapping[str, Any]) -> str:
    """Name the matrix, strength and base that the mark of a fold, or the manifest of aligned embeddings, records."""
    base, name = mark.get("base"), mark.get("alignment") or f"SHA-256 {str(mark.get('matrix_sha256'))[:12]}..."
    fitted_on = f", fitted on {base.get('model')} ({base.get('pretrained')})" if isinstance(base, dict) else ""
    return f"{name} at strength {mark.get('strength')}{fitted_on}"
