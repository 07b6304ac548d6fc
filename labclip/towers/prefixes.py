"""A causal text tower run once for each distinct prefix of a set of captions, with no padding.

Under a causal mask a token's state depends on the tokens before it alone. Captions that begin alike share those states:
a caption and its hard negatives, the prompts of a zero-shot classifier, any two that begin with "a man". So the rows
are laid out as a tree of prefixes, whose nodes go through the linear layers once; attention alone looks at whole
captions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import nn
from torch.nn.modules import module as of_all_modules

_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def runs_by_prefix(tower: Any) -> bool:
    """Whether `encode_prefixes` does exactly what a tower does: OpenCLIP's own modules, nobody looking or patching."""
    transformer = tower.transformer
    blocks = transformer.resblocks if type(transformer) is Transformer else []
    watched = [tower.token_embedding, tower.ln_final, *transformer.modules()]
    return (
        len(blocks) > 0
        and not transformer.grad_checkpointing
        and has_own(transformer, Transformer, "forward")
        and all(has_own(block, ResidualAttentionBlock, "forward", "attention") for block in blocks)
        and all(type(block) is ResidualAttentionBlock and _is_plain(block.attn) for block in blocks)
        and not any(getattr(of_all_modules, f"_global_{kind}_hooks") for kind in _HOOKS)
        and not any(is_watched(module) or _is_random(module) for module in watched)
    )


def has_own(module: nn.Module, kind: type, *names: str) -> bool:
    """Whether these methods of a module are the ones that its library wrote for a class, or neither has them."""
    for name in names:
        method = getattr(kind, name, None)
        patched = method is not None and (method.__module__ != kind.__module__ or hasattr(method, "__wrapped__"))
        if patched or name in vars(module) or getattr(type(module), name, None) is not method:
            return False
    return True


def is_watched(module: nn.Module) -> bool:
    """Whether somebody hooked into a module, or gave this one object a forward of its own."""
    return any(getattr(module, f"_{kind}_hooks") for kind in _HOOKS) or "forward" in vars(module)


def _is_random(module: nn.Module) -> bool:
    """Whether a layer drops values at random: captions must not share which."""
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def _is_plain(attention: Any) -> bool:
    """Whether it is softmax attention over one projection of its input and nothing more."""
    if not has_own(attention, type(attention), "forward"):
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


def sort_by_prefix(tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The order in which captions of like length that begin alike stand together, [n]."""
    rows = np.column_stack([like(lengths).numpy(), tokens.numpy()])
    rows = np.ascontiguousarray(rows, dtype=">u4")  # big-endian bytes compare as the numbers do
    return torch.from_numpy(rows.view(f"V{rows.shape[1] * 4}").ravel().argsort(kind="stable"))


def like(lengths: torch.Tensor) -> torch.Tensor:
    """Lengths rounded up to steps of eight: within one, little of a chunk is padding."""
    return (lengths + 7) // 8 * 8


def encode_prefixes(tower: Any, tokens: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The pooled state of each caption after the tower's last layer norm.

    Args:
        tower: A text tower with causal mask, of which `runs_by_prefix` holds.
        tokens: Rows in the order of `sort_by_prefix`, int64 or int32 [n, length], on the CPU.
        lengths: How many tokens of each row count, the pooled one last, int64 [n].
        device: Where the tower is. The states are [n, width].
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
