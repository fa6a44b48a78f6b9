"""The vLLM engine: token-id prompts through vLLM's offline engine, with this project's sampling and stop rule.

Notable decisions:

* Requests are greedy for vLLM; the seeded inverse CDF of `cca.engines.decoding` runs in its sampler as a logits
  processor. So a seed means the same text as in `HFEngine`, save where the kernels' rounding tips a near-tie.
* The step loop is ours, since the stop rule is Python: it is asked at the same lengths as in `HFEngine`, and a text
  it ends is cut there, whatever vLLM has made beyond it.
* Weights that changed in the transformers model since (`WeightWatch`) are put into the running vLLM before the next
  call, in checkpoint form through vLLM's own loader; its prefix cache is then emptied.
* Greedy paths are prompt log-probabilities: one prefill, no decoding.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cca.engines.decoding import STOP_EVERY
from cca.engines.engine import Completion, GreedyPath, Progress, Request, StopRule, Tokens
from cca.engines.settings import VLLMConfig
from cca.engines.weight_sync import ModelSource, WeightWatch, checkpoint_tensors
from cca.errors import CcaError

ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # its logits processors have another interface
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Set before vLLM is imported, where the user has not set them."""
LONGEST = 8192
"""Longest text, where the model takes more and nobody asks for it: the cache must hold one whole text."""
CPU_CACHE_BYTES = 1 << 30
SHARE = 0.5
"""Of the memory that is free: the transformers model and its gradients need the rest."""


