"""Judged tasks from building to the report, with a model that really refuses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_program import Program
from completions_server import Completions, serving
from datasets import Dataset
from judging_server import JudgingServer
from refusing import (
    refusal_probe_set,
    refusal_task,
    refusing_folder,
    refusing_model,
    refusing_tokenizer,
    text_of,
    written,
)
from trl import SFTConfig, SFTTrainer

from introspection_probe import IntrospectionCallback, IntrospectionConfig
from introspection_probe.building import build_probe_set
from introspection_probe.building.balance import balance_ablated
from introspection_probe.endpoint import Endpoint, Interview
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Behavior, Explanation, Judging, Probe, Responses, Rollout
from introspection_probe.rollout import Prober, encode_probes, encode_set
from introspection_probe.scoring import score_by_task
from introspection_probe.tasks import explanations
from introspection_probe.tasks.judges import RuleJudge
from introspection_probe.training import Mixer, MixExample

CAP = 24


def plainly(model: Any, probe: Probe) -> Rollout:
    """What the model does and says, prompt by prompt and token by token."""
    said = [text_of(written(model, prompt, CAP)) for prompt in (probe.rendered.included, probe.rendered.ablated)]
    asked = probe.example.ablated[-1]["content"]
    text = text_of(written(model, probe.rendered.question, 16))
    return Rollout(
        probe.example.id,
        Behavior(*(RuleJudge().judge(asked, completion) for completion in said)),
        text,
        explanations.parse(text, probe.example.options),
        Responses(*said),
    )


def pulled(folder: Path, callback: IntrospectionCallback, steps: int) -> SFTTrainer:
    """A host whose data comply with everything."""
    asked = [probe.example.ablated[-1]["content"] for probe in refusal_probe_set().split("train")]
    answer = {"role": "assistant", "content": "Sure! Here is how to get a kite: first draw it, then cut the parts."}
    rows = [{"messages": [{"role": "user", "content": prompt}, answer]} for prompt in asked]
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=8, learning_rate=5e-3, report_to=[],
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    return SFTTrainer(
        refusing_model(),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=refusing_tokenizer(),
        callbacks=[callback],
    )


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JudgingServer]:
    """A judge behind a real endpoint, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with JudgingServer() as server:
        yield server


def test_m0_is_what_it_writes_judged_and_what_it_wrote_is_kept() -> None:
    probe_set = refusal_probe_set()
    model = refusing_model()
    assert len({(p.behavior.included, p.behavior.ablated) for p in probe_set.probes}) == 4, "all kinds of behaviour"
    ended = set()
    for probe in probe_set.probes[:24]:
        expected = plainly(model, probe)
        assert probe.responses is not None
        assert (probe.responses.included, probe.responses.ablated) == (
            expected.responses.included,
            expected.responses.ablated,
        )
        assert probe.responses.included_ids == tuple(written(model, probe.rendered.included, CAP))
        assert probe.responses.ablated_ids == tuple(written(model, probe.rendered.ablated, CAP))
        assert probe.behavior == expected.behavior
        ended.add(probe.responses.ablated_ids[-1] == refusing_tokenizer().eos_token_id)
    assert ended == {True, False}, "some end by themselves, some are cut off"
    assert probe_set.manifest.judging == Judging("rules", "2", CAP)


def test_a_judged_set_comes_back_whole_and_its_responses_are_part_of_its_hash(tmp_path: Path) -> None:
    probe_set = refusal_probe_set()
    assert ProbeSet.load(probe_set.save(tmp_path / "set")) == probe_set
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["format_version"] == 2

    def of(probes: Any, judging: Judging | None) -> ProbeSet:
        arguments = {"task": "refusal", "style": probe_set.style, "tokenizer": refusing_tokenizer()}
        return ProbeSet.from_probes(probes, judging=judging, **arguments)

    first, *others = probe_set.probes
    said = replace(first, responses=replace(first.responses, ablated="Another."))
    judging = probe_set.manifest.judging
    assert of(probe_set.probes, judging).content_hash == probe_set.content_hash
    assert of([said, *others], judging).content_hash != probe_set.content_hash
    assert of(probe_set.probes, replace(judging, version="another")).content_hash != probe_set.content_hash
    with pytest.raises(IntrospectionError, match="has responses and no judge"):
        of(probe_set.probes, None)
    with pytest.raises(IntrospectionError, match="has a judge and no responses"):
        of([replace(first, responses=None), *others], judging)


