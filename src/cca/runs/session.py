"""What the stages of one run share: folder, configuration, and the model, task and engine, loaded on first use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel

from cca.engines.hf import HFEngine, context_length
from cca.errors import CcaError
from cca.files import read_json, write_json
from cca.models.anatomy import Anatomy, anatomy_of
from cca.models.grading import Grader
from cca.models.loading import LoadedModel, load_model
from cca.problems.answers import make_judge
from cca.problems.sources import Task, built_in_task, check_answers, task_from_files, with_retention
from cca.runs.config import Config, TaskFiles
from cca.runs.directory import RunDirectory
from cca.runs.narrator import Narrator
from cca.tinymath import BUNDLED_MODEL

DEFAULT_NEW_TOKENS = 512


@dataclass
class Session:
    """Open with `open_session`; stages take it as their one argument."""

    config: Config
    folder: RunDirectory
    narrator: Narrator

    @cached_property
    def task(self) -> Task:
        """The task with its retention sets; every gold answer is readable by the judge."""
        wanted = self.config.task
        if isinstance(wanted, TaskFiles):
            task = task_from_files(wanted.train, wanted.validation, wanted.test)
        else:
            task = built_in_task(wanted, self.config.seed)
        task = with_retention(task, self.config.retention)
        check_answers(task, self.grader.judge)
        return task

    @cached_property
    def loaded(self) -> LoadedModel:
        config = self.config
        name = str(BUNDLED_MODEL) if config.model == "tinymath" else config.model
        with self.narrator.work(f"loading {config.model}", None):
            return load_model(
                name, config.revision, config.dtype, config.device_map, config.trust_remote_code
            )

    @property
    def model(self) -> PreTrainedModel:
        return self.loaded.model

    @cached_property
    def grader(self) -> Grader:
        return Grader(self.loaded.codec, make_judge(self.config.judge))

    @cached_property
    def engine(self) -> HFEngine:
        return HFEngine(self.model, self.config.traces.batch_size)

    @cached_property
    def anatomy(self) -> Anatomy:
        return anatomy_of(self.model)

    @cached_property
    def max_new_tokens(self) -> int:
        """Longest completion: as configured, else twice the longest worked solution there is."""
        if self.config.traces.max_new_tokens:
            return self.config.traces.max_new_tokens
        problems = [*self.task.train, *self.task.validation]
        lengths = [len(self.grader.codec.encode_continuation(p.solution)) for p in problems if p.solution]
        most = context_length(self.model) - 1
        return min(most, 2 * max(lengths) + 8 if lengths else DEFAULT_NEW_TOKENS)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's seconds and generated tokens to the stage's account, also when it is cut short."""
        began, tokens = time.perf_counter(), self.engine.generated_tokens
        try:
            yield
        finally:
            accounts = self.timing()
            account = accounts.setdefault(stage, {"seconds": 0.0, "tokens": 0})
            account["seconds"] = round(account["seconds"] + time.perf_counter() - began, 3)
            account["tokens"] += self.engine.generated_tokens - tokens
            write_json(self._timing_path, accounts)

    def timing(self) -> dict[str, dict[str, float]]:
        return read_json(self._timing_path) if self._timing_path.exists() else {}

    @property
    def _timing_path(self) -> Path:
        return self.folder / "timing.json"


@contextmanager
def open_session(config: Config, narrator: Narrator) -> Iterator[Session]:
    """Take the run folder, check that it is this run's, and load what the stages need.

    Raises CcaError for a folder in use or of another run, and for a model or task that cannot be used.
    """
    before = config.out.exists()
    with RunDirectory(config.out) as folder:
        if before and (folder / "manifest.json").exists():
            folder.bind(
                config, folder.manifest()["fingerprints"]
            )  # the cheap check first: no model is loaded for it
        session = Session(config, folder, narrator)
        folder.bind(config, {"model": session.loaded.fingerprint, "task": session.task.fingerprint})
        if session.loaded.model.get_output_embeddings() is None:
            raise CcaError(
                f"model {config.model}: expected a causal language model, got one without an output layer"
            )
        yield session