@dataclass
class VLLMEngine:
    """Raises CcaError where vLLM is missing or cannot start the model.

    Without a ``watch`` it holds the weights of the source until `put_weights` gives it others.
    """

    source: ModelSource
    settings: VLLMConfig = field(default_factory=VLLMConfig)
    watch: WeightWatch | None = None
    generated_tokens: int = field(default=0, init=False)
    parallel_chunks: int = field(default=1, init=False)
    reads_cheaply: bool = field(default=False, init=False)
    """Prompt log-probabilities are computed without the prefix cache, few-shot examples and all."""
    _held: int = field(default=0, init=False)
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    def __post_init__(self) -> None:
        self.context = min(self.source.context, self.settings.context or LONGEST)
        self._llm = _start(self.source, self.settings, self.context)

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.llm_engine.engine_core.shutdown()

    def complete(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        stop: StopRule | None = None,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """Complete every request. Raises CcaError for an empty prefix or one that leaves no room for a token."""
        asked: list[tuple[Tokens, Any]] = []
        begun: list[Tokens] = []
        for request in requests:
            self._check(len(request.prefix))
            begun.append(request.begun(max_new_tokens))
            budget = min(max_new_tokens - request.written, self.context - len(request.prefix))
            asked.append((request.prefix, self._parameters(request, budget)))
        results: dict[int, Completion] = {}
        checked = [request.written // STOP_EVERY * STOP_EVERY for request in requests]

        def look(place: int, output: Any) -> bool:
            made = output.outputs[0]
            length = len(begun[place]) + len(made.token_ids)
            if not output.finished and length < checked[place] + STOP_EVERY:
                return False
            text = (*begun[place], *made.token_ids)
            end = _stop_at(text, checked[place], stop)
            checked[place] = length // STOP_EVERY * STOP_EVERY
            if end is None and not output.finished:
                return False
            token_ids = text[len(begun[place]) : end]
            results[place] = Completion(token_ids, end is not None or made.finish_reason == "stop")
            self.generated_tokens += len(token_ids)
            if progress:
                progress(1)
            return True

        self._run(asked, look)
        return [results[place] for place in range(len(requests))]

    def greedy_paths(self, texts: Sequence[tuple[Tokens, Tokens]]) -> list[GreedyPath]:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        paths = {place: GreedyPath((), ()) for place, (_, text) in enumerate(texts) if not text}
        asked: list[tuple[Tokens, Any]] = []
        places: list[int] = []
        for place, (prefix, text) in enumerate(texts):
            if text:
                self._check(len(prefix) + len(text) - 1)
                # All but the last token are a prompt, and the last is the only one allowed to follow; what is
                # reported are the probabilities before anything was disallowed.
                parameters = SamplingParams(
                    temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False,
                    prompt_logprobs=2, logprobs=2, allowed_token_ids=[text[-1]],
                )  # fmt: skip
                asked.append((prefix + text[:-1], parameters))
                places.append(place)

        def look(number: int, output: Any) -> bool:
            if output.finished:
                prefix, text = texts[places[number]]
                steps = [*output.prompt_logprobs[len(prefix) :], output.outputs[0].logprobs[0]]
                paths[places[number]] = _path(steps, text)
            return output.finished

        self._run(asked, look)
        return [paths[place] for place in range(len(texts))]

    def put_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors, named and shaped as in a checkpoint, into the running model.

        Of matrices that vLLM fuses all parts must come together (`checkpoint_tensors`).
        """
        with tempfile.TemporaryDirectory(prefix="cca-weights-") as folder:
            path = Path(folder) / "weights.safetensors"
            save_file(dict(tensors), path)
            self._llm.collective_rpc("cca_put_weights", args=(str(path),))
        self._llm.llm_engine.reset_prefix_cache()

    def _synchronise(self) -> None:
        if self.watch is None:
            return
        self.watch.look()
        if self._held != self.watch.state:
            self.put_weights(checkpoint_tensors(self.watch))
            self._held = self.watch.state

    def _run(self, asked: Sequence[tuple[Tokens, Any]], look: Any) -> None:
        """Put all prompts through the engine; ``look`` gets every output and says whether it was the last."""
        self._synchronise()
        engine = self._llm.llm_engine
        places: dict[str, int] = {}
        try:
            for place, (prompt, parameters) in enumerate(asked):
                name = f"cca-{next(self._numbers)}"
                places[name] = place
                engine.add_request(name, {"prompt_token_ids": list(prompt)}, parameters)
            while places:
                enough = []
                for output in engine.step():
                    place = places.get(output.request_id)
                    if place is not None and look(place, output):
                        del places[output.request_id]
                        if not output.finished:
                            enough.append(output.request_id)
                if enough:
                    engine.abort_request(enough)
        finally:
            if places:  # stopped half-way: leave nothing behind for the next call
                engine.abort_request(list(places))

    def _parameters(self, request: Request, budget: int) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        ours = {"seed": request.seed, "temperature": request.temperature}
        return SamplingParams(
            temperature=0.0,
            max_tokens=budget,
            ignore_eos=True,
            stop_token_ids=sorted(self.source.ends),
            detokenize=False,
            extra_args={"cca": ours} if request.temperature else None,
        )

    def _check(self, length: int) -> None:
        if not 0 < length < self.context:
            advice = "; raise vllm.context" if 0 < length < self.source.context else ""
            raise CcaError(f"expected a prefix of 1 to {self.context - 1} tokens, got {length}{advice}")


def installed() -> bool:
    return find_spec("vllm") is not None


def _start(source: ModelSource, settings: VLLMConfig, context: int) -> Any:
    if not installed():
        raise CcaError('engine vllm: vLLM is not installed; pip install -e ".[vllm]", or set engine: hf')
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    options = {
        "model": source.name,
        "revision": source.revision,
        "dtype": source.dtype,
        "trust_remote_code": source.trust_remote_code,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # nothing but what a request says
        "max_model_len": context,
        "enable_prefix_caching": True,
        "tensor_parallel_size": settings.tensor_parallel,
        "logits_processors": ["cca.engines.vllm_worker:SeededSampling"],
        "worker_extension_cls": "cca.engines.vllm_worker.WeightsInPlace",
        "use_tqdm_on_load": False,
        "seed": 0,
        **_memory(settings),
        **settings.options,
    }
    try:
        with _deaf_children():
            return LLM(**options)
    except Exception as error:  # vLLM raises its own and pydantic's, torch's and plain ones
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise CcaError(f"engine vllm: {source.name} cannot be started ({reason}); or set engine: hf") from error


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within never hear Ctrl-C: the run ends its chunk first, and it needs them for that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _memory(settings: VLLMConfig) -> dict[str, Any]:
    if not torch.cuda.is_available():
        # Compiling for a CPU takes longer than most runs, and its kernels round otherwise.
        own = {} if settings.memory is None else {"gpu_memory_utilization": settings.memory}
        return {"enforce_eager": True, **(own or {"kv_cache_memory_bytes": CPU_CACHE_BYTES})}
    if settings.memory is not None:
        return {"gpu_memory_utilization": settings.memory}
    free, total = torch.cuda.mem_get_info()
    return {"gpu_memory_utilization": round(SHARE * free / total, 3)}


def _stop_at(token_ids: Sequence[int], checked: int, stop: StopRule | None) -> int | None:
    """Where the stop rule ends the text, asked at every `STOP_EVERY` tokens beyond those ``checked``."""
    if stop is None:
        return None
    lengths = range(checked + STOP_EVERY, len(token_ids) + 1, STOP_EVERY)
    return next((length for length in lengths if stop(token_ids[:length])), None)


def _path(steps: Sequence[Mapping[int, Any]], text: Tokens) -> GreedyPath:
    """From the distributions before each token of the text: each holds that token and the two likeliest."""
    greedy, second, margins, log_probs = [], [], [], []
    for step, token in zip(steps, text, strict=True):
        ranked = sorted((-entry.logprob, candidate) for candidate, entry in step.items())
        (best, first), (next_best, runner_up) = ranked[:2]
        greedy.append(first)
        second.append(runner_up)
        margins.append(next_best - best)
        log_probs.append(step[token].logprob)
    return GreedyPath(tuple(greedy), tuple(margins), tuple(second), tuple(log_probs))
