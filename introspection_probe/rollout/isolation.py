"""Run a model inside somebody else's training loop and leave no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def isolated_rng(device: torch.device, seed: int) -> Iterator[None]:
    """Give Python's, numpy's and torch's generators a seed of their own, and put their states back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # torch.manual_seed seeds every accelerator, also those that the model's first parameter is not on.
    devices = range(0 if device.type == "cpu" else torch.accelerator.device_count())
    with torch.random.fork_rng(devices=devices, device_type="cuda" if device.type == "cpu" else device.type):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """``eval()`` without gradients and with a generator of its own; every module's own train flag comes back.

    ``no_grad`` and not ``inference_mode``: buffers that a model makes on the way (rotary tables that grow with the
    prompt) would be inference tensors, and the host's next backward through them would fail.
    """
    flags = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        model.eval()
        with torch.no_grad(), isolated_rng(device, seed=0):
            yield
    finally:
        for module, training in flags.items():
            module.training = training
