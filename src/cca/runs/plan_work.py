"""What a run has to write and to read, stage by stage: the counts of a rehearsal scaled to the whole task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cca.evaluation.retention import halves
from cca.runs.decoding_cost import Call, Work, expected_work
from cca.runs.findings import Rehearsal
from cca.runs.stages.engine import taken

ANEW = {"task": 0.2, "others": 0.01}
"""Shares of the base's answers, in tokens, that an edit writes anew, where the first steps do not write more: seven
runs took 0.04 to 0.22 of the task's a step and next to nothing of others', six of their controls 0.07 to 0.21; the
seventh, which broke the model, 2.4."""


class Works:
    """Expectations, so not whole numbers: ``pairs`` of traces with opposite verdicts, ``pivots``, and `Work`."""

    def __init__(self, found: Rehearsal) -> None:
        self.found, self.config, self.task = found, found.session.config, found.session.task
        self.engine, self.drafting = taken(self.config, found.session.loaded)
        self.train = len(self.task.train)
        split = {name: halves(problems) for name, problems in self.task.retention.items()}
        self.guards = {name: len(guard) for name, (guard, _) in split.items()}
        self.reported = {name: len(reported) for name, (_, reported) in split.items()}
        self.pairs = self.train * (found.pairs or 0.5) / found.problems
        self.pivots = self.pairs * (found.found or 0.5) / (found.pairs or 1)
        if self.config.pivots.most is not None:
            self.pivots = min(self.pivots, self.config.pivots.most)

    def traces(self) -> Work:
        """Greedy traces and the rounds of samples, in the shares that the sample's problems needed."""
        return self._calls(self.found.traced, self.train, self.found.problems)

    def walks(self) -> Work:
        return self._calls(self.found.walked, self.pairs, max(1, self.found.pairs))

    def base_tests(self) -> Work:
        return self._base(len(self.task.test), self.reported)

    def base_validation(self) -> Work:
        return self._base(len(self.task.validation), self.guards)

    def edited_tests(self) -> Work:
        return self._edited(len(self.task.test), self.reported)

    def edited_validation(self) -> Work:
        return self._edited(len(self.task.validation), self.guards)

    def _base(self, count: int, others: Mapping[str, int]) -> Work:
        """Everything is written, and read for the drafts of edits where the run's engine takes them."""
        written = self._written(count, others)
        return written + self._read(count, others) if self.drafting else written

    def _edited(self, count: int, others: Mapping[str, int]) -> Work:
        """The base's answers are read, and written anew from where an edit leaves them; or everything is written."""
        if not self.drafting:
            return self._written(count, others)
        task, other = (max(ANEW[kind], self.found.anew.get(kind, 0.0)) for kind in ("task", "others"))
        written = self._written(count, {}).times(task) + self._written(0, others).times(other)
        return self._read(count, others) + written

    def _written(self, count: int, others: Mapping[str, int]) -> Work:
        sizes = self._sizes(count, others)
        return sum((self._calls([call], size, round(call.work.requests)) for call, size in sizes), Work())

    def _read(self, count: int, others: Mapping[str, int]) -> Work:
        tokens = 0.0
        for call, size in self._sizes(count, others):
            tokens += size * (call.work.prompt_tokens + call.work.tokens) / call.work.requests
        return Work(read=tokens)

    def _sizes(self, count: int, others: Mapping[str, int]) -> list[tuple[Call, int]]:
        """Greedy answers like these, and how many; the task's are like the training sample's."""
        return [(self.found.traced[0], count)] + [
            (self.found.retention[name], size) for name, size in others.items()
        ]

    def _calls(self, calls: Sequence[Call], count: float, sampled: int) -> Work:
        """What ``calls`` on ``sampled`` items come to on ``count`` of them, taken in chunks."""
        chunk = self.config.traces.chunk
        sizes = [chunk] * int(count // chunk) + ([count % chunk] if count % chunk else [])
        whole = Work()
        for call in calls:
            prompt = call.work.prompt_tokens / call.work.requests
            for size in sizes:
                requests = size * call.work.requests / sampled
                whole += expected_work(requests, call.lengths, prompt, self.config.traces.batch_size)
        return whole
