"""The Ray engine: batches of requests spread over actors, each with an engine and a copy of the model of its own.

Notable decisions:

* A unit of work is a batch of `HFEngine`'s size and order behind the same shared prefix, so neither the number of
  actors nor who does what changes a token. One process fills its batches up as rows end: rounding alone may differ.
* Actors, not Ray Data: its actors live as long as one data set, so that every chunk and every validated step would load
  the model again, and weights that changed meanwhile could not be given to them.
* An actor that dies costs the unit it was at: the unit goes to the next free actor, and a new one takes its place.
* Each unit says which state of the weights it is for; an actor that holds another takes the tensors that differ from
  the object store first. Actors that come late need no special treatment.

Each actor computes with as many threads as this process: on a CPU the number of threads decides how sums are rounded.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Queue
from threading import Lock
from typing import Any, Literal

import torch
from torch import Tensor

from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.hf import HFEngine, decoding_order, reading_order, shared_length
from cca.engines.settings import RayConfig, VLLMConfig
from cca.engines.vllm import VLLMEngine
from cca.engines.weight_sync import ModelSource, WeightWatch, checkpoint_tensors
from cca.errors import CcaError
from cca.models.loading import load_model

START = "`ray start --head` makes one"
TRIES = 3
"""Actors that one unit may outlive before the fault is taken to be its own."""


@dataclass(frozen=True)
class _Unit:
    """One batch: a method of the engine and its arguments. ``rule`` and ``tensors`` hold references to the object
    store, in a tuple so that Ray fetches them only when asked to."""

    method: Literal["complete", "greedy_paths"]
    arguments: tuple[Any, ...]
    shared: int | None
    rule: tuple[Any, ...] = ()
    state: int = 0
    tensors: tuple[Any, ...] = ()


@dataclass
class RayEngine:
    """Raises CcaError where Ray is missing or its cluster cannot be reached. Calls may come from several threads."""

    source: ModelSource
    settings: RayConfig
    watch: WeightWatch
    tell: Callable[[str], None] = print
    batch_size: int = 64
    vllm: VLLMConfig = field(default_factory=VLLMConfig)
    generated_tokens: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        wanted = self.settings
        self._ray, self._ours = connected(wanted.address, wanted.actors, wanted.cpus, wanted.gpus, self.tell)
        self.parallel_chunks = self.settings.actors
        self.reads_cheaply = self.settings.engine == "hf"
        self._lock = Lock()
        self._idle: Queue[Any] = Queue()
        self._put: tuple[int, tuple[Any, ...]] = (0, ())
        self._rule: tuple[StopRule | None, tuple[Any, ...]] = (None, ())
        for _ in range(self.settings.actors):
            self._idle.put(self._new_actor())
        self._pool = ThreadPoolExecutor(self.settings.actors, "ray-engine")

    def close(self) -> None:
        """End the actors, and leave Ray where it was entered here."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        while not self._idle.empty():
            self._ray.kill(self._idle.get())
        if self._ours:
            self._ray.shutdown()

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Complete every request. Raises CcaError for what the actors' engines refuse."""
        batches = self._batches(decoding_order(requests))
        shared = self._shared([request.prefix for request in requests])
        rule = self._shared_rule(stop)
        units = [_Unit("complete", ([requests[i] for i in batch], max_new_tokens), shared, rule) for batch in batches]
        return self._done(units, batches, progress)

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]]) -> list[GreedyPath]:
        batches = self._batches(reading_order(texts))
        shared = self._shared([prefix for prefix, _ in texts])
        units = [_Unit("greedy_paths", ([texts[i] for i in batch],), shared) for batch in batches]
        return self._done(units, batches, None)

    def _batches(self, order: Sequence[int]) -> list[Sequence[int]]:
        size = self.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _shared(self, prefixes: Sequence[Tokens]) -> int | None:
        return shared_length(prefixes) if self.settings.engine == "hf" else None

    def _done(self, units: Sequence[_Unit], batches: Sequence[Sequence[int]], progress: Progress | None) -> list[Any]:
        """The results of all units, in the order of the indices in ``batches``."""
        state, tensors = self._weights()
        placed = [_Unit(u.method, u.arguments, u.shared, u.rule, state, tensors) for u in units]
        results: dict[int, Any] = {}
        futures = [self._pool.submit(self._do, unit) for unit in placed]
        try:
            for future, batch in zip(futures, batches, strict=True):
                made, tokens, notes = future.result()
                results.update(zip(batch, made, strict=True))
                with self._lock:
                    self.generated_tokens += tokens
                for note in notes:
                    self.tell(note)
                if progress:
                    progress(len(batch))
        finally:
            for future in futures:
                future.cancel()
        return [results[index] for index in range(len(results))]

    def _do(self, unit: _Unit) -> tuple[list[Any], int, list[str]]:
        """One unit, by the next free actor; by another one where that actor is lost."""
        reason = ""
        for _ in range(TRIES):
            actor = self._idle.get()
            try:
                return self._ray.get(actor.work.remote(unit))
            except self._ray.exceptions.RayActorError as error:
                reason = " ".join(str(error).split())[:200]
                self.tell("ray: an actor was lost; its batch is done again by another")
                actor = self._new_actor()
            except CcaError as error:  # raised there: what is raised here also has the traceback for its text
                raise CcaError(str(getattr(error, "cause", error))) from error
            finally:
                self._idle.put(actor)
        raise CcaError(f"engine ray: {TRIES} actors were lost over one batch ({reason}); try a smaller batch_size")

    def _new_actor(self) -> Any:
        settings = self.settings
        made = self._ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus)(_Actor)
        return made.remote(self.source, settings, self.vllm, self.batch_size, torch.get_num_threads())

    def _weights(self) -> tuple[int, tuple[Any, ...]]:
        """The state of the weights, and where the tensors are that make it out of the source's."""
        with self._lock:
            self.watch.look()
            if self.watch.state != self._put[0]:
                tensors = (
                    checkpoint_tensors(self.watch)
                    if self.settings.engine == "vllm"
                    else {name: self.watch.value(name) for name in self.watch.touched}
                )
                self._put = self.watch.state, (self._ray.put(tensors),)
            return self._put

    def _shared_rule(self, stop: StopRule | None) -> tuple[Any, ...]:
        """The stop rule in the object store; it brings a tokenizer along, so it goes there once."""
        if stop is None:
            return ()
        with self._lock:
            if self._rule[0] != stop:
                self._rule = stop, (self._ray.put(stop),)
            return self._rule[1]


