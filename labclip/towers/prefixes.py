"""Run a causal text tower once for each distinct prefix of a set of captions, with no padding.

Under a causal mask, a token's state depends only on the tokens before it. With end-of-text pooling, the tokens after
the pooled one have no effect. So captions with the same beginning share its states: a caption and its hard negatives,
the prompts of a zero-shot classifier, any two that begin with "a man". The captions become a tree of prefixes, with a
node for each distinct prefix. The linear layers run once for each node; only attention runs on whole captions.
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
from torch.nn.modules import module as global_hooks

_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def encode_trimmed(clip: nn.Module, tokens: torch.Tensor, device: torch.device) -> torch.Tensor | None:
    """The base's unnormalised text embeddings of token ids [n, length], each row encoded at the length it needs.

    This is several times faster than the full context, and equal up to rounding. Returns [n, dim] with the model's
    dtype, or None if the model may compute something else.
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
    """The largest batch, in rows times positions. A larger one is not faster, and has more padding."""
    return 2_048 if device.type == "cpu" else 65_536


def _pooling(tower: Any) -> str | None:
    return getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))


def _is_exact(clip: nn.Module, tower: Any) -> bool:
    """Whether `encode_trimmed` computes what the model does: if it is OpenCLIP's own causal text tower, unmodified.

    A subclass, patch or hook may depend on rows of the full length.
    """
    if not isinstance(tower, CLIP | TextTransformer) or type(tower.transformer) is not Transformer:
        return False
    mask, transformer, blocks = tower.attn_mask, tower.transformer, tower.transformer.resblocks
    modules = [tower.token_embedding, tower.ln_final, *transformer.modules(), *([] if tower is clip else [tower])]
    return (
        _pooling(tower) in ("argmax", "eos")
        and getattr(tower, "cls_emb", None) is None
        and mask is not None
        and torch.equal(mask, torch.full_like(mask, float("-inf")).triu_(1))
        and len(blocks) > 0
        and not transformer.grad_checkpointing
        and _is_unpatched(clip, CLIP if isinstance(clip, CLIP) else CustomTextCLIP, "encode_text", "_encode_text")
        and (tower is clip or _is_unpatched(tower, TextTransformer, "forward", "_embeds"))
        and _is_unpatched(transformer, Transformer, "forward")
        and all(_is_unpatched(block, ResidualAttentionBlock, "forward", "attention") for block in blocks)
        and all(type(block) is ResidualAttentionBlock and _is_plain_attention(block.attn) for block in blocks)
        and not any(getattr(global_hooks, f"_global_{kind}_hooks") for kind in _HOOKS)
        and not any(_is_modified(module) for module in modules)
    )


def _is_unpatched(module: nn.Module, kind: type, *names: str) -> bool:
    """Whether a module runs the methods that the library defines for a class; methods that neither has are ignored."""
    for name in names:
        method = getattr(kind, name, None)
        patched = method is not None and (method.__module__ != kind.__module__ or hasattr(method, "__wrapped__"))
        if patched or name in vars(module) or getattr(type(module), name, None) is not method:
            return False
    return True


def _is_modified(module: nn.Module) -> bool:
    """Whether a module has hooks, a `forward` of its own, or drops values at random, which captions must not share."""
    has_hook = any(getattr(module, f"_{kind}_hooks") for kind in _HOOKS) or "forward" in vars(module)
    return has_hook or (isinstance(module, nn.Dropout) and module.training and module.p > 0)


def _is_plain_attention(attention: Any) -> bool:
    """Whether a layer is softmax attention over one projection of its input and nothing more."""
    if not _is_unpatched(attention, type(attention), "forward"):
        return False
    if type(attention) is nn.MultiheadAttention:
        one_projection = attention._qkv_same_embed_dim and attention.bias_k is None
        return one_projection and not attention.add_zero_attn and attention.dropout == 0
    # OpenCLIP's main branch has an attention class of its own.
    return (
        type(attention) is open_clip.transformer.Attention
        and getattr(attention, "in_proj_weight", None) is not None
        and all(type(getattr(attention, name, None)) is nn.Identity for name in ("ln_q", "ln_k", "ln_inner"))
        and attention.logit_scale is None
        and attention.head_scale is None
        and attention.attn_drop.p == attention.out_drop.p == 0
    )


