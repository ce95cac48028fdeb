"""Several tasks in one run: mixed by weight, measured and kept apart, resumed together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from runs import (
    cues_file,
    cues_probe_set,
    embedded_model,
    embedded_tokenizer,
    encoded,
    largest_difference,
    sft,
    small_probe_set,
    weights,
)
from safetensors import safe_open
from transformers import TrainerCallback

from introspection_probe import IntrospectionCallback, IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
from introspection_probe.mixture import Mixture, Part, read_ingredients
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.manifest import read_manifest
from introspection_probe.records import Explanation
from introspection_probe.rollout import Prober
from introspection_probe.scoring import score_by_task


@pytest.fixture(scope="module")
def cues(tmp_path_factory: pytest.TempPathFactory) -> ProbeSet:
    """In another style than the Jabberwocky set, with an answer prefix of its own."""
    return cues_probe_set(tmp_path_factory.mktemp("cues"), style="answer")


class Page(TrainerCallback):
    """The metrics page as it is at the end."""

    def __init__(self, callback: IntrospectionCallback) -> None:
        self._callback = callback
        self.text = ""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with urlopen(f"http://127.0.0.1:{self._callback.metrics_port}/metrics", timeout=5) as page:
            self.text = page.read().decode()


def of_another_source(probe_set: ProbeSet, **example: Any) -> ProbeSet:
    """The same set with other examples' fields."""
    return ProbeSet.from_probes(
        [replace(probe, example=replace(probe.example, **example)) for probe in probe_set.probes],
        task=probe_set.task,
        style=probe_set.style,
        tokenizer=embedded_tokenizer(),
    )


def test_a_run_of_two_tasks_is_measured_as_each_alone_and_told_by_task(cues: ProbeSet, tmp_path: Path) -> None:
    jabberwocky = small_probe_set()
    callback = IntrospectionCallback(
        [(jabberwocky, 3.0), (cues, 1.0)],
        db=tmp_path / "h.db",
        probe_every=2,
        max_probes=15,
        prometheus_port=0,
        on_error="raise",
    )
    page = Page(callback)
    trainer = sft(tmp_path / "out", callbacks=[callback, page], max_steps=4)
    trainer.train()

    alone = {}
    for probe_set in (jabberwocky, cues):
        taken = Prober(embedded_tokenizer(), encoded(probe_set)[:15]).measure(trainer.model, step=4)
        alone |= score_by_task(taken.rollouts, probe_set.split("probe")[:15])
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        run = history.find_run(None)
        assert run.tasks == ("jabberwocky", "cues")
        assert history.content_hashes(run.id) == {jabberwocky.content_hash, cues.content_hash}
        rounds = history.rounds(run.id)
        assert [round_.step for round_ in rounds] == [0, 2, 4]
        # A history does not keep what adding scores up needs.
        assert {t: s.self_scores.exact_matches for t, s in rounds[-1].scores.items()} == {
            t: s.self_scores.exact_matches for t, s in alone.items()
        }
        assert {t: s.behavior for t, s in rounds[-1].scores.items()} == {t: s.behavior for t, s in alone.items()}
        for task, probe_set in (("jabberwocky", jabberwocky), ("cues", cues)):
            asked = [rollout.example_id for rollout in history.rollouts(run.id, 4, task=task)]
            assert asked == [probe.example.id for probe in probe_set.split("probe")[:15]]
            assert {example.task for example in history.disagreements(run.id, 4, task=task)} <= {task}
    for task in alone:
        assert f'iprobe_probe_examples{{run="out",task="{task}"}} 15.0' in page.text
        assert any(f"introspection/{task}/self_exact_match" in row for row in trainer.state.log_history)


def test_what_is_mixed_in_follows_the_weights_and_a_set_of_weight_0_is_only_measured(
    cues: ProbeSet, tmp_path: Path
) -> None:
    def mixed(weight: float) -> Counter[str]:
        """M0's distributions are kept for exactly the examples that a run will draw."""
        out = tmp_path / f"{weight}"
        callback = IntrospectionCallback(
            [(small_probe_set(), 3.0), (cues, weight)], db=tmp_path / "h.db", mix_batch_size=8, probe_every=9
        )
        sft(out, callbacks=[callback], max_steps=3).train()
        with safe_open(out / "introspection" / "reference.safetensors", "pt") as file:
            index = file.metadata()["index"]
        ids = {p.example.id: p.example.task for s in (small_probe_set(), cues) for p in s.split("train")}
        return Counter(task for example, task in ids.items() if f'["{example}", "included"' in index)

    assert mixed(1.0) == {"jabberwocky": 18, "cues": 6}
    assert mixed(0.0) == {"jabberwocky": 24}
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert set(history.rounds(history.find_run("0.0").id)[-1].scores) == {"jabberwocky", "cues"}