class _Actor:
    """Runs in a process of Ray's. The model is loaded with the first unit, so that faults come as answers."""

    def __init__(
        self, source: ModelSource, settings: RayConfig, vllm: VLLMConfig, batch_size: int, threads: int
    ) -> None:
        self.source, self.settings, self.vllm = source, settings, vllm
        self.batch_size, self.threads = batch_size, threads
        self.engine: HFEngine | VLLMEngine | None = None
        self.state = 0
        self.rules: dict[Any, StopRule] = {}
        self.notes: list[str] = []

    def work(self, unit: _Unit) -> tuple[list[Any], int, list[str]]:
        """The results of a unit, the tokens generated for it, and what there is to tell."""
        if self.engine is None:
            self.engine = self._start()
        engine = self.engine
        if unit.state != self.state:
            self._take(_fetched(unit.tensors[0]))
            self.state = unit.state
        before = engine.generated_tokens
        rule = (self._rule(unit.rule[0]),) if unit.rule else ()
        options = {"shared": unit.shared} if isinstance(engine, HFEngine) else {}
        results = getattr(engine, unit.method)(*unit.arguments, *rule, **options)
        notes, self.notes = self.notes, []
        return results, engine.generated_tokens - before, notes

    def _start(self) -> HFEngine | VLLMEngine:
        if self.settings.engine == "vllm":
            return VLLMEngine(self.source, self.vllm)
        torch.set_num_threads(self.threads)
        place = "cpu" if not self.settings.gpus else "cuda:0" if self.settings.gpus <= 1 else "auto"
        source = self.source
        loaded = load_model(source.name, source.revision, source.dtype, place, source.trust_remote_code)
        if loaded.fingerprint != source.fingerprint:
            raise CcaError(
                f"engine ray: {source.name} is another model on {os.uname().nodename} than where the run was started; "
                "give every node the same files"
            )
        return HFEngine(loaded.model, self.batch_size, self.notes.append)

    def _take(self, tensors: Mapping[str, Tensor]) -> None:
        if isinstance(self.engine, VLLMEngine):
            self.engine.put_weights(tensors)
            return
        assert self.engine is not None
        with torch.no_grad():
            for name, tensor in tensors.items():
                self.engine.model.get_parameter(name).copy_(tensor)

    def _rule(self, reference: Any) -> StopRule:
        if reference not in self.rules:
            self.rules = {reference: _fetched(reference)}
        return self.rules[reference]


def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def installed() -> bool:
    return find_spec("ray") is not None


def connected(
    address: str | None, actors: int, cpus: float, gpus: float, tell: Callable[[str], None]
) -> tuple[Any, bool]:
    """The ray module, in a cluster, and whether it was entered by this call.

    Without an address one is started here, with processors enough for the actors. Raises CcaError where Ray is missing
    or the cluster is not there; says so where the cluster has less than the actors ask for.
    """
    if not installed():
        raise CcaError('engine ray: Ray is not installed; pip install -e ".[ray]", or set engine: hf')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is not None:
        _check_reachable(address)
    entered = not ray.is_initialized()
    if entered:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address is None:
            processors = max(os.cpu_count() or 1, int(actors * cpus) + 1)
            ray.init(address="local", include_dashboard=False, num_cpus=processors, **quiet)
        else:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise CcaError(f"engine ray: no cluster at {address} ({reason}); {START}") from error
    there = ray.cluster_resources()
    for kind, wanted in (("CPU", actors * cpus), ("GPU", actors * gpus)):
        if there.get(kind, 0) < wanted:
            tell(
                f"ray: {actors} actors ask for {wanted:g} {kind}s and there are {there.get(kind, 0):g}; "
                "those that find none wait"
            )
    return ray, entered


def _check_reachable(address: str) -> None:
    """Ray itself waits minutes for a cluster that is not there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        return  # auto: what runs on this machine
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise CcaError(f"engine ray: no cluster at {address} ({error}); {START}") from error
