"""The faults that `python -m tests.mutants` plants. Each names a module, a text in it, what stands there instead, the
tests that must notice, and why somebody would be misled by it."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    why: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]


REPORTED = ("tests/runs/test_reported.py",)

FAULTS = [
    Fault(
        "halves of a retention set overlap",
        "retention would be reported on problems that steps were chosen by",
        "cca.problems.task",
        "return list(problems[::2]), list(problems[1::2])",
        "return list(problems[::2]), list(problems[::2])",
        REPORTED,
    ),
    Fault(
        "retention reported on the guarding half",
        "steps that lose on it were refused, so it shows no loss",
        "cca.runs.evaluating",
        "halves(problems)[1] for name",
        "halves(problems)[0] for name",
        REPORTED,
    ),
    Fault(
        "validation on training problems",
        "the step would be chosen by what it was trained on",
        "cca.runs.validating",
        "answers(session, session.task.validation,",
        "answers(session, session.task.train,",
        REPORTED,
    ),
    Fault(
        "drift budget ignored",
        "a step may move everything else",
        "cca.runs.validating",
        "if not drift <= budget.drift:",
        "if False and not drift <= budget.drift:",
        REPORTED,
    ),
    Fault(
        "retention budget ignored",
        "a step may cost other skills",
        "cca.runs.validating",
        "if lost > max(1, math.floor(budget.points / 100 * len(guard))):",
        "if lost > len(guard):",
        REPORTED,
    ),
    Fault(
        "random controls held to the budget",
        "a control that may not move looks worse than it is",
        "cca.runs.evaluating",
        "    with _without_budget(session):\n",
        "    if True:\n",
        REPORTED,
    ),
    Fault(
        "a control matches at any accuracy",
        "the drift of the same gain would be that of no gain",
        "cca.runs.evaluating",
        'and record.validation.accuracy >= target["accuracy"]',
        "and record.validation.accuracy >= 0",
        REPORTED,
    ),
    Fault(
        "unseen templates are all templates",
        "what was trained on would count as generalisation",
        "cca.runs.evaluating",
        "{problem.template for problem in self.base.problems} - seen",
        "{problem.template for problem in self.base.problems}",
        REPORTED,
    ),
    Fault(
        "drift judged on what was fitted to",
        "text that circuits and steps were made to spare drifts least",
        "cca.runs.spared",
        "return guard[1::2] or guard",
        "return guard[::2]",
        REPORTED,
    ),
    Fault(
        "drift averaged over skills, not tokens",
        "one figure for all skills would depend on how they are cut into files",
        "cca.runs.evaluating",
        "sum(kl * count for kl, count in drifts.values()) / tokens if tokens else 0.0",
        "sum(kl for kl, count in drifts.values()) / len(drifts) if tokens else 0.0",
        REPORTED,
    ),
    Fault(
        "KL the other way round",
        "drift is the divergence of the patched from the base",
        "cca.evaluation.retention",
        "(base.exp() * (base - now)).sum()",
        "(now.exp() * (now - base)).sum()",
        ("tests/evaluation/test_retention.py", *REPORTED),
    ),
    Fault(
        "samples of a problem share a seed",
        "ten samples would be one, and hard problems never pair",
        "cca.pivots.traces",
        "request_seed(settings.seed, problem.id, sample)",
        "request_seed(settings.seed, problem.id)",
        ("tests/pivots/test_traces.py",),
    ),
    Fault(
        "branching trusts ties",
        "reading and writing disagree where the lead is within rounding",
        "cca.pivots.branching",
        " and self.path.margins[end] > TIE_MARGIN",
        "",
        ("tests/pivots/test_branching.py::test_a_reading_that_could_be_a_tie_is_generated",),
    ),
    Fault(
        "Fisher without the share of the inputs",
        "a few hundred texts leave most directions free by chance",
        "cca.amplify.preconditioner",
        "+ INPUTS * _scaled(block.inputs) ",
        "",
        ("tests/amplify/test_preconditioner.py",),
    ),
    Fault(
        "0.5 % equals 50",
        "a percentage has two readings, not three",
        "cca.problems.judges.quantities",
        "return (self.value, self.value / 100)",
        "return (self.value, self.value / 100, self.value * 100)",
        ("tests/problems/test_answers.py",),
    ),
    Fault(
        "a stop string that has begun is judged",
        "the next token may cut it away, and the verdict with it",
        "cca.problems.judges.stopping",
        "self.judge.finished(text[: len(text) - self._begun(text)])",
        "self.judge.finished(text)",
        ("tests/problems/test_prompts.py",),
    ),
    Fault(
        "the code judge takes any word for the token",
        "a program that says something and exits has passed nothing",
        "cca.problems.judges.code",
        "return os.read(receiving, len(token) + 1) == token.encode()",
        "return bool(os.read(receiving, len(token) + 1))",
        ("tests/problems/judges/test_code_judge.py",),
    ),
    Fault(
        "in place: rows not on disk when the journal goes",
        "a power cut leaves a model that is neither",
        "cca.patches.in_place",
        "placed, side, sync=True)",
        "placed, side, sync=False)",
        ("tests/patches/test_in_place.py",),
    ),
    Fault(
        "in place: journal written after the rows",
        "a kill between leaves a model that nothing can finish",
        "cca.patches.in_place",
        "        save_patch(model / JOURNALS[side], patch)\n        _sync(model)\n",
        "        write_side(checkpoint, placed, side)\n        save_patch(model / JOURNALS[side], patch)\n        _sync(model)\n",
        ("tests/patches/test_in_place.py",),
    ),
    Fault(
        "files named before their content is on disk",
        "a power cut leaves an empty file under the right name",
        "cca.files",
        "            os.fsync(handle.fileno())\n        os.chmod",
        "        os.chmod",
        ("tests/test_files.py",),
    ),
    Fault(
        "a new name is not flushed",
        "a power cut takes back a stage that later files rest on",
        "cca.files",
        "        _flush_folder(path.parent)\n",
        "",
        ("tests/test_files.py",),
    ),
    Fault(
        "resume skips a problem",
        "a run that was stopped would have other traces",
        "cca.runs.stages",
        "chunks = chunked(problems[len(rows) :], settings.chunk)",
        "chunks = chunked(problems[len(rows) + (1 if rows else 0) :], settings.chunk)",
        ("tests/runs/test_going_on.py",),
    ),
    Fault(
        "a torn chunk is kept",
        "the next chunk would begin in the middle of it",
        "cca.runs.chunk_log",
        "len(rows) // self.chunk * self.chunk",
        "len(rows)",
        ("tests/runs/test_going_on.py",),
    ),
    Fault(
        "a fork ignores the retention data: amplify",
        "a step would be kept that other data refuses",
        "cca.runs.dependence",
        '("anatomy", "validation", "retention"),\n            ("pivots.jsonl"',
        '("anatomy", "validation"),\n            ("pivots.jsonl"',
        ("tests/runs/test_going_on.py",),
    ),
    Fault(
        "a fork ignores the retention data: circuit",
        "a circuit chosen to spare one skill would pass for one that spares another",
        "cca.runs.dependence",
        '("anatomy", "circuit_file", "retention")',
        '("anatomy", "circuit_file")',
        ("tests/runs/test_going_on.py",),
    ),
    Fault(
        "row hashes of logs unchecked",
        "a bit that flipped on the disk would be a verdict",
        "cca.runs.chunk_log",
        "return row if found == fingerprint(row) else None",
        "return row",
        ("tests/fuzz/test_damaged_files.py",),
    ),
    Fault(
        "backward passes cost nothing",
        "plans would promise half the time",
        "cca.runs.cost_model",
        "tokens = pivots.shared + pivots.count * pivots.own / hardware.copies\n    return 2 *",
        "tokens = pivots.shared + pivots.count * pivots.own / hardware.copies\n    return 1 *",
        ("tests/runs/test_cost_model.py",),
    ),
]
