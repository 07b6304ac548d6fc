"""A causal text tower run once for each distinct prefix of a set of captions, with no padding.

Under a causal mask with end-of-text pooling a token's state depends on the tokens before it alone, and nothing behind
the pooled one reaches it. Captions that begin alike share those states: a caption and its hard negatives, the prompts
of a zero-shot classifier, any two that begin with "a man". So the rows are laid out as a tree of prefixes, whose nodes
go through the linear layers once; attention alone looks at whole captions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer
from torch import nn
from torch.nn.modules import module as of_all_modules

_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def encode_trimmed(clip: nn.Module, tokens: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """The base's unnormalised text embeddings of token ids [n, length], each row at the length it needs.

    The same numbers to rounding, several times faster than every row at the full context: [n, dim], with the model's
    dtype. None where that is not sure to be exact.
    """
    tower: Any = getattr(clip, "text", clip)
    if not len(tokens) or not _is_exact(clip, tower):
        return None
    tokens = tokens.cpu()
    if _pooling(tower) == "argmax":
        lengths = tokens.argmax(dim=-1) + 1
    else:
        lengths = tokens.eq(getattr(tower, "text_eos_id", getattr(tower, "eos_id", 0))).int().argmax(dim=-1) + 1
    if int(lengths.max()) > len(tower.positional_embedding):
        raise ValueError(
            f"The tokenizer made {int(lengths.max())} tokens of a caption, but the model takes "
            f"{len(tower.positional_embedding)}. Use open_clip.get_tokenizer(NAME) with the model's own name."
        )
    order = _sort_by_prefix(tokens, lengths)
    features = []
    for rows in _chunks(order, lengths, positions_at_once(device)):
        states = encode_prefixes(tower, tokens[rows, : int(lengths[rows].max())], lengths[rows], device)
        projection = tower.text_projection
        if projection is not None:
            states = projection(states) if isinstance(projection, nn.Linear) else states @ projection
        features.append(states)
    return torch.cat(features)[order.argsort().to(device)]


def positions_at_once(device: torch.device) -> int:
    """Rows times positions of one pass. Beyond this a processor gains nothing, and padding costs more."""
    return 2_048 if device.type == "cpu" else 65_536


def _pooling(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))


def _is_exact(clip: nn.Module, tower: Any) -> bool:
    """Whether `encode_trimmed` does exactly what a model does: OpenCLIP's own causal text tower, and nobody looking.

    What a subclass, a patch or a hook does sees whole rows.
    """
    if not isinstance(tower, CLIP | TextTransformer) or type(tower.transformer) is not Transformer:
        return False
    mask, transformer, blocks = tower.attn_mask, tower.transformer, tower.transformer.resblocks
    watched = [tower.token_embedding, tower.ln_final, *transformer.modules(), *([] if tower is clip else [tower])]
    return (
        _pooling(tower) in ("argmax", "eos")
        and getattr(tower, "cls_emb", None) is None
        and mask is not None
        and torch.equal(mask, torch.full_like(mask, float("-inf")).triu_(1))
        and len(blocks) > 0
        and not transformer.grad_checkpointing
        and _has_own(clip, CLIP if isinstance(clip, CLIP) else CustomTextCLIP, "encode_text", "_encode_text")
        and (tower is clip or _has_own(tower, TextTransformer, "forward", "_embeds"))
        and _has_own(transformer, Transformer, "forward")
        and all(_has_own(block, ResidualAttentionBlock, "forward", "attention") for block in blocks)
        and all(type(block) is ResidualAttentionBlock and _is_plain(block.attn) for block in blocks)
        and not any(getattr(of_all_modules, f"_global_{kind}_hooks") for kind in _HOOKS)
        and not any(_is_watched(module) or _is_random(module) for module in watched)
    )


def _has_own(module: nn.Module, kind: type, *names: str) -> bool:
    """Whether these methods of a module are the ones that its library wrote for a class, or neither has them."""
    for name in names:
        method = getattr(kind, name, None)
        patched = method is not None and (method.__module__ != kind.__module__ or hasattr(method, "__wrapped__"))
        if patched or name in vars(module) or getattr(type(module), name, None) is not method:
            return False
    return True


def _is_watched(module: nn.Module) -> bool:
    """Whether somebody hooked into a module, or gave this one object a forward of its own."""
    return any(getattr(module, f"_{kind}_hooks") for kind in _HOOKS) or "forward" in vars(module)


def _is_random(module: nn.Module) -> bool:
    """Whether a layer drops values at random: captions must not share which."""
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def _is_plain(attention: Any) -> bool:
    """Whether it is softmax attention over one projection of its input and nothing more."""
    if not _has_own(attention, type(attention), "forward"):
        return False
    if type(attention) is nn.MultiheadAttention:
        same = attention._qkv_same_embed_dim and attention.bias_k is None
        return same and not attention.add_zero_attn and attention.dropout == 0
    # OpenCLIP's main branch has its own.
    return (
        type(attention) is open_clip.transformer.Attention
        and getattr(attention, "in_proj_weight", None) is not None
        and all(type(getattr(attention, name, None)) is nn.Identity for name in ("ln_q", "ln_k", "ln_inner"))
        and attention.logit_scale is None
        and attention.head_scale is None
        and attention.attn_drop.p == attention.out_drop.p == 0
    )


def _project_out(attention: Any, x: torch.Tensor) -> torch.Tensor:
    if isinstance(attention, nn.MultiheadAttention):  # it uses the layer's weights without calling it
        return F.linear(x, attention.out_proj.weight, attention.out_proj.bias)
    return attention.out_proj(x)


def _sort_by_prefix(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The order in which captions of like length that begin alike stand together, [n]."""
    rows = np.column_stack([_rounded_up(lengths).numpy(), tokens.numpy()])
    rows = np.ascontiguousarray(rows, dtype=">u4")  # big-endian bytes compare as the numbers do
    return torch.from_numpy(rows.view(f"V{rows.shape[1] * 4}").ravel().argsort(kind="stable"))


