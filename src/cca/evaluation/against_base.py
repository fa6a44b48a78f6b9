"""An edited model compared with its base on the test problems and on the reported halves of the retention sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel

from cca.evaluation.accuracy import Results, comparison, per_template, summary
from cca.evaluation.answers import UNTOUCHED, Answering
from cca.evaluation.retention import halves
from cca.evaluation.validation import make_probe
from cca.files import Row
from cca.pivots.traces import Grader
from cca.problems.problem import Problem
from cca.problems.task import spread


class AgainstBase:
    """Holds the base's results, measured while the model is untouched, and compares any edit with them.

    ``most_retention`` limits the reported problems of each retention set, spread over the set.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        grader: Grader,
        answering: Answering,
        test: Sequence[Problem],
        retention: Mapping[str, Sequence[Problem]],
        seen_templates: set[str],
        max_new_tokens: int,
        seed: int = 0,
        most_retention: int | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.answering, self.test, self.max_new_tokens = answering, test, max_new_tokens
        self.seen, self.seed = seen_templates, seed
        self.reported = {
            name: spread(halves(problems)[1], most_retention) for name, problems in retention.items()
        }
        self.probes = {
            name: make_probe(model, problems, grader, note) for name, problems in self.reported.items()
        }
        self.base = self._test(UNTOUCHED)
        self.base_retention = answering.by_skill(self.reported, UNTOUCHED)

    def __call__(self, weights: str | None = None) -> Row:
        """The model as it stands, compared with the base. Accuracies are fractions, gains percentage points.

        ``weights`` is its `weights_key`; without it nothing is kept for a resumed run.
        """
        patched, retention = self._test(weights), self.answering.by_skill(self.reported, weights)
        unseen = {problem.template for problem in self.test} - self.seen
        drifts = {name: self.answering.drift(probe, weights) for name, probe in self.probes.items()}
        tokens = {name: probe.tokens for name, probe in self.probes.items()}
        total = sum(tokens.values())
        return {
            "base": summary(self.base, self.seed),
            "patched": summary(patched, self.seed),
            "gain": comparison(self.base, patched, self.seed),
            "seen_templates": self._part(patched, self.seen),
            "unseen_templates": self._part(patched, unseen),
            "templates": [
                {**record, "seen": record["template"] in self.seen}
                for record in per_template(self.base, patched)
            ],
            "drift": {
                "kl": sum(drifts[name] * tokens[name] for name in drifts) / total if total else 0.0,
                "tokens": total,
            },
            "retention": {
                name: self._skill(self.base_retention[name], after, drifts[name])
                for name, after in retention.items()
            },
        }

    def _test(self, weights: str | None) -> Results:
        return self.answering.answers(self.test, self.max_new_tokens, weights)

    def _part(self, patched: Results, templates: set[str]) -> Row | None:
        before, after = self.base.of_templates(templates), patched.of_templates(templates)
        if not before.problems:
            return None
        return {
            "problems": len(before.problems),
            "templates": len({problem.template for problem in before.problems}),
            "base": before.accuracy,
            "patched": after.accuracy,
            "gain": comparison(before, after, self.seed),
        }

    def _skill(self, base: Results, patched: Results, drift: float) -> Row:
        change = comparison(base, patched, self.seed)
        return {
            "base": base.accuracy,
            "patched": patched.accuracy,
            **{key: change[key] for key in ("points", "interval", "p_value")},
            "problems": len(patched.problems),
            "drift": drift,
        }
