"""The mixed loss: what it adds to the host's gradient, against separate computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset
from peft import LoraConfig, get_peft_model
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
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from introspection_probe import IntrospectionCallback, IntrospectionConfig, IntrospectionTrainerMixin
from introspection_probe.training import Mixer, MixExample, Reference, ReferenceRow, reference_kl, write_reference

OFF = {"probe_at_start": False, "probe_at_end": False}


class GradientKeeper(TrainerCallback):
    """What the optimizer is about to use."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps.append({n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None})


def mix_examples() -> list[MixExample]:
    probe_set = small_probe_set()
    return [
        MixExample.of(e, probe.behavior, probe.labels["orig"], embedded_tokenizer().eos_token_id)
        for e, probe in zip(encoded(probe_set, "train"), probe_set.split("train"), strict=True)
    ]


def mixer(*, packed: bool = True, **config: Any) -> Mixer:
    return Mixer(
        mix_examples(),
        IntrospectionConfig(**config),
        content_hash=small_probe_set().content_hash,
        packed=packed,
    )


def plain_loss(model: Any, reference: Any, example: MixExample, kl_weight: float) -> tuple[Any, Any]:
    """The objective of one example, written out: three forwards, a second model, the full vocabulary."""
    included, ablated, question = example.paths
    said = torch.tensor(example.targets)
    logits = model(torch.tensor([question.ids])).logits[0, question.read_from :].log_softmax(-1)
    nll = -logits[torch.arange(len(said)), said].sum()
    kl = torch.zeros(())
    for path in (included, ablated):
        now = model(torch.tensor([path.ids])).logits[0, path.read_from :].log_softmax(-1)
        with torch.no_grad():
            then = reference(torch.tensor([path.ids])).logits[0, path.read_from :].log_softmax(-1)
        kl = kl + (then.exp() * (then - now)).sum()
    return nll, kl