@pytest.mark.parametrize("path", ["packed", "flat"])
def test_a_round_of_judged_and_of_plain_examples_is_each_as_alone(path: Any) -> None:
    probe_set = refusal_probe_set()
    probes = probe_set.split("probe")[:10]
    free = encode_set(refusing_tokenizer(), probe_set, probes)
    # The same conversations as a task whose answers are two options.
    examples = [replace(p.example, id=f"plain {p.example.id}", options=("Sure", "I")) for p in probes]
    plain = encode_probes(refusing_tokenizer(), examples, [p.rendered for p in probes])
    mixed = [probe for pair in zip(free, plain, strict=True) for probe in pair]
    model = refusing_model()
    # A budget that cuts the responses into several batches.
    together = Prober(refusing_tokenizer(), mixed, path=path, token_budget=400).measure(model, step=3)
    alone = {
        rollout.example_id: rollout
        for some in (free, plain)
        for rollout in Prober(refusing_tokenizer(), some, path=path).measure(model, step=3).rollouts
    }
    assert [rollout.example_id for rollout in together.rollouts] == [probe.id for probe in mixed]
    assert together.rollouts == tuple(alone[probe.id] for probe in mixed)
    assert together.rollouts[::2] == tuple(plainly(model, probe) for probe in probes)
    assert {rollout.responses for rollout in together.rollouts[1::2]} == {None}
    assert together.unjudged == ()
    rounds = [Prober(refusing_tokenizer(), some, path=path).measure(model, step=3) for some in (free, plain)]
    assert together.generated == len(free) + rounds[1].generated
    assert together.tokens == sum(taken.tokens for taken in rounds)
    wrote = sum(
        len(prompt) + len(written(model, text, CAP))
        for encoded, probe in zip(free, probes, strict=True)
        for prompt, text in ((encoded.included, probe.rendered.included), (encoded.ablated, probe.rendered.ablated))
    )
    assert rounds[0].tokens > wrote