def _rounded_up(lengths: torch.Tensor) -> torch.Tensor:
    """Lengths in steps of eight: within one, little of a chunk is padding."""
    return (lengths + 7) // 8 * 8


def _chunks(order: torch.Tensor, lengths: torch.Tensor, budget: int) -> list[torch.Tensor]:
    """Cut rows, shorter ones first, into runs of at most `budget` positions each, padding counted."""
    padded = _rounded_up(lengths[order]).tolist()
    chunks, start = [], 0
    for stop in range(1, len(padded) + 1):
        if stop == len(padded) or (stop - start + 1) * padded[stop] > budget:
            chunks.append(order[start:stop])
            start = stop
    return chunks


def encode_prefixes(tower: Any, tokens: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The pooled state of each caption after the tower's last layer norm, [n, width].

    `tokens` are rows in the order of `_sort_by_prefix`, [n, length], on the CPU; `lengths` how many tokens of each
    count, the pooled one last, int64 [n].
    """
    count, longest = tokens.shape
    inside = torch.arange(longest, device="cpu") < lengths[:, None]
    # From the first difference to the row before on, and beyond that row's end, where there is nothing to share.
    new = inside.clone()
    new[1:] &= (tokens[1:] != tokens[:-1]).cummax(dim=1).values | ~inside[:-1]
    # What is not new is what stands above it; what is beyond a caption's end is never looked at.
    nodes = (
        torch.where(new, new.flatten().cumsum(0).view_as(new) - 1, 0).cummax(dim=0).values.to(device)
    )  # [n, longest]
    places = new.flatten().nonzero().flatten()  # where each node occurs first, [number of nodes]
    ends = (torch.arange(count, device="cpu") * longest + lengths - 1).to(device)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens.flatten()[places].to(device)).to(dtype)
    x = x + tower.positional_embedding[(places % longest).to(device)].to(dtype)  # [number of nodes, width]
    places = places.to(device)
    last = len(tower.transformer.resblocks) - 1
    for index, block in enumerate(tower.transformer.resblocks):
        attended = _attend(block.attn, block.ln_1(x), nodes)
        if index == last:  # nothing reads the others any more
            attended, x = attended[ends], x[nodes.flatten()[ends]]
        else:
            attended = attended[places]
        x = x + block.ls_1(_project_out(block.attn, attended))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return tower.ln_final(x)


def _attend(attention: Any, x: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Causal attention of every caption over its own nodes, before the output's projection, [n * longest, width]."""
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)[nodes]  # [n, longest, 3 * width]
    count, longest, width = projected.shape
    heads = projected.view(count, longest, 3, attention.num_heads, -1).transpose(1, 3)  # [n, heads, 3, longest, size]
    query, key, value = heads.unbind(dim=2)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attended.transpose(1, 2).reshape(count * longest, width // 3)
