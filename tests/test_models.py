from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from runs import embedded_model, embedded_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    LlamaForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from introspection_probe.errors import IntrospectionError
from introspection_probe.models import load_model, model_fingerprint
from introspection_probe.tasks.jabberwocky import MODEL_PATH

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    embedded_tokenizer().save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[4, 20, 21, 22, 5]])).logits


def test_a_saved_model_is_loaded_in_eval_with_its_tokenizer() -> None:
    model, tokenizer = load_model(MODEL_PATH, device="cpu")
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(logits(model), logits(embedded_model().eval()))
    assert tokenizer.chat_template == embedded_tokenizer().chat_template


def test_a_dtype_is_taken_by_name() -> None:
    model, _ = load_model(str(MODEL_PATH), device="cpu", dtype="bfloat16")
    assert next(model.parameters()).dtype == torch.bfloat16
    with pytest.raises(IntrospectionError, match="'int8' is no dtype to load a model in: choose one of float32"):
        load_model(MODEL_PATH, dtype="int8")
    with pytest.raises(IntrospectionError, match="'gpu' is no device"):
        load_model(MODEL_PATH, device="gpu")


def test_a_lora_adapter_is_loaded_on_its_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = embedded_model()
    model.config._name_or_path = str(MODEL_PATH)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = load_model(tmp_path / "adapter", device="cpu")
    assert torch.equal(logits(loaded), logits(adapted))
    assert not torch.equal(logits(loaded), logits(embedded_model().eval()))
    assert tokenizer.chat_template


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    for base, sentence in (
        (str(tmp_path / "gone"), r"the base model of the adapter .*: there is no model at .*gone"),
        (None, "names no base model"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        with pytest.raises(IntrospectionError, match=sentence):
            load_model(tmp_path)


def encoder() -> PreTrainedModel:
    return BertModel(BertConfig(vocab_size=400, **SMALL))


def masked() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=400, initializer_range=0.5, **SMALL))


def undirected() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertLMHeadModel(BertConfig(vocab_size=400, initializer_range=0.5, is_decoder=False, **SMALL))


def classifier(tied: bool = False) -> PreTrainedModel:
    config = embedded_model().config
    config.tie_word_embeddings = tied
    return LlamaForSequenceClassification(config)


def tied_classifier() -> PreTrainedModel:
    return classifier(tied=True)


def translator() -> PreTrainedModel:
    return T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=16, d_ff=16, num_layers=1, num_heads=1, d_kv=8))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (encoder, r"has no trained LM head \(its weights .* are missing"),
        (classifier, r"has no trained LM head \(its weights lm_head\.weight are missing"),
        (tied_classifier, "was saved as LlamaForSequenceClassification, which writes no text"),
        (masked, "was saved as BertForMaskedLM, which writes no text"),
        (undirected, "reads its input in both directions, like an encoder"),
        (translator, "is not a causal language model"),
    ],
)
def test_a_model_that_cannot_explain_itself_is_refused(make: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(IntrospectionError, match=sentence) as refused:
        load_model(saved(make(), tmp_path / "model"))
    assert "\n" not in str(refused.value)


def test_an_unknown_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IntrospectionError, match="there is no model at /no/such/model"):
        load_model("/no/such/model")
    with pytest.raises(
        IntrospectionError, match=r"cannot load the model 'no-such/model': .*; give a folder"
    ) as refused:
        load_model("no-such/model")
    assert "\n" not in str(refused.value)
    with pytest.raises(IntrospectionError, match=r"holds no model: it has neither config\.json nor adapter_config"):
        load_model(tmp_path)


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(MODEL_PATH, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(IntrospectionError, match=r"cannot load the model .*model'") as refused:
        load_model(tmp_path / "model")
    assert "\n" not in str(refused.value)


def test_a_model_without_tokenizer_or_chat_template_is_refused(tmp_path: Path) -> None:
    embedded_model().save_pretrained(tmp_path / "bare")
    with pytest.raises(IntrospectionError, match=r"has no tokenizer that loads .* tokenizer\.save_pretrained"):
        load_model(tmp_path / "bare")
    tokenizer = type(embedded_tokenizer()).from_pretrained(MODEL_PATH)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(IntrospectionError, match="has no chat template"):
        load_model(tmp_path / "bare")


def test_the_fingerprint_knows_a_model_by_its_weights_in_either_precision() -> None:
    model = embedded_model()
    fingerprint = model_fingerprint(model)
    assert model_fingerprint(embedded_model()) == fingerprint
    assert model_fingerprint(embedded_model().to(torch.bfloat16)) == fingerprint
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    assert model_fingerprint(model) != fingerprint
