"""A run compared with an earlier one that was pinned: the right round, the same examples, or a clear refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_program import Program
from runs import cues_probe_set, embedded_model, sft, small_probe_set

from introspection_probe import IntrospectionCallback
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History, RunRow
from introspection_probe.records import Alert


def drifted_model() -> Any:
    """A model that answers otherwise than M0, whatever is done with it."""
    model = embedded_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def run(
    folder: Path, name: str, *, model: Any = None, probes: Any = None, steps: int = 1, **config: Any
) -> list[Alert]:
    """A short run that changes next to nothing; the alarms it raised."""
    told: list[Alert] = []
    resume = config.pop("resume", None)
    callback = IntrospectionCallback(
        probes or small_probe_set(),
        db=folder / "h.db",
        run_name=name,
        explanation_weight=0,
        probe_every=1,
        on_alert=told.append,
        on_error="raise",
        **config,
    )
    arguments = {"learning_rate": 1e-7, "max_steps": steps, "save_strategy": "steps", "save_steps": 1}
    trainer = sft(folder / name, callbacks=[callback], model=model, **arguments)
    trainer.train(resume_from_checkpoint=resume)
    return [alert for alert in told if alert.active]


def find(folder: Path, ref: str | None) -> RunRow:
    with History.open(str(folder / "h.db"), must_exist=True) as history:
        return history.find_run(ref)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history with one run, ``m0``, with rounds at steps 0 and 1."""
    folder = tmp_path_factory.mktemp("baseline")
    run(folder, "m0")
    return folder


def test_a_run_is_judged_against_the_pinned_round_from_its_first_round_on(start: Path) -> None:
    assert "behavior_drifted" not in {alert.name for alert in run(start, "own", model=drifted_model())}
    raised = {alert.name: alert.step for alert in run(start, "pinned", model=drifted_model(), baseline="m0@0")}
    assert raised["behavior_drifted"] == 0
    pinned = find(start, "pinned").config["baseline"]
    assert pinned == {"asked": "m0@0", "uid": find(start, "m0").uid, "name": "m0", "step": 0}


def test_a_baseline_is_found_by_number_uid_and_name_and_is_the_last_round_unless_a_step_is_given(start: Path) -> None:
    m0 = find(start, "m0")
    for asked, step in ((str(m0.id), 1), (m0.uid[:12], 1), ("m0", 1), (f"{m0.id}@0", 0)):
        run(start, "later", baseline=asked)
        kept = find(start, "later").config["baseline"]
        assert (kept["uid"], kept["step"]) == (m0.uid, step)


def test_a_resumed_run_keeps_the_baseline_that_its_words_meant_at_first(tmp_path: Path) -> None:
    run(tmp_path, "nightly")
    first = find(tmp_path, None).uid
    # The next night's run has the same name, and by the time it is resumed it is the latest of that name.
    run(tmp_path, "nightly", baseline="nightly")
    second = find(tmp_path, None)
    assert second.uid != first
    run(tmp_path, "nightly", baseline="nightly", steps=2, resume=True)
    resumed = find(tmp_path, None)
    assert resumed.uid == second.uid
    assert resumed.step == 2
    assert resumed.config["baseline"]["uid"] == second.config["baseline"]["uid"] == first


def test_what_cannot_be_compared_is_refused_at_train_begin_in_one_sentence(start: Path, tmp_path: Path) -> None:
    cues = cues_probe_set(tmp_path)
    cases: list[tuple[str, Any, str]] = [
        ("m9", None, r"baseline is 'm9': no run 'm9' in the history .*did you mean 'm0'"),
        ("m9@3", None, r"baseline is 'm9@3': no run 'm9'"),
        ("m0@7", None, r"run 'm0' has no round at step 7, but at 0, 1$"),
        ("m0", cues, r"run 'm0' was not measured with the probe set 'cues' .*iprobe probe"),
        ("m0", [small_probe_set(), cues], r"run 'm0' was not measured with the probe set 'cues'"),
    ]
    for asked, probes, said in cases:
        with pytest.raises(IntrospectionError, match=said) as caught:
            run(start, "refused", baseline=asked, probes=probes)
        assert "\n" not in str(caught.value)
    with pytest.raises(IntrospectionError, match="baseline is 'm0': no history at"):
        run(tmp_path, "refused", baseline="m0")
    with pytest.raises(IntrospectionError, match="baseline is ''"):
        IntrospectionCallback(small_probe_set(), baseline="")


def test_a_run_whose_name_has_a_step_in_it_is_found_by_that_name(start: Path) -> None:
    run(start, "trial@0")
    run(start, "later", baseline="trial@0")
    kept = find(start, "later").config["baseline"]
    assert (kept["name"], kept["step"]) == ("trial@0", 1)


def test_follow_takes_a_baseline(start: Path, tmp_path: Path, program: Program) -> None:
    probes = small_probe_set().save(tmp_path / "probes")
    out = tmp_path / "out"
    drifted_model().save_pretrained(out / "checkpoint-1")
    from runs import embedded_tokenizer

    embedded_tokenizer().save_pretrained(out / "checkpoint-1")
    follow = ("follow", out, "--probes", probes, "--db", start / "h.db", "--once", "--poll", "0.1")
    missing = program(*follow, "--baseline", "m9")
    assert missing.code == 2
    assert "no run 'm9'" in missing.err
    done = program(*follow, "--baseline", "m0@0")
    assert done.code == 0, done.err
    assert "behavior_drifted" in done.err
    assert find(start, "out").config["baseline"]["name"] == "m0"
