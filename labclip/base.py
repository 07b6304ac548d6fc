"""The record of the OpenCLIP model that a matrix belongs to. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINGERPRINT_CAPTION = "a photo of a cat next to a dog"
"""The caption whose base embedding is kept as `fingerprint`: ordinary words, which every CLIP's tokenizer has."""

FINGERPRINT_COSINE = 0.99
"""Below this the base is another one: half precision costs 1e-4, the wrong activation several percent."""

FOLDED = "labclip_folded"
"""The attribute of a folded model that says what was merged into it, and the key in its config."""


PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16")
"""OpenCLIP's names of precisions; the first is the default."""


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
        """Whether both records mean one model, by OpenCLIP's rules for names; None, unknown, contradicts nothing.

        It has some architectures under two names, with and without "-quickgelu", and reads "laion2B-s34B" as
        "laion2b_s34b".

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
    """A fold's mark, or the manifest of aligned embeddings, in words."""
    base, name = mark.get("base"), mark.get("alignment") or f"SHA-256 {str(mark.get('matrix_sha256'))[:12]}..."
    fitted_on = f", fitted on {base.get('model')} ({base.get('pretrained')})" if isinstance(base, dict) else ""
    return f"{name} at strength {mark.get('strength')}{fitted_on}"