def _project_out(attention: Any, x: torch.Tensor) -> torch.Tensor:
    if isinstance(attention, nn.MultiheadAttention):  # like its own forward, which does not call this layer
        return F.linear(x, attention.out_proj.weight, attention.out_proj.bias)
    return attention.out_proj(x)


def _sort_by_prefix(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The order that sorts captions by length, rounded up, and then by their tokens, int64 [n]."""
    rows = np.column_stack([_round_up(lengths).numpy(), tokens.numpy()])
    rows = np.ascontiguousarray(rows, dtype=">u4")  # big-endian bytes sort like the numbers
    return torch.from_numpy(rows.view(f"V{rows.shape[1] * 4}").ravel().argsort(kind="stable"))


def _round_up(lengths: torch.Tensor) -> torch.Tensor:
    """Lengths rounded up to a multiple of eight, so that a chunk has captions of similar length and little padding."""
    return (lengths + 7) // 8 * 8


def _chunks(order: torch.Tensor, lengths: torch.Tensor, budget: int) -> list[torch.Tensor]:
    """Split the sorted rows into chunks of at most `budget` positions each, padding included."""
    padded = _round_up(lengths[order]).tolist()
    chunks, start = [], 0
    for stop in range(1, len(padded) + 1):
        if stop == len(padded) or (stop - start + 1) * padded[stop] > budget:
            chunks.append(order[start:stop])
            start = stop
    return chunks


def encode_prefixes(tower: Any, tokens: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The pooled state of each caption after the tower's last layer norm, [n, width].

    `tokens` are token ids [n, length], on the CPU and in the order of `_sort_by_prefix`; `lengths` the number of tokens
    of each caption up to the pooled one, int64 [n].
    """
    count, longest = tokens.shape
    in_caption = torch.arange(longest, device="cpu") < lengths[:, None]
    # New nodes: positions from the first difference to the row above on, and those after the end of the row above.
    is_new = in_caption.clone()
    is_new[1:] &= (tokens[1:] != tokens[:-1]).cummax(dim=1).values | ~in_caption[:-1]
    # The node of each position [n, longest]: a position that is not new has the node of the row above. Positions after
    # a caption's end get any node; causal attention does not read them.
    nodes = torch.where(is_new, is_new.flatten().cumsum(0).view_as(is_new) - 1, 0).cummax(dim=0).values.to(device)
    positions = is_new.flatten().nonzero().flatten()  # the first position of each node, flattened, [number of nodes]
    ends = (torch.arange(count, device="cpu") * longest + lengths - 1).to(device)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(tokens.flatten()[positions].to(device)).to(dtype)
    x = x + tower.positional_embedding[(positions % longest).to(device)].to(dtype)  # [number of nodes, width]
    positions = positions.to(device)
    last = len(tower.transformer.resblocks) - 1
    for index, block in enumerate(tower.transformer.resblocks):
        attended = _attend(block.attn, block.ln_1(x), nodes)
        if index == last:  # after it only the pooled tokens matter
            attended, x = attended[ends], x[nodes.flatten()[ends]]
        else:
            attended = attended[positions]
        x = x + block.ls_1(_project_out(block.attn, attended))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return tower.ln_final(x)


def _attend(attention: Any, x: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Causal attention of each caption over its own nodes, before the output projection, [n * longest, width]."""
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)[nodes]  # [n, longest, 3 * width]
    count, longest, width = projected.shape
    heads = projected.view(count, longest, 3, attention.num_heads, -1).transpose(1, 3)  # [n, heads, 3, longest, size]
    query, key, value = heads.unbind(dim=2)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attended.transpose(1, 2).reshape(count * longest, width // 3)