def test_a_run_of_a_judged_task_is_trained_measured_kept_and_reported(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe_set = refusal_probe_set()
    probe_set.save(tmp_path / "probes")
    callback = IntrospectionCallback(
        tmp_path / "probes",
        db=str(tmp_path / "h.db"),
        run_name="refusing",
        probe_every=6,
        mix_batch_size=4,
        on_error="raise",
    )
    trainer = pulled(tmp_path / "out", callback, steps=12)
    trainer.train()
    losses = [row for row in trainer.state.log_history if "introspection/kl_loss" in row]
    assert losses
    assert all(row["introspection/kl_loss"] >= 0 for row in losses)

    probes = probe_set.split("probe")
    now = tuple(plainly(trainer.model, probe) for probe in probes)
    assert any(rollout.behavior != probe.behavior for rollout, probe in zip(now, probes, strict=True))
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        run = history.find_run("refusing")
        rounds = history.rounds(run.id)
        assert [taken.step for taken in rounds] == [0, 6, 12]
        assert rounds[0].scores["refusal"].behavior.both == 1.0, "the first round is of M0"
        assert rounds[-1].scores == score_by_task(now, probes)
        assert history.rollouts(run.id, 12) == list(now)
        shown = history.disagreements(run.id, 12, limit=None)
        by_id = {probe.example.id: probe.responses for probe in probes}
        assert shown
        for row in shown:
            m0 = by_id[row.example_id]
            assert row.m0_responses == Responses(m0.included, m0.ablated)
    capsys.readouterr()  # what the trainer printed
    report = json.loads(program("report", "refusing", "--db", str(tmp_path / "h.db"), "--format", "json").out)
    assert report["task"] == "refusal"
    assert report["rounds"][-1]["n"] == len(probes)
    assert report["rounds"][-1]["unjudged"] == 0
    by_example = {rollout.example_id: rollout for rollout in now}
    for example in report["examples"]:
        said, m0 = by_example[example["id"]].responses, by_id[example["id"]]
        assert example["responses"] == {"included": said.included, "ablated": said.ablated}
        assert example["m0_responses"] == {"included": m0.included, "ablated": m0.ablated}
    assert report["examples"]
    for shape in ("table", "markdown"):
        shown_as = program("report", "refusing", "--db", str(tmp_path / "h.db"), "--format", shape, width=200).out
        assert "wrote" in shown_as
        assert by_example[report["examples"][0]["id"]].responses.ablated[:30] in shown_as
    assert report["rounds"][-1]["behavior"]["both"] == rounds[-1].scores["refusal"].behavior.both


def free_examples() -> list[MixExample]:
    probe_set = refusal_probe_set()
    train = probe_set.split("train")[:12]
    end = refusing_tokenizer().eos_token_id
    return [
        MixExample.of(encoded, probe.behavior, probe.labels["orig"], end)
        for encoded, probe in zip(encode_set(refusing_tokenizer(), probe_set, train), train, strict=True)
    ]


def option_examples() -> list[MixExample]:
    train = refusal_probe_set().split("train")[12:24]
    examples = [replace(probe.example, options=("Sure", "I")) for probe in train]
    encoded = encode_probes(refusing_tokenizer(), examples, [probe.rendered for probe in train])
    behavior, end = Behavior("Sure", "I"), refusing_tokenizer().eos_token_id
    return [MixExample.of(probe, behavior, Explanation(True, "I"), end) for probe in encoded]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kinds", ["free", "both"])
def test_the_kl_runs_over_every_token_that_m0_wrote(kinds: str, packed: bool, tmp_path: Path) -> None:
    """Against a loop that writes the objective out: M0 as a second model, every token of its own responses."""
    config = IntrospectionConfig(explanation_weight=0.7, kl_weight=1.3, mix_batch_size=8, reference_top_k=None)
    examples = free_examples() + (option_examples() if kinds == "both" else [])
    m0, model = refusing_model().eval(), refusing_model()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours = Mixer(examples, config, content_hash="x", packed=packed)
    ours.capture_reference(m0, tmp_path / "reference.safetensors", steps=5)
    losses = ours.backward(model, step=1)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    probes = {probe.example.id: probe for probe in refusal_probe_set().probes}
    drawn = [examples[i] for i in ours.draw(1)]
    nll, tokens = torch.zeros(()), 0
    divergences: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    counts = {True: 0, False: 0}
    for example in drawn:
        probe = probes[example.id]
        question = refusing_tokenizer()(probe.rendered.question, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([question + list(example.targets)])).logits[0, len(question) - 1 : -1]
        nll = nll - logits.log_softmax(-1)[range(len(example.targets)), list(example.targets)].sum()
        tokens += len(example.targets)
        is_free = example in free_examples()
        counts[is_free] += 1
        for prompt, answer in (
            (probe.rendered.included, written(m0, probe.rendered.included, CAP) if is_free else [0]),
            (probe.rendered.ablated, written(m0, probe.rendered.ablated, CAP) if is_free else [0]),
        ):
            asked = refusing_tokenizer()(prompt, add_special_tokens=False)["input_ids"]
            inputs = torch.tensor([asked + answer])
            now = model(inputs).logits[0, len(asked) - 1 : -1].log_softmax(-1)
            with torch.no_grad():
                then = m0(inputs).logits[0, len(asked) - 1 : -1].log_softmax(-1)
            divergences[is_free] += list((then.exp() * (then - now)).sum(-1))
    # A mean over the tokens of each kind, the kinds weighted by their examples.
    kl = sum(counts[kind] / len(drawn) * torch.stack(some).mean() for kind, some in divergences.items() if some)
    assert (counts[False] > 0) == (kinds == "both")
    (0.7 * (nll / tokens + 1.3 * kl)).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=2e-5), name
    assert max(value.abs().max() for value in found.values()) > 1e-2
    assert losses.kl is not None
    assert float(losses.kl) == pytest.approx(float(kl), rel=1e-4)
    assert float(losses.explanation) == pytest.approx(float(nll / tokens), rel=1e-4)


