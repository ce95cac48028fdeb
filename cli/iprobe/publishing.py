"""A probe set as a data set on the Hugging Face hub, with a card that says what it is.

README.md            the card; its head tells `datasets` where the two sides are
data/train.parquet   the examples to train on
data/probe.parquet   the examples to measure
manifest.json, examples.parquet   the probe set itself: a downloaded copy is one
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from introspection_probe.errors import IntrospectionError
from iprobe.text import markdown_text

if TYPE_CHECKING:
    from introspection_probe.probe_set import ProbeSet


def write_dataset(probe_set: ProbeSet, folder: Path, name: str) -> None:
    """Everything that is published, in a new folder.

    Args:
        name: what `load_dataset` will be given.

    Raises:
        IntrospectionError: the folder is there already, or cannot be written.
    """
    from introspection_probe.probe_set import EXAMPLES
    from introspection_probe.probe_set.folders import new_folder
    from introspection_probe.probe_set.manifest import write_manifest
    from introspection_probe.probe_set.rows import to_row, write_rows

    with new_folder(folder) as scratch:
        (scratch / "README.md").write_text(card(probe_set, name), encoding="utf-8")
        (scratch / "data").mkdir()
        for side in ("train", "probe"):
            rows = [to_row(probe) for probe in probe_set.probes if probe.split == side]
            write_rows(scratch / "data" / f"{side}.parquet", rows)
        write_rows(scratch / EXAMPLES, [to_row(probe) for probe in probe_set.probes])
        write_manifest(scratch, probe_set.manifest)


def publish(probe_set: ProbeSet, repo: str, *, private: bool) -> str:
    """Upload it in one commit; the data set's address. The same set again changes nothing.

    Raises:
        IntrospectionError: the hub holds another set under that name, or cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        address = str(api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True))
        if api.file_exists(repo, "manifest.json", repo_type="dataset"):
            there = json.loads(
                Path(api.hf_hub_download(repo, "manifest.json", repo_type="dataset")).read_text(encoding="utf-8")
            )
            if there.get("content_hash") == probe_set.content_hash:
                return address
            raise IntrospectionError(
                f"{repo} holds another probe set, and sets are never overwritten: choose another name, or delete it "
                "first"
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "set"
            write_dataset(probe_set, folder, repo)
            api.upload_folder(
                repo_id=repo,
                repo_type="dataset",
                folder_path=folder,
                commit_message=f"Probe set {probe_set.content_hash[:12]}",
            )
    except IntrospectionError:
        raise
    except Exception as error:  # the hub's client has no common base for what a network makes of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise IntrospectionError(
            f"{repo} cannot be published ({reason}): log in with `hf auth login` and check the name and the network, "
            "or write the folder with --to-dir"
        ) from error
    return address


def card(probe_set: ProbeSet, name: str) -> str:
    """The README of the data set."""
    manifest = probe_set.manifest
    count = len(probe_set.probes)
    size = "n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K" if count < 100_000 else "n>100K"
    changed = sum(probe.behavior.explanation.changed for probe in probe_set.probes)
    head = {
        "pretty_name": f"Probe set {manifest.task}",
        "tags": ["introspection-probe", "counterfactual", "explanations"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": side, "path": f"data/{side}.parquet"} for side in ("train", "probe")],
            }
        ],
    }
    facts = (
        ("task", manifest.task),
        ("starting model (M0)", manifest.model or "not named"),
        ("prompt style", manifest.style.name),
        ("examples to train on", str(manifest.counts["train"])),
        ("examples to measure", str(manifest.counts["probe"])),
        ("answers that the cue changes", f"{changed / count:.0%}"),
        ("label sets", ", ".join(manifest.label_sets)),
        ("rows from", str(manifest.build.get("source", "not told"))),
        ("seed", str(manifest.seed)),
        ("content hash", manifest.content_hash),
    )
    # JSON is YAML: no value of ours can end the head early or mean something else in it.
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""]
    lines += [f"# Probe set: {markdown_text(manifest.task, 100)}", ""]
    lines += [
        "Counterfactual questions: an input with a cue in it, the same input without the cue, and a question about "
        "what the cue did; with the answers of one model and the explanations that are true of them. Made with "
        "`introspection_probe`, which mixes such explanations into post-training and measures whether a model's "
        "explanations follow its behaviour (arXiv:2606.32038).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {what} | {markdown_text(value, 300)} |" for what, value in facts),
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        f'sides = load_dataset({json.dumps(name)})  # sides["train"], sides["probe"]',
        "```",
        "",
        "Do not train on the `probe` side: it is what is measured. As a probe set, in a run:",
        "",
        "```python",
        "from huggingface_hub import snapshot_download",
        "from introspection_probe import IntrospectionCallback",
        "",
        f'folder = snapshot_download({json.dumps(name)}, repo_type="dataset")',
        "callback = IntrospectionCallback(folder)",
        "```",
        "",
        "Columns: `included`, `ablated` and `question` are the messages of the three prompts and `rendered_...` the "
        "same as the model read them; `cue` is the cue's text and `cue_option` the answer that it points to; "
        "`behavior_included` and `behavior_ablated` are the model's answers with and without the cue; `labels` are the "
        "explanations, by label set.",
        "",
        "The texts are those of the rows' source and under its licence; the answers are a model's.",
    ]
    return "\n".join(lines) + "\n"
