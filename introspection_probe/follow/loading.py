"""Loading one checkpoint after another, with no more in memory than one model."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from introspection_probe.errors import IntrospectionError
from introspection_probe.follow.checkpoints import is_adapter, is_plain_lora
from introspection_probe.models import check_placement, has_tokenizer, load_model, load_tokenizer

_ADAPTER_NAMES = ("default", "next")


class CheckpointLoader:
    """Loads checkpoints. Of plain LoRA adapters on one base only the adapter is loaded anew.

    Args:
        base: model that adapters are put on; default: the one that the adapter names.
        device, dtype: as for :func:`introspection_probe.models.load_model`.
        tokenizer: where the tokenizer is; default: in the checkpoint, else beside the base.

    Raises:
        IntrospectionError: a device or dtype that this machine does not have.
    """

    def __init__(
        self,
        *,
        base: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        tokenizer: str | None = None,
    ) -> None:
        check_placement(device, dtype)
        self._base, self._device, self._dtype, self._named = base, device, dtype, tokenizer
        self._model: nn.Module | None = None
        self._tokenizer: Any = None
        # What the model in memory was made of: (base, adapter configuration), or None where it cannot be reused.
        self._adapted: tuple[str, dict[str, Any]] | None = None
        self.swapped = 0

    def base(self) -> tuple[nn.Module, Any]:
        """The base itself, with its tokenizer.

        Raises:
            IntrospectionError: none was given, or it cannot be loaded.
        """
        if self._base is None:
            raise IntrospectionError("no base model was given: name it with --base")
        self.release()
        self._model, self._tokenizer = load_model(self._base, self._device, self._dtype, self._named)
        return self._model, self._tokenizer

    def load(self, folder: Path) -> tuple[nn.Module, Any]:
        """The model of a checkpoint in ``eval()``, with its tokenizer. The one loaded before is gone.

        Raises:
            IntrospectionError: it cannot be loaded.
        """
        made_of = self._made_of(folder)
        try:
            if made_of is not None and made_of == self._adapted:
                self._swap(folder)
            else:
                self.release()
                self._load(folder)
            self._adapted = made_of
        except BaseException:
            self.release()
            raise
        assert self._model is not None
        return self._model, self._tokenizer

    def release(self) -> None:
        """Let go of the model in memory."""
        self._model, self._tokenizer, self._adapted = None, None, None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _made_of(self, folder: Path) -> tuple[str, dict[str, Any]] | None:
        if not is_adapter(folder) or not is_plain_lora(folder):
            return None
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config.get("bias", "none") != "none":  # biases are written into the base itself
            return None
        return str(self._base or config.get("base_model_name_or_path")), config

    def _load(self, folder: Path) -> None:
        where = self._tokenizer_of(folder)
        if self._base is None or not is_adapter(folder):
            self._model, self._tokenizer = load_model(folder, self._device, self._dtype, where)
            return
        from peft import PeftModel

        base, tokenizer = load_model(self._base, self._device, self._dtype, where)
        device = str(next(base.parameters()).device)
        try:
            adapted = PeftModel.from_pretrained(base, str(folder), torch_device=device)
        except Exception as error:
            raise _unfit(folder, self._base, error) from error
        self._model, self._tokenizer = adapted.eval(), tokenizer

    def _tokenizer_of(self, folder: Path) -> str | None:
        """Where a checkpoint's tokenizer is; None leaves it to :func:`load_model`."""
        if self._named is None and has_tokenizer(folder):
            return str(folder)
        return self._named or self._base

    def _swap(self, folder: Path) -> None:
        """Put the adapter in the place of the one that is loaded."""
        model: Any = self._model
        current = model.active_adapter
        fresh = next(name for name in _ADAPTER_NAMES if name != current)
        device = str(next(model.parameters()).device)
        try:
            model.load_adapter(str(folder), adapter_name=fresh, is_trainable=False, torch_device=device)
        except Exception as error:
            raise _unfit(folder, str(self._base or "that it names"), error) from error
        model.set_adapter(fresh)
        model.delete_adapter(current)
        model.eval()
        where = self._tokenizer_of(folder)
        if where == str(folder):
            self._tokenizer = load_tokenizer(where)
        self.swapped += 1


def _unfit(folder: Path, base: str, error: Exception) -> IntrospectionError:
    return IntrospectionError(f"the adapter {folder} does not fit the base {base}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
