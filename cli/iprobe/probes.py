"""`iprobe probes`: look into a probe set, join sets, add labels, publish. Nothing is changed in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from introspection_probe.errors import IntrospectionError
from iprobe.console import Format, note, stdout_console, write, write_json
from iprobe.console import show as print_result
from iprobe.options import FormatOption
from iprobe.text import safe_text
from iprobe.torch_models import DeviceOption, DtypeOption, counting, open_model, open_tokenizer, progress_bar

if TYPE_CHECKING:
    from introspection_probe.probe_set import ProbeSet

probes = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@probes.callback()
def group() -> None:
    """Look into probe sets, join them, add labels, publish them.

    A set is never changed: whatever changes something makes a new one.
    """


SetArgument = Annotated[Path, typer.Argument(metavar="SET", help="Folder of the probe set.")]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make; nothing is overwritten.")]


@probes.command()
def show(
    probe_set: SetArgument,
    n: Annotated[int, typer.Option("--n", min=0, metavar="N", help="Examples to show; 0 for the summary alone.")] = 3,
    identity: Annotated[str | None, typer.Option("--id", metavar="ID", help="Show this example.")] = None,
    split: Annotated[str, typer.Option(metavar="SIDE", help="Show examples of this side: probe or train.")] = "probe",
    format_: FormatOption = Format.table,
) -> None:
    """Show what a probe set is, and examples with the cue marked: the prompts, what M0 answers, the labels."""
    from introspection_probe.probe_set import ProbeSet
    from iprobe.probes_show import set_json, set_markdown, set_table

    if split not in ("probe", "train"):
        raise IntrospectionError(f"there is no side {split!r}: choose probe or train")
    loaded = ProbeSet.load(probe_set)
    if identity is not None:
        chosen = [probe for probe in loaded.probes if probe.example.id == identity]
        if not chosen:
            raise IntrospectionError(f"{probe_set} has no example {identity!r}: leave --id out to see some that it has")
    else:
        chosen = [probe for probe in loaded.probes if probe.split == split][:n]
    if format_ is Format.json:
        write_json(set_json(loaded, chosen))
    elif format_ is Format.markdown:
        write(set_markdown(loaded, chosen))
    else:
        print_result(stdout_console(), set_table(loaded, chosen))


@probes.command()
def merge(
    sets: Annotated[list[Path], typer.Argument(metavar="SET...", help="Probe sets, or all shards of one build.")],
    out: OutOption,
    tokenizer_of: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="PATH", help="The tokenizer they were built with. By default where they say it was."
        ),
    ] = None,
) -> None:
    """Join probe sets of one task and model, or the shards of `iprobe build --shard`.

    Shards become the set that one process would have built. Of sets, an example that two have is taken once, and a
    question that stands on different sides stays where the first set has it.
    """
    from introspection_probe.probe_set import SHARD, ProbeSet
    from introspection_probe.probe_set.folders import check_free

    check_free(out)
    shards = [(folder / SHARD).exists() for folder in sets]
    if any(shards):
        if not all(shards):
            odd = sets[shards.index(False)]
            raise IntrospectionError(f"{odd} is no shard of a build, and the others are: give shards alone")
        from introspection_probe.building.shards import load_shard, merge_shards
        from iprobe.build_summary import build_summary

        tokenizer = open_tokenizer(tokenizer_of or load_shard(sets[0]).plan.tokenizer)
        whole, summary = merge_shards(sets, tokenizer)
        whole.save(out)
        stdout_console().print(build_summary(whole, summary, out))
        return
    loaded = [ProbeSet.load(folder) for folder in sets]
    from introspection_probe.building.merge import merge_sets

    merged, done = merge_sets(loaded, open_tokenizer(tokenizer_of or loaded[0].manifest.tokenizer))
    merged.save(out)
    _saved(merged, out)
    for count, what in (
        (done.duplicates, "examples were there already and were taken once"),
        (done.moved, "examples changed sides, since an earlier set has their question on the other one"),
        (done.renamed, "examples got a new id, since an earlier set has theirs for another example"),
        (
            len(done.dropped_labels),
            f"label sets are not in all sets and were left out: {', '.join(done.dropped_labels)}",
        ),
    ):
        if count:
            write(f"{count} {safe_text(what, 400)}.")


@probes.command()
def relabel(
    probe_set: SetArgument,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new label set.")],
    out: OutOption,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Label with the behaviour of this model: a folder or a hub name."),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...", help="Draw each question's label from one of these, as orig=0.5,llama=0.5."
        ),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Replace this share of the labels by other possible ones.")
    ] = None,
    base: Annotated[
        str, typer.Option("--from", metavar="NAME", help="With --noise: the labels to start from.")
    ] = "orig",
    seed: Annotated[int, typer.Option(metavar="SEED", help="With --mix and --noise: which labels.")] = 0,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Add a label set: another model's, a mixture of two, or one with noise.

    To train on it, give the callback the new set and supervision="NAME".
    """
    from introspection_probe.probe_set import ProbeSet
    from introspection_probe.probe_set.folders import check_free
    from introspection_probe.probe_set.label_sets import mixed_labels, noisy_labels

    if sum(given is not None for given in (model, mix, noise)) != 1:
        raise IntrospectionError("nothing or too much says where the labels come from: give --model, --mix or --noise")
    check_free(out)
    loaded = ProbeSet.load(probe_set)
    origin: dict[str, Any]
    if mix is not None:
        shares = _shares(mix)
        labels = mixed_labels(loaded, shares, seed)
        origin = {"mix": shares, "seed": seed}
    elif noise is not None:
        labels = noisy_labels(loaded, noise, seed, base)
        origin = {"noise": noise, "from": base, "seed": seed}
    else:
        loaded.with_labels(name, {p.example.id: p.labels["orig"] for p in loaded.probes})  # is the name a good one?
        other, tokenizer = open_model(str(model), device, dtype)
        from introspection_probe.building.relabelling import labels_of_model
        from introspection_probe.models import model_fingerprint

        with progress_bar() as progress:
            advance = counting(progress, name, len(loaded.probes))
            labels = labels_of_model(loaded, other, tokenizer, progress=advance)
        origin = {"model": model, "model_fingerprint": model_fingerprint(other)}
    agreeing = sum(labels[probe.example.id] == probe.labels["orig"] for probe in loaded.probes)
    labelled = loaded.with_labels(name, labels, origin={**origin, "agreement": agreeing / len(loaded.probes)})
    labelled.save(out)
    _saved(labelled, out)
    write(f"{agreeing} of {len(loaded.probes)} labels ({agreeing / len(loaded.probes):.0%}) are those of M0.")


