"""Reads what the doctor needs from the configuration files that people have: axolotl, LLaMA-Factory, TRL, PEFT."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from introspection_probe.doctor.settings import Settings
from introspection_probe.errors import IntrospectionError

_LORA_RANKS = ("lora_r", "lora_rank", "r")
# A script that says "LoRA" without a rank takes its tool's default: TRL's lora_r is 16, LLaMA-Factory's lora_rank 8.
_TRL_RANK, _LLAMA_FACTORY_RANK = 16, 8


def _number(value: Any) -> float:
    # PyYAML reads 1e-5, which lacks a point, as a text.
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number) or number < 1:
        raise ValueError
    return int(number)


_READERS: Mapping[str, tuple[str, Callable[[Any], Any], str]] = {
    "explanation_weight": ("explanation_weight", _number, "a number of 0 or more"),
    "kl_weight": ("kl_weight", _number, "a number of 0 or more"),
    "mix_batch_size": ("mix_batch_size", _whole, "a whole number of 1 or more"),
    "supervision": ("supervision", str, "a label set's name"),
    "probe_every": ("probe_every", _whole, "a whole number of 1 or more"),
    "max_probes": ("max_probes", _whole, "a whole number of 1 or more"),
    "learning_rate": ("learning_rate", _number, "a number of 0 or more"),
    "optim": ("optim", str, "an optimizer's name"),
    "optimizer": ("optim", str, "an optimizer's name"),
    "max_steps": ("max_steps", int, "a whole number"),
}
_BATCHES = ("per_device_train_batch_size", "micro_batch_size")

KEYS = (
    *_READERS,
    *_LORA_RANKS,
    *_BATCHES,
    "gradient_accumulation_steps",
    "deepspeed",
    "use_peft",
    "adapter",
    "peft_type",
)
"""What is read; every other key is ignored."""


def read_settings_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of :class:`Settings` from a YAML or JSON file, and the keys that were read with their values.

    Raises:
        IntrospectionError: missing, not YAML or JSON, a value of the wrong kind, or none of the known keys.
    """
    raw = _load(path)
    fields: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for key, (field, reader, must_be) in _READERS.items():
        if raw.get(key) is None:
            continue
        read[key] = raw[key]
        fields[field] = _converted(path, key, raw[key], reader, must_be)
    if fields.get("max_steps", 1) < 1:
        del fields["max_steps"]  # -1 is the trainers' way of saying "as many as the epochs give"
    fields.update(_lora(path, raw, read))
    batch = [key for key in _BATCHES if raw.get(key) is not None]
    if batch:
        read[batch[0]] = raw[batch[0]]
        size = _converted(path, batch[0], raw[batch[0]], _whole, "a whole number of 1 or more")
        accumulation = raw.get("gradient_accumulation_steps")
        if accumulation is not None:
            read["gradient_accumulation_steps"] = accumulation
            must_be = "a whole number of 1 or more"
            size *= _converted(path, "gradient_accumulation_steps", accumulation, _whole, must_be)
        fields["train_batch"] = size
    if raw.get("deepspeed"):
        read["deepspeed"] = raw["deepspeed"]
        fields["deepspeed"] = True
    if not read:
        raise IntrospectionError(
            f"{path} has no key that is read here: give a training configuration with learning_rate, lora_r or such"
        )
    return fields, read


def _lora(path: Path, raw: Mapping[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    """The rank, unless the file says that all weights are trained whatever ``lora_r`` is."""
    for key in ("use_peft", "finetuning_type", "adapter", "peft_type"):
        if key in raw:
            read[key] = raw[key]
    # A rank that nobody switched on: axolotl trains all weights without an adapter, TRL without use_peft.
    unused = ("base_model" in raw and "adapter" not in raw) or (
        "model_name_or_path" in raw and not {"use_peft", "finetuning_type", "lora_rank"} & raw.keys()
    )
    off = (
        unused
        or raw.get("use_peft") is False
        or str(raw.get("finetuning_type", "lora")).lower() != "lora"
        or ("adapter" in raw and str(raw["adapter"]).lower() not in ("lora", "qlora"))
        or str(raw.get("peft_type", "LORA")).upper() != "LORA"
    )
    if off:
        return {}
    for key in _LORA_RANKS:
        if raw.get(key) is not None:
            read[key] = raw[key]
            return {"lora_rank": _converted(path, key, raw[key], _whole, "a whole number of 1 or more")}
    if raw.get("use_peft") is True:
        return {"lora_rank": _TRL_RANK}
    return {"lora_rank": _LLAMA_FACTORY_RANK} if "finetuning_type" in raw else {}


def _converted(path: Path, key: str, value: Any, reader: Callable[[Any], Any], must_be: str) -> Any:
    try:
        return reader(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise IntrospectionError(f"{path}: {key} is {value!r:.60}; it must be {must_be}") from error


def _load(path: Path) -> Mapping[str, Any]:
    if path.suffix in (".bin", ".pt", ".pkl"):
        raise IntrospectionError(
            f"{path} is a pickle, which runs code when it is read: give the YAML or JSON file it was made from"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise IntrospectionError(f"cannot read {path} ({reason}): give a YAML or JSON file") from error
    try:
        raw = json.loads(text) if path.suffix == ".json" else _yaml(path, text)
    except (ValueError, RecursionError) as error:
        raise IntrospectionError(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {error}"
        ) from error
    if not isinstance(raw, dict):
        raise IntrospectionError(f"{path} holds no settings: give a file of keys and values")
    return raw


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise IntrospectionError(f"{path} is YAML, which needs PyYAML: pip install pyyaml, or give JSON") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def settings_of(path: Path | None, **given: Any) -> tuple[Settings, dict[str, Any]]:
    """The settings of a file, if any, under those given; and what was read from the file.

    Raises:
        IntrospectionError: as :func:`read_settings_file`.
    """
    fields, read = ({}, {}) if path is None else read_settings_file(path)
    fields.update({name: value for name, value in given.items() if value is not None})
    return Settings(**fields), read
