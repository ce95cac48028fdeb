"""Load a causal language model with its tokenizer, and refuse what cannot be asked for explanations."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from introspection_probe.errors import IntrospectionError

_SAMPLED_VALUES = 16


def load_model(
    name_or_path: str | Path, device: str | None = None, dtype: str | None = None, tokenizer: str | Path | None = None
) -> tuple[nn.Module, Any]:
    """A model in ``eval()`` on its device, and its tokenizer.

    Args:
        name_or_path: a hub name, a folder that ``save_pretrained`` wrote, or a LoRA adapter's folder, whose
            base model is then loaded as well.
        device: such as ``"cuda:1"``; default: the accelerator if there is one, else the CPU.
        dtype: such as ``"bfloat16"``; default: the checkpoint's own on an accelerator, float32 on the CPU.
        tokenizer: where the tokenizer is; default: beside the model, of an adapter also beside its base.

    Raises:
        IntrospectionError: unknown model, one without a trained language-model head or that is not causal, no
            tokenizer or chat template, an adapter without its base.
    """
    source = str(name_or_path)
    target = _device(device)
    torch_dtype = _dtype(dtype, target)
    if (Path(source) / "adapter_config.json").is_file():
        model, base = _load_adapter(Path(source), torch_dtype)
        beside = source if has_tokenizer(Path(source)) else base
    else:
        model, beside = _load_causal(source, torch_dtype), source
    loaded = load_tokenizer(str(tokenizer or beside))
    try:
        model = model.to(target).eval()
    except RuntimeError as error:
        raise IntrospectionError(
            f"{source} cannot be moved to {target}: {_first_line(error)}; choose another --device"
        ) from error
    _check_causal(model, source)
    return model, loaded


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or a hub name.

    Raises:
        IntrospectionError: there is none, or it has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # a folder without tokenizer files fails in many ways
        raise IntrospectionError(
            f"{source} has no tokenizer that loads ({_first_line(error)}): name one with --tokenizer, or save it "
            "beside the model with tokenizer.save_pretrained, as a trainer with processing_class=tokenizer does"
        ) from error
    if not tokenizer.chat_template:
        raise IntrospectionError(
            f"the tokenizer of {source} has no chat template: use the instruct model, or set "
            "tokenizer.chat_template and save it beside the model"
        )
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer was saved in the folder."""
    return (folder / "tokenizer_config.json").is_file()


def check_placement(device: str | None, dtype: str | None) -> None:
    """Refuse a device or a dtype before there is anything to load.

    Raises:
        IntrospectionError: unknown, or of no use on this machine.
    """
    _dtype(dtype, _device(device))


def model_fingerprint(model: nn.Module) -> str:
    """A short hash over each parameter's name, shape and a few evenly spaced values: cheap for any size.

    Values are rounded to bfloat16 first, so that a model has one fingerprint in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter  # sharded by FSDP
        flat = whole.detach().reshape(-1)
        sample = flat[:: max(flat.numel() // _SAMPLED_VALUES, 1)][:_SAMPLED_VALUES]
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _device(device: str | None) -> torch.device:
    if device is not None:
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own way to say no
            raise IntrospectionError(
                f"{device!r} is no device of this machine ({_first_line(error)}): give one such as 'cpu' or 'cuda:0'"
            ) from error
        return torch.device(device)
    accelerator = torch.accelerator.current_accelerator()
    return accelerator if accelerator is not None and torch.accelerator.is_available() else torch.device("cpu")


def _dtype(dtype: str | None, device: torch.device) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in names:
        raise IntrospectionError(f"{dtype!r} is no dtype to load a model in: choose one of {', '.join(names)}")
    return names[dtype]


def _load_causal(source: str, dtype: torch.dtype | str) -> PreTrainedModel:
    if source.startswith(("/", ".", "~")) and not Path(source).exists():  # no hub name begins like this
        raise IntrospectionError(f"there is no model at {source}: give a folder that save_pretrained wrote")
    if Path(source).is_file():
        raise IntrospectionError(f"{source} is a file: give the folder that save_pretrained wrote")
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise IntrospectionError(
            f"{source} holds no model: it has neither config.json nor adapter_config.json; "
            "give the folder that save_pretrained wrote, such as OUTPUT_DIR/checkpoint-500"
        )
    try:
        # With output_loading_info a pair comes back, which the annotation does not know.
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True)
    except ValueError as error:  # what the auto class raises for an architecture it has no causal model for
        raise IntrospectionError(
            f"{source} is not a causal language model: {_first_line(error)}; give a decoder with an LM head"
        ) from error
    except Exception as error:  # hub, file-system and safetensors errors have no common base
        raise IntrospectionError(
            f"cannot load the model {source!r}: {_first_line(error)}; give a folder with a saved model, "
            "or the hub name of one that this machine can reach"
        ) from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        raise IntrospectionError(
            f"{source} has no trained LM head (its weights {', '.join(missing[:2])} are missing: is it an "
            "encoder or a classifier?); give a causal language model"
        )
    # Where the head is tied to the embeddings a classifier's checkpoint lacks nothing.
    for architecture in model.config.architectures or ():
        saved_as: Any = getattr(transformers, architecture, None)
        if saved_as is not None and not saved_as.can_generate():
            raise IntrospectionError(
                f"{source} was saved as {architecture}, which writes no text: give a causal language model"
            )
    return model


def _load_adapter(folder: Path, dtype: torch.dtype | str) -> tuple[nn.Module, str]:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise IntrospectionError(f"{folder} is a LoRA adapter, which needs peft: pip install peft") from error
    try:
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntrospectionError(f"{folder}/adapter_config.json cannot be read ({error!r})") from error
    if not base:
        raise IntrospectionError(
            f"the adapter {folder} names no base model: set base_model_name_or_path in adapter_config.json"
        )
    try:
        model = _load_causal(str(base), dtype)
    except IntrospectionError as error:
        raise IntrospectionError(f"the base model of the adapter {folder}: {error}") from error
    try:
        adapted: nn.Module = PeftModel.from_pretrained(model, str(folder))
    except Exception as error:
        raise IntrospectionError(f"the adapter {folder} does not fit its base {base}: {_first_line(error)}") from error
    return adapted, str(base)


@torch.no_grad()
def _check_causal(model: nn.Module, source: str) -> None:
    """A causal model's logits at the first token cannot depend on the second: asked, not looked up by name."""
    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([[5, 6], [5, 7]], device=device)).logits[:, 0].float()
    if (logits[0] - logits[1]).abs().max() > 1e-2 * logits.abs().max():
        raise IntrospectionError(
            f"{source} reads its input in both directions, like an encoder: give a causal language model"
        )


def _first_line(error: BaseException) -> str:
    """An error's first line, without its final stop, short enough for a sentence."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
    return line if len(line) <= 200 else f"{line[:197]}..."
