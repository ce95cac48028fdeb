"""Logits at chosen places of many sequences, from one forward pass: packed as prompt trees, or flat.

Both go through the model's public ``forward`` without labels, so that models patched by TRL, wrapped by PEFT or
sharded by FSDP work alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from introspection_probe.rollout.tree import Path, PromptTree, build_tree

_PAD = 0  # any valid id: padding is masked everywhere


@dataclass(frozen=True, slots=True)
class TreePass:
    """The outcome of one packed forward.

    Attributes:
        logits: shape (B, K, V): the last K columns of the left-padded trees.
        width: padded tree length N.
        cache: the model's key/value cache over all N columns, when it was asked for.
    """

    logits: Tensor
    width: int
    cache: Any

    def place(self, tree: PromptTree, column: int) -> int:
        """Where in dimension 1 of ``logits`` a tree's column stands."""
        return self.logits.shape[1] - len(tree) + column

    def padded(self, tree: PromptTree, column: int) -> int:
        """Where in the padded input (and in the cache) a tree's column stands."""
        return self.width - len(tree) + column


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter: where its inputs go."""
    return next(model.parameters()).device


def forward_trees(model: nn.Module, trees: Sequence[PromptTree], *, use_cache: bool = False) -> TreePass:
    """One forward over B trees, left-padded to the longest, keeping the logits of the most reads any of them has."""
    width, keep = max(map(len, trees)), max(tree.reads for tree in trees)
    ids = torch.full((len(trees), width), _PAD)
    positions = torch.zeros((len(trees), width), dtype=torch.long)
    # Padding attends to itself, since a row without any key is NaN in some kernels.
    visible = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        start = width - len(tree)
        ids[row, start:] = torch.from_numpy(tree.ids)
        positions[row, start:] = torch.from_numpy(tree.positions)
        visible[row, start:, start:] = torch.from_numpy(tree.ancestry())
    device = device_of(model)
    output = model(
        input_ids=ids.to(device),
        attention_mask=_mask(model, visible.to(device)[:, None]),
        position_ids=positions.to(device),
        logits_to_keep=keep,
        use_cache=use_cache,
    )
    return TreePass(output.logits, width, output.past_key_values if use_cache else None)


def forward_flat(model: nn.Module, paths: Sequence[Path]) -> list[Tensor]:
    """One plain left-padded forward over B sequences; for each, its wanted logits, shape (reads, V)."""
    keep = max(len(path.ids) - path.read_from for path in paths)
    inputs = left_padded([path.ids for path in paths], device_of(model))
    accepted = accepted_arguments(model)
    arguments: dict[str, Any] = {"input_ids": inputs.ids, "attention_mask": inputs.mask, "use_cache": False}
    if "position_ids" in accepted:
        arguments["position_ids"] = inputs.positions
    if "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = keep
    logits = model(**arguments).logits
    return [logits[row, path.read_from - len(path.ids) :] for row, path in enumerate(paths)]


def path_logits(model: nn.Module, groups: Sequence[Sequence[Path]], *, packed: bool) -> list[list[Tensor]]:
    """The wanted logits of each path of each group, shape (reads, V): each group one tree, or all paths flat."""
    if not packed:
        flat = iter(forward_flat(model, [path for group in groups for path in group]))
        return [[next(flat) for _ in group] for group in groups]
    trees = [build_tree(group) for group in groups]
    done = forward_trees(model, trees)
    found = []
    for row, (group, tree) in enumerate(zip(groups, trees, strict=True)):
        shift = done.place(tree, 0)
        found.append(
            [
                done.logits[row, torch.from_numpy(columns[path.read_from :] + shift).to(done.logits.device)]
                for path, columns in zip(group, tree.columns, strict=True)
            ]
        )
    return found


@dataclass(frozen=True, slots=True)
class LeftPadded:
    """Token ids, 2-D mask and position ids, each of shape (B, T)."""

    ids: Tensor
    mask: Tensor
    positions: Tensor


def left_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> LeftPadded:
    """Stack sequences of unequal length, aligned at their ends."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), _PAD)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(sequence)
        mask[row, width - len(sequence) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return LeftPadded(ids.to(device), mask.to(device), positions.to(device))


def accepted_arguments(model: nn.Module) -> frozenset[str]:
    """The names that the causal LM's own ``forward`` takes, whatever wraps it."""
    plain: Any = getattr(model, "_orig_mod", model)  # torch.compile
    base = plain.get_base_model() if hasattr(plain, "get_base_model") else plain  # PEFT
    return frozenset(inspect.signature(base.forward).parameters)


def _mask(model: nn.Module, visible: Tensor) -> Tensor:
    """SDPA takes booleans, whatever autocast does to the query; eager attention adds what it is given."""
    config: Any = model.config
    if config._attn_implementation == "sdpa":
        return visible
    dtype = torch.get_autocast_dtype(visible.device.type) if torch.is_autocast_enabled() else _dtype(model)
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