def test_a_mixture_of_one_trains_exactly_as_the_set_alone(tmp_path: Path) -> None:
    def trained(probes: Any) -> dict[str, torch.Tensor]:
        callback = IntrospectionCallback(probes, db=tmp_path / "h.db", probe_at_start=False, probe_at_end=False)
        trainer = sft(tmp_path / "out", callbacks=[callback], max_steps=3)
        trainer.train()
        return weights(trainer.model)

    assert largest_difference(trained(small_probe_set()), trained([(small_probe_set(), 7.0)])) == 0.0


def test_a_resumed_run_of_built_sets_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    def trainer() -> Any:
        callback = IntrospectionCallback(
            {"jabberwocky": 2.0, "cues": 1.0},
            db=tmp_path / "h.db",
            task_options={"cues": {"data": cues_file(tmp_path)}},
            n_examples=40,
            probe_every=2,
            on_error="raise",
        )
        return sft(tmp_path / "out", callbacks=[callback], max_steps=6, save_strategy="steps", save_steps=3)

    def rounds() -> list[Any]:
        with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
            (run,) = history.runs()
            return [(r.step, r.scores, history.rollouts(run.id, r.step)) for r in history.rounds(run.id)]

    whole = trainer()
    whole.train()
    measured = rounds()
    built = tmp_path / "out" / "introspection" / "probes"
    made = {folder.name: read_manifest(folder) for folder in built.iterdir()}
    assert made["cues"].task_options == {"data": str(tmp_path / "cues.jsonl")}
    assert made["jabberwocky"].model == str(embedded_model().name_or_path)

    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert rounds() == measured
    assert largest_difference(weights(resumed.model), weights(whole.model)) == 0.0

    (built / "cues").rename(tmp_path / "elsewhere")
    with pytest.raises(IntrospectionError, match=r"no probe set of 'cues' in .*put the folder back"):
        trainer().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))


def test_the_combined_hash_is_of_the_sets_whatever_their_order(cues: ProbeSet) -> None:
    one, other = Part("a", small_probe_set(), 2.0), Part("b", cues)
    assert Mixture((one,)).content_hash == small_probe_set().content_hash
    assert Mixture((one, other)).content_hash == Mixture((other, one)).content_hash
    assert Mixture((one, other)).content_hash not in (one.probe_set.content_hash, cues.content_hash)


def test_sets_that_do_not_go_together_are_refused_by_name(cues: ProbeSet, tmp_path: Path) -> None:
    jabberwocky = small_probe_set()
    again = small_probe_set(seed=1).save(tmp_path / "again")
    first = min(probe.example.id for probe in jabberwocky.probes)
    same_ids = of_another_source(jabberwocky, task="other")
    labels = {probe.example.id: Explanation(True, probe.example.options[0]) for probe in jabberwocky.probes}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ([jabberwocky, again], {}, "'jabberwocky' and 'again' are both of task 'jabberwocky'"),
        ([jabberwocky, same_ids], {}, f"both have an example {first!r} \\(60 in all\\)"),
        ([jabberwocky.with_labels("llama", labels), cues], {"supervision": "llama"}, "'cues' has the label sets orig"),
    ]
    for probes, config, said in cases:
        with pytest.raises(IntrospectionError, match=said) as caught:
            sft(tmp_path / "out", callbacks=[IntrospectionCallback(probes, db=tmp_path / "h.db", **config)]).train()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("probes", "config", "said"),
    [
        ([], {}, "no probe set was named"),
        ({"jabberwocky": -1}, {}, "weight of 'jabberwocky' is -1"),
        ({"jabberwocky": "2"}, {}, "weight of 'jabberwocky' is '2'"),
        ({"jabberwocky": float("nan")}, {}, "weight of 'jabberwocky' is nan"),
        ({"jabberwocky": 0}, {}, "every probe set has weight 0"),
        (["jabberwocky", 5], {}, "5 is no probe set"),
        (["jabberwocky", "nowhere"], {}, "'nowhere' is neither"),
        (["jabberwocky", "jabberwocky"], {}, "both of task 'jabberwocky'"),
        ("jabberwocky", {"task_options": {"cues": {}}}, "task_options has options for 'cues'"),
        ("jabberwocky", {"task_options": {"jabberwocky": {"wings": 2}}}, "no option 'wings'"),
        ("jabberwocky", {"task_options": {"jabberwocky": 3}}, "task_options is .* a dict of options by task"),
    ],
)
def test_bad_mixtures_are_refused_when_the_callback_is_made(probes: Any, config: dict[str, Any], said: str) -> None:
    with pytest.raises(IntrospectionError, match=said) as caught:
        IntrospectionCallback(probes, **config)
    assert "\n" not in str(caught.value)


def test_names_are_the_folders_and_weights_are_kept(tmp_path: Path) -> None:
    folder = small_probe_set().save(tmp_path / "my-set")
    (one,) = read_ingredients(folder)
    assert (one.name, one.weight, one.source) == ("my-set", 1.0, small_probe_set())
    named = read_ingredients({str(folder): 2, "cues": 0.5}, {"cues": {"data": cues_file(tmp_path)}})
    assert [(item.name, item.weight) for item in named] == [("my-set", 2.0), ("cues", 0.5)]
    assert IntrospectionConfig(task_options={"cues": {}}).task_options == {"cues": {}}