@probes.command()
def push(
    probe_set: SetArgument,
    repo: Annotated[str | None, typer.Argument(metavar="REPO", help="Data set on the hub, such as you/probes.")] = None,
    to_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what would be published into this folder instead.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the data set a private one.")] = False,
) -> None:
    """Publish a probe set as a data set with a card.

    `datasets.load_dataset(REPO)` gives the two sides; a downloaded copy is a probe set that every command takes.
    """
    from introspection_probe.probe_set import ProbeSet
    from iprobe.publishing import publish, write_dataset

    if (repo is None) == (to_dir is None):
        raise IntrospectionError("nothing or too much says where to: give a REPO on the hub, or --to-dir DIR")
    loaded = ProbeSet.load(probe_set)
    if to_dir is not None:
        write_dataset(loaded, to_dir, str(to_dir))
        write(f"Written to {safe_text(str(to_dir), 400)}.")
    else:
        address = publish(loaded, str(repo), private=private)
        write(f"Published as {safe_text(address, 400)}.")
    note(f"The manifest names the model {safe_text(loaded.manifest.model, 200)!r} and the task's options.")


def _saved(made: ProbeSet, out: Path) -> None:
    train, probe = (len(made.split(side)) for side in ("train", "probe"))
    write(
        f"{train} examples to train on, {probe} to measure, labels {', '.join(made.label_sets)}; "
        f"saved in {safe_text(str(out), 400)} as {made.content_hash[:12]}."
    )


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        try:
            number = float(share)
        except ValueError:
            equals = ""
        if not equals or not name or name in shares:
            raise IntrospectionError(f"--mix {text!r} is not NAME=SHARE,NAME=SHARE: write it like orig=0.5,llama=0.5")
        shares[name] = number
    return shares
