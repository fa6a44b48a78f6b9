"""What a run says when it opens, before hours are spent: notes for readers of its results, and what changed since."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
from transformers import PreTrainedModel

from cca.engines.decoding import context_length
from cca.evaluation.retention import solution_texts
from cca.gradients.sampled_likelihood import Text, solution_log_probabilities
from cca.models.loading import embedding_rows
from cca.pivots.traces import Grader
from cca.problems.problem import Problem
from cca.runs.folder.provenance import versions
from cca.runs.folder.run_folder import RunFolder
from cca.runs.progress import RunProgress

BEGIN_TEXTS, BEGIN_TOKENS = 20, 256
"""Texts, and tokens of each, that tell what a token at the beginning does."""
NO_RETENTION = (
    "no retention sets: drift and other skills are not measured and the budget guards nothing; "
    "circuit and whitening, where they are auto, fall back to attribution and plain steps"
)


def note_on_begin(model: PreTrainedModel, grader: Grader, problems: Sequence[Problem]) -> str | None:
    """A note where the tokenizer names a token that begins texts and prompts do not begin with it, as some models are
    crippled without it and others do not know it: nats per token with and without, on the first problems.

    None where prompts begin with the token, or there is none. Every process of a sharded model must call it.
    """
    begin = grader.codec.tokenizer.bos_token_id
    if not isinstance(begin, int):
        return None
    longest = min(BEGIN_TOKENS, context_length(model) - 1)
    solved = solution_texts(problems[:BEGIN_TEXTS], grader)
    texts = [(*text.prompt, *text.solution)[:longest] for text in solved]
    texts = [text for text in texts if len(text) > 1 and text[0] != begin]
    if not texts or begin >= embedding_rows(model):
        return None
    without = _nats_per_token(model, [Text(text[:1], text[1:]) for text in texts])
    within = _nats_per_token(model, [Text((begin, text[0]), text[1:]) for text in texts])
    return (
        f"prompts do not begin with the tokenizer's {grader.codec.tokenizer.bos_token}: {without:.2f} nats per token "
        f"as they are, {within:.2f} with it in front ({len(texts)} training problems)"
    )


def _nats_per_token(model: PreTrainedModel, texts: Sequence[Text]) -> float:
    """Mean negative log-probability of the texts' solution tokens, in nats."""
    total = 0.0
    with torch.inference_mode():
        for text in texts:  # one at a time: a large vocabulary's logits of all would fill the memory
            log_probabilities = solution_log_probabilities(model, [text])
            own = torch.tensor(text.solution, device=log_probabilities.device)[:, None]
            total -= float(log_probabilities.gather(1, own).double().sum())
    return total / sum(len(text.solution) for text in texts)


def first_day(folder: RunFolder, fork_of: Path | None = None) -> date:
    """The day that chat templates write into prompts: the one the run, or the run it forks, began with; else today."""
    for known in (folder, *([RunFolder(fork_of)] if fork_of is not None else [])):
        prompt = known.manifest().get("task", {}).get("prompt", {}) if known.begun else {}
        if written := prompt.get("date"):
            return date.fromisoformat(written)
    return date.today()


def say_what_changed(folder: RunFolder, progress: RunProgress, device: str) -> None:
    """Say that a run resumes after a kill, and with which other versions and device."""
    if not folder.begun:
        return
    if folder.killed is not None:
        progress.say(f"{folder.killed} was killed; going on from the last whole chunk")
    manifest = folder.manifest()
    then, now = manifest["versions"], versions()
    before = manifest.get("hardware", {}).get("device") or device
    changed = {
        "device": [f"{before} -> {device}"] if before != device else [],
        "versions": [f"{name} {then.get(name)} -> {now[name]}" for name in now if now[name] != then.get(name)],
    }
    for what, changes in changed.items():
        if changes:
            said = f"{what} changed since this run began, results may differ in the last digit"
            progress.say(f"{said}: {', '.join(changes)}")