def test_through_an_endpoint_a_build_and_a_round_are_the_local_ones() -> None:
    completions = Completions(refusing_model().eval(), refusing_tokenizer())
    with serving(completions) as url, Endpoint(url) as endpoint:
        interview = Interview(endpoint)
        remote, _ = build_probe_set(refusal_task(), interview, refusing_tokenizer(), n=16, probe_share=0.4)
        local, _ = build_probe_set(refusal_task(), refusing_model(), refusing_tokenizer(), n=16, probe_share=0.4)
        assert remote.probes == local.probes
        assert remote.content_hash == local.content_hash
        probes = local.split("probe")
        progress: list[int] = []
        taken = interview.measure(probes, step=2, judging=local.manifest.judging, progress=progress.append)
    assert taken.rollouts == tuple(plainly(refusing_model(), probe) for probe in probes)
    assert sum(progress) == 3 * len(probes)  # two answers and an explanation of each


def test_iprobe_builds_and_measures_a_judged_task(program: Program, tmp_path: Path) -> None:
    probe_set = refusal_probe_set()
    probe_set.save(tmp_path / "set")
    db = str(tmp_path / "h.db")
    program("probe", "--model", str(refusing_folder()), "--probes", str(tmp_path / "set"), "--db", db, "--step", "4")
    completions = Completions(refusing_model().eval(), refusing_tokenizer())
    with serving(completions) as url:
        arguments = ("--endpoint", url, "--probes", str(tmp_path / "set"), "--db", db, "--step", "5", "--run", "remote")
        program("probe", *arguments)
    expected = [plainly(refusing_model(), probe) for probe in probe_set.split("probe")]
    with History.open(db, must_exist=True) as history:
        local, remote = history.find_run("refusing"), history.find_run("remote")
        assert history.rollouts(local.id, 4) == history.rollouts(remote.id, 5) == expected