def expected_gradient(model: Any, reference: Any, step: int, config: IntrospectionConfig) -> dict[str, torch.Tensor]:
    """Of the mixed term alone, by :func:`plain_loss` over the drawn examples."""
    examples = mix_examples()
    drawn = [examples[i] for i in mixer(mix_batch_size=config.mix_batch_size, seed=config.seed).draw(step)]
    model.zero_grad()
    sums = [plain_loss(model, reference, example, config.kl_weight) for example in drawn]
    tokens = sum(len(example.targets) for example in drawn)
    reads = sum(example.behavior_reads for example in drawn)
    total = sum(nll for nll, _ in sums) / tokens + config.kl_weight * sum(kl for _, kl in sums) / reads
    (config.explanation_weight * total).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def perturbed(model: Any) -> Any:
    """Away from M0, so that the KL term has a gradient."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("packed", [True, False])
def test_mixed_gradient_equals_three_plain_forwards_and_a_second_model(packed: bool, tmp_path: Path) -> None:
    config = IntrospectionConfig(explanation_weight=0.7, kl_weight=1.3, mix_batch_size=6, reference_top_k=None)
    ours = Mixer(mix_examples(), config, content_hash="x", packed=packed)
    m0 = embedded_model().eval()
    ours.capture_reference(m0, tmp_path / "reference.safetensors", steps=5)
    model = perturbed(embedded_model())
    ours.backward(model, step=3)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    expected = expected_gradient(model, m0, 3, config)
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    assert largest_difference(found, expected) < 2e-5


def test_splitting_the_batch_by_the_token_budget_leaves_the_gradient_unchanged(tmp_path: Path) -> None:
    found = []
    for budget in (100_000, 64):
        ours = mixer(token_budget=budget, mix_batch_size=8)
        ours.capture_reference(embedded_model(), tmp_path / f"{budget}.safetensors", steps=2)
        model = perturbed(embedded_model())
        ours.backward(model, step=1)
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert largest_difference(*found) < 1e-5


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_gradient_after_host_backward_is_that_of_the_summed_loss(accumulation: int, lora: bool, tmp_path: Path) -> None:
    def model() -> Any:
        base = embedded_model()
        if not lora:
            return base
        torch.manual_seed(3)
        return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))

    def gradients(callbacks: list[Any], host: Any) -> list[dict[str, torch.Tensor]]:
        keeper = GradientKeeper()
        trainer = sft(
            tmp_path,
            callbacks=[*callbacks, keeper],
            model=host,
            max_steps=2,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.0,
            learning_rate=0.0,
        )
        trainer.train()
        return keeper.steps

    config = {"explanation_weight": 0.7, "kl_weight": 1.3, "mix_batch_size": 5, "reference_top_k": None, **OFF}
    mixed = gradients([IntrospectionCallback(small_probe_set(), **config)], model())
    alone = gradients([], model())
    for step in range(2):
        term = expected_gradient(model(), model().eval(), step, IntrospectionConfig(**config))
        assert term
        summed = {name: alone[step][name] + term[name] for name in alone[step]}
        assert largest_difference(mixed[step], summed) < 2e-5
        assert largest_difference(mixed[step], alone[step]) > 1e-3


def test_data_that_ends_within_an_accumulation_window_is_mixed_into_once_a_step(tmp_path: Path) -> None:
    def gradients(*callbacks: TrainerCallback) -> list[dict[str, torch.Tensor]]:
        keeper = GradientKeeper()
        sft(
            tmp_path,
            callbacks=[*callbacks, keeper],
            train_dataset=IterableDataset.from_generator(lambda: iter(host_data().select(range(12)))),
            max_steps=3,
            gradient_accumulation_steps=2,
            max_grad_norm=0.0,
            learning_rate=0.0,
        ).train()
        return keeper.steps

    config = {"mix_batch_size": 5, "reference_top_k": None, **OFF}
    mixed, alone = gradients(IntrospectionCallback(small_probe_set(), **config)), gradients()
    for step in range(3):
        term = expected_gradient(embedded_model(), embedded_model().eval(), step, IntrospectionConfig(**config))
        assert largest_difference(mixed[step], {name: alone[step][name] + term[name] for name in term}) < 2e-5


def test_clipping_and_grad_norm_see_the_mixed_gradient(tmp_path: Path) -> None:
    keeper = GradientKeeper()
    callback = IntrospectionCallback(small_probe_set(), **OFF)
    trainer = sft(tmp_path, callbacks=[callback, keeper], max_steps=1, max_grad_norm=0.01)
    trainer.train()
    norm = torch.stack([g.norm() for g in keeper.steps[0].values()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_weight_change_is_linear_in_the_explanation_weight_and_free_of_kl_at_the_first_step(tmp_path: Path) -> None:
    def moved(**config: Any) -> dict[str, torch.Tensor]:
        callback = IntrospectionCallback(small_probe_set(), reference_top_k=None, **OFF, **config)
        trainer = sft(
            tmp_path,
            callbacks=[callback],
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
        )
        before = weights(trainer.model)
        trainer.train()
        after = weights(trainer.model)
        return {name: after[name] - before[name] for name in after}

    none, one, three = (moved(explanation_weight=w) for w in (0.0, 1.0, 3.0))
    added_by_one = {name: one[name] - none[name] for name in none}
    added_by_three = {name: (three[name] - none[name]) / 3 for name in none}
    assert max(value.abs().max() for value in added_by_one.values()) > 1e-3
    assert largest_difference(added_by_one, added_by_three) < 1e-6
    assert largest_difference(one, moved(explanation_weight=1.0, kl_weight=10.0)) < 1e-5


def test_top_k_reference_is_a_lower_bound_and_exact_over_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    then, now = torch.randn(3, 200) * 3, torch.randn(3, 200) * 3
    exact = torch.nn.functional.kl_div(
        now.log_softmax(-1), then.log_softmax(-1), log_target=True, reduction="sum"
    ).item()
    bounds = [reference_kl(now, ReferenceRow.of(then, k)).item() for k in (1, 5, 50, 199, 200, None)]
    assert bounds[-2:] == pytest.approx([exact, exact], rel=1e-5)
    assert all(bound <= exact * (1 + 1e-5) for bound in bounds)
    assert bounds[:3] == sorted(bounds[:3])
    assert bounds[0] < 0.9 * exact


def test_top_k_kl_keeps_its_digits_when_the_top_holds_nearly_all_the_mass() -> None:
    then = torch.zeros(1, 1000)
    then[0, 0] = 30.0
    now = then.clone().requires_grad_()
    kl = reference_kl(now, ReferenceRow.of(then, 8))
    kl.backward()
    assert kl.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(now.grad).all()
    assert now.grad.abs().max() < 1e-6


def test_reference_file_round_trips_and_refuses_another_probe_set(tmp_path: Path) -> None:
    path = tmp_path / "reference.safetensors"
    rows = {
        ("a", "included"): ReferenceRow.of(torch.randn(2, 50), 8),
        ("a", "ablated"): ReferenceRow.of(torch.randn(1, 50), 8),
    }
    write_reference(path, rows, "hash")
    loaded = Reference(path, "hash")
    for key, row in rows.items():
        assert torch.equal(loaded[key].tokens, row.tokens)
        assert torch.equal(loaded[key].log_probs, row.log_probs)
        assert torch.equal(loaded[key].tail_log_prob, row.tail_log_prob)
    with pytest.raises(ValueError, match="another probe set"):
        Reference(path, "other")
    path.write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="cannot be read"):
        Reference(path, "hash")


def test_draws_depend_on_seed_and_step_alone_and_cover_every_example_equally() -> None:
    one, again, other = mixer(seed=1), mixer(seed=1), mixer(seed=2)
    assert [again.draw(step) for step in (5, 2)] == [one.draw(step) for step in (5, 2)]
    assert one.draw(0) != other.draw(0)
    count = len(mix_examples())
    drawn = [index for step in range(count) for index in one.draw(step)]
    assert {drawn.count(index) for index in range(count)} == {8}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_trainer_mixin_gives_the_same_run_as_the_callback(accumulation: int, tmp_path: Path) -> None:
    class Trainer(IntrospectionTrainerMixin, SFTTrainer): ...

    def final(kind: type[SFTTrainer]) -> dict[str, torch.Tensor]:
        trainer = kind(
            embedded_model(),
            args=SFTConfig(
                output_dir=str(tmp_path),
                max_steps=3,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=accumulation,
                learning_rate=1e-2,
                optim="sgd",
                report_to=[],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
                save_strategy="no",
            ),
            train_dataset=host_data(),
            processing_class=embedded_tokenizer(),
            callbacks=[IntrospectionCallback(small_probe_set(), **OFF)],
        )
        before = weights(trainer.model)
        trainer.train()
        after = weights(trainer.model)
        assert largest_difference(before, after) > 1e-4
        return after

    assert largest_difference(final(SFTTrainer), final(Trainer)) < 1e-5


def test_loss_scaler_scales_the_mixed_gradient(tmp_path: Path) -> None:
    ours = mixer()
    ours.capture_reference(embedded_model(), tmp_path / "reference.safetensors", steps=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    found = []
    for scale in (None, scaler.scale):
        model = embedded_model()
        ours.backward(model, 0, scale)
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    plain, scaled = found
    assert largest_difference({n: g / 1024 for n, g in scaled.items()}, plain) < 1e-6


def test_mixing_works_under_bf16_autocast_and_gradient_checkpointing(tmp_path: Path) -> None:
    def gradient(**overrides: Any) -> dict[str, torch.Tensor]:
        keeper = GradientKeeper()
        callback = IntrospectionCallback(small_probe_set(), **OFF)
        sft(
            tmp_path, callbacks=[callback, keeper], max_steps=2, learning_rate=0.0, max_grad_norm=0.0, **overrides
        ).train()
        return keeper.steps[1]

    plain = gradient()
    assert largest_difference(gradient(gradient_checkpointing=True), plain) < 1e-5
    half = gradient(bf16=True)
    distance = torch.stack([(half[n] - plain[n]).norm() for n in plain]).norm()
    assert distance < 0.1 * torch.stack([g.norm() for g in plain.values()]).norm()
    assert distance > 0
