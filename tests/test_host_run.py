"""What the sidecar may not do to the run it rides on."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from runs import (
    embedded_model,
    embedded_tokenizer,
    encoded,
    host_data,
    largest_difference,
    sft,
    small_probe_set,
    weights,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from introspection_probe import IntrospectionCallback
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
from introspection_probe.rollout import Prober
from introspection_probe.rollout.isolation import measuring
from introspection_probe.tasks.jabberwocky import MODEL_PATH


def host_rows(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The host's own numbers, without ours and without timings."""
    return [
        {
            k: v
            for k, v in row.items()
            if not k.startswith("introspection/") and "second" not in k and "runtime" not in k and "time" not in k
        }
        for row in log_history
    ]


def measuring_only(folder: Path) -> IntrospectionCallback:
    return IntrospectionCallback(
        small_probe_set(), explanation_weight=0, kl_weight=0, probe_every=1, db=folder / "h.db", on_error="raise"
    )


def test_with_both_weights_zero_an_sft_run_is_bit_identical(tmp_path: Path) -> None:
    def run(callbacks: list[Any]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        trainer = sft(tmp_path / "run", callbacks=callbacks, model=embedded_model(attention_dropout=0.1))
        trainer.train()
        return host_rows(trainer.state.log_history), weights(trainer.model)

    alone, watched = run([]), run([measuring_only(tmp_path)])
    assert watched[0] == alone[0]
    assert largest_difference(watched[1], alone[1]) == 0.0
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert [r.step for r in history.rounds(history.find_run(None).id)] == [0, 1, 2, 3, 4]


def test_with_both_weights_zero_a_sampling_host_is_bit_identical(tmp_path: Path) -> None:
    prompts = Dataset.from_list(
        [{"prompt": [dict(m) for m in probe.example.ablated]} for probe in small_probe_set().split("train")]
    )

    def reward(completions: list[Any], **kwargs: Any) -> list[float]:
        return [float(len(c[0]["content"]) % 7) for c in completions]

    def run(callbacks: list[Any]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        args = GRPOConfig(
            output_dir=str(tmp_path / "grpo"),
            max_steps=3,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            temperature=3.0,  # it is sure of its answers, and equal rewards would teach it nothing
            learning_rate=1e-3,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
            gradient_checkpointing=False,
        )
        trainer = GRPOTrainer(
            embedded_model(),
            reward_funcs=reward,
            args=args,
            train_dataset=prompts,
            processing_class=embedded_tokenizer(),
            callbacks=callbacks,
        )
        trainer.train()
        return host_rows(trainer.state.log_history), weights(trainer.model)

    alone, watched = run([]), run([measuring_only(tmp_path)])
    assert watched[0] == alone[0]
    assert largest_difference(watched[1], alone[1]) == 0.0
    assert largest_difference(alone[1], weights(embedded_model())) > 0


def test_a_round_restores_train_flags_of_each_module_and_every_generator(tmp_path: Path) -> None:
    import random

    model = embedded_model().train()
    model.model.layers[0].eval()  # a host may keep a part frozen
    before = {name: module.training for name, module in model.named_modules()}
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())

    def use_everything_and_fail() -> None:
        with measuring(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            random.random(), np.random.rand(), torch.rand(1)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        use_everything_and_fail()
    assert {name: module.training for name, module in model.named_modules()} == before
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_failing_round_is_logged_once_counted_and_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the probe broke")

    def run(**config: Any) -> None:
        callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", probe_every=1, **config)
        sft(tmp_path / "out", callbacks=[callback], max_steps=3).train()

    monkeypatch.setattr(Prober, "measure", broken)
    run()
    told = [record for record in caplog.records if "the probe broke" in record.getMessage()]
    assert len(told) == 1
    assert told[0].exc_info is not None
    with pytest.raises(RuntimeError, match="the probe broke"):
        run(on_error="raise")


def test_a_failure_of_the_mixed_loss_stops_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from introspection_probe.training import Mixer

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the mix broke")

    monkeypatch.setattr(Mixer, "backward", broken)
    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", probe_at_start=False)
    with pytest.raises(RuntimeError, match="the mix broke"):
        sft(tmp_path / "out", callbacks=[callback]).train()


def test_loss_terms_and_scores_appear_in_the_hosts_own_log_rows(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    class Later(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.append(dict(logs))

    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", probe_every=2, on_error="raise")
    trainer = sft(tmp_path / "out", callbacks=[callback, Later()], max_steps=2)
    trainer.train()
    assert all("introspection/explanation_loss" in row and "introspection/kl_loss" in row for row in seen[:2])
    assert all("loss" in row for row in seen[:2])
    assert "introspection/self_exact_match" in seen[1]
    saved = [row for row in trainer.state.log_history if row["step"] == 2]
    assert "introspection/self_exact_match" in saved[0]
    assert json.dumps(trainer.state.log_history)


def test_an_evaluation_in_between_takes_nothing_out_of_the_hosts_rows(tmp_path: Path) -> None:
    def logged(**options: Any) -> list[dict[str, Any]]:
        callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", probe_every=3, on_error="raise")
        trainer = sft(
            tmp_path / "out", callbacks=[callback], max_steps=4, logging_steps=2, eval_dataset=host_data(), **options
        )
        trainer.train()
        return [row for row in trainer.state.log_history if "loss" in row]

    ours = [
        [{name: row[name] for name in row if name.startswith("introspection/")} for row in rows]
        for rows in (logged(), logged(eval_strategy="steps", eval_steps=1))
    ]
    assert ours[0] == ours[1]
    assert all("introspection/kl_loss" in row for row in ours[0])


def test_rounds_hold_the_overhead_that_was_asked_for(tmp_path: Path) -> None:
    callback = IntrospectionCallback(
        small_probe_set(), db=tmp_path / "h.db", probe_every=1, max_overhead=0.001, on_error="raise"
    )
    sft(tmp_path / "out", callbacks=[callback], max_steps=5).train()
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert [r.step for r in history.rounds(history.find_run(None).id)] == [0, 5]
        assert 0 < history.find_run(None).overhead <= 1


@pytest.mark.parametrize("when", ["steps", "epoch"])
def test_the_last_round_is_of_the_last_steps_model_where_the_best_one_is_loaded_at_the_end(
    when: str, tmp_path: Path
) -> None:
    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", on_error="raise")
    trainer = sft(
        tmp_path / "out",
        callbacks=[callback, EarlyStoppingCallback(early_stopping_patience=1)],
        max_steps=20,
        per_device_train_batch_size=16,  # four steps an epoch
        learning_rate=0.01,
        eval_dataset=host_data().select(range(8)),
        eval_strategy=when,
        eval_steps=4,
        save_strategy=when,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that the first one stays the best
    )
    trainer.train()
    assert trainer.state.best_global_step == 4
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-8")
    assert largest_difference(weights(last), weights(trainer.model)) > 0.01
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        run = history.find_run(None)
        assert [r.step for r in history.rounds(run.id)] == [0, 8]
        measured = history.rollouts(run.id, 8)
    expected = Prober(embedded_tokenizer(), encoded(small_probe_set())).measure(last, step=8)
    assert list(measured) == list(expected.rollouts)


def test_a_model_that_is_not_m0_is_told_at_the_first_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = embedded_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", explanation_weight=0)
    sft(tmp_path / "out", callbacks=[callback], model=model, max_steps=1).train()
    assert any("another model" in record.getMessage() for record in caplog.records)


def test_a_reward_models_trainer_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(MODEL_PATH, num_labels=1)
    pairs = [
        {"prompt": list(probe.example.ablated), "chosen": answers[:1], "rejected": answers[1:2]}
        for probe in small_probe_set().split("train")
        for answers in [[{"role": "assistant", "content": option} for option in probe.example.options]]
    ]
    trainer = RewardTrainer(
        model,
        args=RewardConfig(str(tmp_path / "out"), max_steps=1, report_to=[], use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(pairs),
        processing_class=embedded_tokenizer(),
        callbacks=[IntrospectionCallback("jabberwocky", db=tmp_path / "h.db")],
    )
    with pytest.raises(IntrospectionError, match=r"^LlamaForSequenceClassification is no causal language model"):
        trainer.train()
    assert not (tmp_path / "h.db").exists()


def test_bad_use_is_one_sentence_naming_the_value(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kl_weight": -1}, "kl_weight is -1"),
        ({"explanation_weight": float("nan")}, "explanation_weight is nan"),
        ({"probe_every": 0}, "probe_every is 0"),
        ({"max_overhead": 1.5}, "max_overhead is 1.5"),
        ({"prob_every": 3}, "'prob_every'"),
    ]
    for config, said in cases:
        with pytest.raises(IntrospectionError, match=said) as caught:
            IntrospectionCallback(small_probe_set(), **config)
        assert "\n" not in str(caught.value)
    with pytest.raises(IntrospectionError, match=r"'nowhere' is neither .* jabberwocky"):
        IntrospectionCallback("nowhere")
    with pytest.raises(IntrospectionError, match="label"):
        sft(tmp_path, callbacks=[IntrospectionCallback(small_probe_set(), supervision="llama")]).train()


def test_an_unwritable_history_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "file" / "h.db")
    sft(tmp_path / "out", callbacks=[callback], max_steps=1).train()
    assert any("history" in record.getMessage() for record in caplog.records)


def test_a_long_round_shows_that_the_run_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("introspection_probe.session._HEARTBEAT_S", 0.0)
    db, model = tmp_path / "h.db", embedded_model()
    heard: list[datetime] = []

    def look(*_: Any) -> None:
        """Before each forward of the first round: when was the run last heard of?"""
        with contextlib.suppress(IntrospectionError), History.open(str(db), must_exist=True) as history:
            run = history.find_run(None)
            if not model.training and not history.rounds(run.id):
                heard.append(run.updated_at)
        time.sleep(0.05)

    model.register_forward_pre_hook(look)
    callback = IntrospectionCallback(small_probe_set(), probe_every=1000, token_budget=100, db=db)
    sft(tmp_path / "run", callbacks=[callback], model=model, max_steps=1).train()
    assert len(heard) > 5
    assert heard[-1] > heard[0]