def test_where_the_judge_gives_no_verdict_nothing_is_known_and_nothing_is_guessed(
    judging: JudgingServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"endpoint:m@{judging.url}"
    task = refusal_task(judge=name)
    judging.silent_on = "kite?"  # one thing of twenty
    probe_set, summary = build_probe_set(task, refusing_model(), refusing_tokenizer(), n=80, probe_share=0.4)
    asked = [probe.example.ablated[-1]["content"] for probe in probe_set.probes]
    assert not any("kite?" in prompt for prompt in asked)
    assert summary.unjudged == 80 - len(asked) > 0
    assert any(f"{summary.unjudged} questions have no verdict" in warning for warning in summary.warnings)
    assert probe_set.manifest.judging is not None
    assert (probe_set.manifest.judging.judge, len(probe_set.manifest.judging.version)) == (name, 8)

    probes = probe_set.split("probe")
    things = [probe.example.ablated[-1]["content"].split()[-1] for probe in probes]
    few = min(things, key=things.count)
    assert things.count(few) <= len(probes) // 10
    judging.silent_on = few
    judging.forget()
    prober = Prober(refusing_tokenizer(), encode_set(refusing_tokenizer(), probe_set, probes))
    taken = prober.measure(refusing_model(), step=1)
    assert f"gave no verdict on {things.count(few)} of {len(probes)} examples, which are not measured" in caplog.text
    missing = [p.example.id for p, thing in zip(probes, things, strict=True) if thing == few]
    assert list(taken.unjudged) == missing != []
    assert [rollout.example_id for rollout in taken.rollouts] == [p.example.id for p in taken.measured(probes)]
    scores = score_by_task(taken.rollouts, taken.measured(probes))["refusal"]
    assert scores.n == len(probes) - len(missing)
    assert scores.behavior.both == 1.0, "what is not measured is no mismatch"

    verbs = Counter(probe.example.ablated[-1]["content"].rsplit(" a ", 1)[0] for probe in probes)
    judging.silent_on, times = verbs.most_common(1)[0]  # too many, and never eight in a row
    assert times > len(probes) // 10
    judging.forget()
    with pytest.raises(IntrospectionError, match=rf"on {times} of {len(probes)} examples, and more than 10% without"):
        Prober(refusing_tokenizer(), prober.probes).measure(refusing_model(), step=2)
    with pytest.raises(IntrospectionError, match=r"gave no verdict on \d+ of 80 examples"):
        build_probe_set(task, refusing_model(), refusing_tokenizer(), n=80)


def test_a_judge_that_is_down_fails_the_round_and_not_the_run(judging: JudgingServer, tmp_path: Path) -> None:
    task = refusal_task(judge=f"endpoint:m@{judging.url}")
    probe_set, _ = build_probe_set(task, refusing_model(), refusing_tokenizer(), n=40, probe_share=0.5)
    callback = IntrospectionCallback(
        probe_set, db=str(tmp_path / "h.db"), run_name="down", probe_every=2, kl_weight=0.0, mix_batch_size=2
    )
    judging.silent_on = ""  # on everything
    judging.forget()
    trainer = pulled(tmp_path / "out", callback, steps=2)
    before = judging.requests
    trainer.train()
    assert trainer.state.global_step == 2
    # After eight failures in a row, of five attempts each, the rest is not asked: sixteen where eight ask at a time.
    assert 0 < judging.requests - before <= 2 * 16 * 5
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert history.rounds(history.find_run("down").id) == []


def test_another_version_of_the_judge_is_told(caplog: pytest.LogCaptureFixture) -> None:
    probe_set = refusal_probe_set()
    probes = probe_set.split("probe")[:2]
    encoded = encode_set(refusing_tokenizer(), probe_set, probes)
    older = [
        replace(probe, free=replace(probe.free, judging=replace(probe.free.judging, version="0"))) for probe in encoded
    ]
    Prober(refusing_tokenizer(), encoded).measure(refusing_model(), step=0)
    assert "version" not in caplog.text
    Prober(refusing_tokenizer(), older).measure(refusing_model(), step=0)
    assert "M0 was judged by version 0 of the judge rules" in caplog.text


def test_the_probe_side_has_as_many_of_each_answer_and_whole_groups_move() -> None:
    def probe(number: int, group: str, ablated: str, split: Any) -> Probe:
        base = refusal_probe_set().probes[0]
        behavior = Behavior("comply", ablated)
        example = replace(base.example, id=str(number), group=group)
        return replace(base, example=example, split=split, behavior=behavior, labels={"orig": behavior.explanation})

    told = [("a", "comply")] * 2 + [("b", "comply"), ("c", "refuse"), ("d", "comply"), ("e", "refuse"), ("f", "comply")]
    probes = [probe(i, group, answer, "probe") for i, (group, answer) in enumerate(told)]
    probes.append(probe(9, "t", "comply", "train"))
    done = balance_ablated(probes)
    measured = [p for p in done if p.split == "probe"]
    assert [p.behavior.ablated for p in measured].count("comply") == 2
    assert [p.behavior.ablated for p in measured].count("refuse") == 2
    assert {p.example.group for p in measured} == {"a", "c", "e"}
    assert [p.example.id for p in done] == [p.example.id for p in probes]
    assert done[-1] == probes[-1]
    # Nothing to balance.
    same = [p for p in probes if p.behavior.ablated == "comply"]
    assert balance_ablated(same) == same
