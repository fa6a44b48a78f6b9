"""Opening the folder of a run: a new one, one to go on with, or a fork that takes over what is still valid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cca import distributed
from cca.errors import CcaError
from cca.files import write_bytes
from cca.patches.layout import merge_objection
from cca.runs.config.config import Config
from cca.runs.folder.measurements import FILE as MEASUREMENTS
from cca.runs.folder.provenance import versions
from cca.runs.folder.run_folder import RunDirectory, without_out
from cca.runs.folder.stage_inputs import STAGES, UNDER_WAY, claim
from cca.runs.progress.interrupts import Interrupts
from cca.runs.progress.narrator import Narrator
from cca.runs.progress.progress import Journal
from cca.runs.progress.trackers import tracking
from cca.runs.replica import replica_session, show_folder
from cca.runs.session import Session


@contextmanager
def open_session(config: Config, narrator: Narrator, fork_of: Path | None = None) -> Iterator[Session]:
    """Take the run folder, check that it is this run's, and load what the stages need.

    ``fork_of`` is a run folder whose valid stages the new folder takes over.
    Of several processes only the first takes it; the others work in a replica (`cca.runs.replica`).
    Raises CcaError for a folder in use or of another run, and for a model or task that cannot be used.
    """
    if not distributed.is_main():
        with replica_session(config) as session:
            yield session
        return
    if fork_of is not None:
        _check_fork(fork_of, config.out)
    with RunDirectory(config.out) as folder, Interrupts() as interrupts:
        if folder.begun:
            folder.check_config(config)  # the cheap check first: no model is loaded for it
        else:
            folder.check_new()
        journal = Journal(folder.path, narrator)
        session = Session(config, folder, journal, interrupts)
        session.say_device()
        _tell_of_the_past(folder, journal, session.device)
        if distributed.size() == 1:
            _ = session.watch  # from here on it is known what is written into the model
        if session.model.get_output_embeddings() is None:
            raise CcaError(
                f"model {config.model}: expected a causal language model, got one without an output layer"
            )
        _ = session.anatomy  # refuses a model it cannot read before anything is made
        if folder.begun:
            folder.check_fingerprints(session.fingerprints)
        else:
            forked = {} if fork_of is None else {"forked_from": str(fork_of)}
            folder.begin(config, session.fingerprints, session.device, task=session.task.origin, **forked)
            source = session.loaded.folder
            if source is not None and (reason := merge_objection(source, session.model)):
                session.note(f"the patch of this run will not merge into the model's own folder: {reason}")
        interrupts.check()
        if fork_of is not None:
            _take_over(fork_of, session)
        show_folder(folder.path)
        try:
            with tracking(config.trackers, folder.path, without_out(config)) as session.track:
                try:
                    yield session
                finally:
                    session.close()
        except BaseException as error:
            journal.log(f"stopped: {type(error).__name__}: {error}")
            raise


def _check_fork(source: Path, target: Path) -> None:
    RunDirectory(source).manifest()  # refuses what is no run
    if source.resolve() == target.resolve():
        raise CcaError(f"--fork {target}: expected another folder than the run's own 'out', got the same")


def _tell_of_the_past(folder: RunDirectory, journal: Journal, device: str) -> None:
    if folder.killed is not None and folder.begun:
        journal.say(f"{folder.killed} was killed; going on from the last whole chunk")
    if not folder.begun:
        return
    manifest = folder.manifest()
    then, now = manifest["versions"], versions()
    changed = [
        f"{package} {then.get(package)} -> {now[package]}"
        for package in now
        if now[package] != then.get(package)
    ]
    if (before := manifest.get("hardware", {}).get("device")) not in (None, device):
        journal.say(
            f"device changed since this run began, results may differ in the last digit: {before} -> {device}"
        )
    if changed:
        journal.say(
            f"versions changed since this run began, results may differ in the last digit: {', '.join(changed)}"
        )


def _take_over(source: Path, session: Session) -> None:
    """Copy from ``source`` each stage still valid under the session's configuration, up to the first that is not."""
    target = session.folder
    if (source / MEASUREMENTS).exists() and not (target / MEASUREMENTS).exists():
        write_bytes(target / MEASUREMENTS, (source / MEASUREMENTS).read_bytes())
    taken: list[str] = []
    for stage in STAGES.values():
        if any((target / name).exists() for name in stage.says):
            continue  # taken over by a sitting before this one, or begun here
        wanted = session.made_from(stage.name)
        if all(claim(source / name) != wanted for name in stage.says):
            break
        for name in (*stage.files, *stage.says):
            if (source / name).exists():
                write_bytes(target / name, (source / name).read_bytes())
        taken.append(stage.name)
        if not (target / stage.files[-1]).exists():
            break  # a stage that was under way
    for kept, made in UNDER_WAY.items():
        # one of another training is as good as not there
        if (source / kept).exists() and not (target / made).exists():
            write_bytes(target / kept, (source / kept).read_bytes())
    session.narrator.say(
        f"taken over from {source}: {', '.join(taken) or 'no stage, all depend on what changed'}"
    )
