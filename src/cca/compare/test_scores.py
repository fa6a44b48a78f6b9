"""The test split, read only where a comparison says ``test: true``: an arm's best step held against the base."""

from __future__ import annotations

from cca.compare.config import LimitsEntry
from cca.evaluation.accuracy import Results, comparison, per_template
from cca.evaluation.drift import DriftProbe, solution_texts
from cca.files import Row
from cca.problems.task import halves, spread
from cca.runs.folder.measurements import UNTOUCHED
from cca.runs.open import OpenRun


class Tested:
    """The base's test results, taken while the model is untouched. Other skills: the halves that guard nothing."""

    def __init__(self, session: OpenRun, limits: LimitsEntry) -> None:
        self.session = session
        self.problems = spread(session.task.test, limits.test)
        reported = {name: halves(own)[1] for name, own in session.task.retention.items()}
        self.reported = {name: spread(own, limits.retention) for name, own in reported.items()}
        self.probes = {
            name: DriftProbe(session.model, solution_texts(own, session.grader))
            for name, own in self.reported.items()
        }
        self.base = self._test(UNTOUCHED)
        self.base_retention = session.answering.by_skill(self.reported, UNTOUCHED)

    def against_base(self) -> Row:
        """The model as it stands. Accuracies are fractions, gains percentage points, drift nats a token."""
        seed, patched = self.session.config.seed, self._test()
        retention = self.session.answering.by_skill(self.reported)
        seen = self.session.task.seen_templates
        unseen = {problem.template for problem in self.problems} - seen
        drifts = {name: probe.drift() for name, probe in self.probes.items()}
        tokens = {name: probe.tokens for name, probe in self.probes.items()}
        total = sum(tokens.values())
        return {
            "base": self.base.accuracy,
            "accuracy": patched.accuracy,
            "gain": comparison(self.base, patched, seed),
            "unseen": self._unseen(patched, unseen),
            "templates": per_template(self.base, patched),
            "drift": sum(drifts[name] * tokens[name] for name in drifts) / total if total else 0.0,
            "drifts": drifts,
            "retention": {
                name: {"base": base.accuracy, "patched": retention[name].accuracy}
                for name, base in self.base_retention.items()
            },
        }

    def _unseen(self, patched: Results, unseen: set[str]) -> Row | None:
        if not unseen:
            return None
        before, after = self.base.of_templates(unseen), patched.of_templates(unseen)
        return comparison(before, after, self.session.config.seed)

    def _test(self, weights: str | None = None) -> Results:
        return self.session.answering.answers(self.problems, self.session.max_new_tokens, weights)
