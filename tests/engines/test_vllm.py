"""Real vLLM on the CPU against the Hugging Face engine: `make test-vllm` runs these."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from agreement import Tell, parting, same_share

from cca.engines.engine import Request, request_seed
from cca.engines.hf import HFEngine
from cca.engines.settings import VLLMConfig
from cca.engines.vllm import VLLMEngine
from cca.engines.weight_sync import ModelSource, WeightWatch
from cca.errors import CcaError
from cca.models.anatomy.weight_rows import get_rows
from cca.models.loading import LoadedModel, load_model
from cca.patches.patch import Patch
from cca.pivots.find import branching_pivots, pair_traces
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, Trace, sample_traces
from cca.problems.judges import make_judge
from cca.problems.problem import Problem
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

pytestmark = pytest.mark.vllm

PROBLEMS, LONGEST = 200, 120
SETTINGS = TracesConfig()
NEAR = 1e-4
"""Of logits or of probability: rounding in float32 may tip what is nearer to a tie."""


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(str(BUNDLED_MODEL), dtype="float32")


@pytest.fixture(scope="module")
def hf(loaded: LoadedModel) -> HFEngine:
    return HFEngine(loaded.model)


@pytest.fixture(scope="module")
def vllm(loaded: LoadedModel) -> Iterator[VLLMEngine]:
    watch = WeightWatch(loaded.model)
    engine = VLLMEngine(ModelSource.of(loaded), VLLMConfig(context=256), watch)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def grader(loaded: LoadedModel) -> Grader:
    return Grader(loaded.codec, make_judge("number"))


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    train = load(0).train
    return list(train[:: len(train) // PROBLEMS][:PROBLEMS])


@pytest.fixture(scope="module")
def traces(problems: list[Problem], grader: Grader, hf: HFEngine) -> list[list[Trace]]:
    return sample_traces(problems, grader, hf, SETTINGS, LONGEST, seed=5)


def test_traces_are_those_of_transformers(
    problems: list[Problem], grader: Grader, hf: HFEngine, vllm: VLLMEngine, traces: list[list[Trace]], tell: Tell
) -> None:
    """Greedy and sampled, token for token; where they part, the choice was a near-tie."""
    found = sample_traces(problems, grader, vllm, SETTINGS, LONGEST, seed=5)
    share = same_share(traces, found)
    tell(f"traces of {share:.1%} of {len(problems)} problems are equal")
    for problem, ours, theirs in zip(problems, traces, found, strict=True):
        for one, other in zip(ours, theirs, strict=False):
            if one != other:
                seed = request_seed(5, problem.id, one.sample)
                line, gap = parting(problem, one, other, seed, grader, hf)
                tell(line)
                assert gap < NEAR
                break
    assert share >= 0.98


def test_a_text_goes_on_from_what_is_written(
    problems: list[Problem], grader: Grader, vllm: VLLMEngine, traces: list[list[Trace]]
) -> None:
    """Within the longest completion and by the stop rule of the whole text; near-ties may fall otherwise."""
    texts = [(grader.prompt_ids(p), own[0].token_ids) for p, own in zip(problems, traces, strict=True)]
    begun = [Request(prompt + text[:half], written=half) for prompt, text in texts for half in [len(text) // 2]]
    rests = vllm.complete(begun, LONGEST, grader.finished)
    wholes = [request.begun(LONGEST) + rest.token_ids for request, rest in zip(begun, rests, strict=True)]
    assert same_share([text for _, text in texts], wholes) >= 0.98
    assert max(map(len, wholes)) <= LONGEST


def test_branching_pivots_are_those_of_transformers(
    problems: list[Problem], grader: Grader, hf: HFEngine, vllm: VLLMEngine, traces: list[list[Trace]], tell: Tell
) -> None:
    pairs = pair_traces(problems, traces)
    assert len(pairs) > 50
    ours = branching_pivots(pairs, grader, hf, LONGEST)
    theirs = branching_pivots(pairs, grader, vllm, LONGEST)
    share = same_share(ours, theirs)
    tell(f"pivots of {share:.1%} of {len(pairs)} pairs are equal")
    for one, other in zip(ours, theirs, strict=True):
        if one != other:
            tell(f"{one} {other}")
    assert share >= 0.98


def test_greedy_paths_say_the_same(
    problems: list[Problem], grader: Grader, hf: HFEngine, vllm: VLLMEngine, traces: list[list[Trace]]
) -> None:
    texts = [
        (grader.prompt_ids(problem), own[-1].token_ids) for problem, own in zip(problems[:30], traces, strict=False)
    ]
    for ours, theirs in zip(hf.greedy_paths(texts), vllm.greedy_paths(texts), strict=True):
        assert (ours.token_ids, ours.second) == (theirs.token_ids, theirs.second)
        assert ours.margins == pytest.approx(theirs.margins, abs=2e-4)
        assert ours.log_probs == pytest.approx(theirs.log_probs, abs=2e-4)


PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj")


@pytest.mark.parametrize("name", PARTS)
def test_weights_written_into_the_model_are_put_into_vllm(
    name: str, problems: list[Problem], grader: Grader, loaded: LoadedModel, hf: HFEngine, vllm: VLLMEngine
) -> None:
    """Rows of a fused matrix find their place; with the patch off again vLLM says what it said before, to the bit."""
    model, generator = loaded.model, torch.Generator().manual_seed(1)
    edits = []
    for layer in (0, 2):
        parameter = f"model.layers.{layer}.{name}.weight"
        indices = torch.tensor([1, 5, 17, 40])
        before = get_rows(model.get_parameter(parameter).detach(), 0, indices)
        after = before + torch.randn(before.shape, generator=generator) * before.std()
        edits.append((parameter, 0, indices, before, after))
    patch = Patch.from_edits(model, edits, "tinymath")
    texts = [(grader.prompt_ids(p), grader.codec.encode_continuation(p.solution or "")) for p in problems[:40]]

    def log_probs(engine: HFEngine | VLLMEngine) -> torch.Tensor:
        return torch.tensor([number for path in engine.greedy_paths(texts) for number in path.log_probs])

    base, held = log_probs(hf), log_probs(vllm)
    with patch.applied(model):
        patched, put = log_probs(hf), log_probs(vllm)
    assert (patched - base).abs().max() > 0.01, "the patch must matter"
    assert (patched - put).abs().max() < 1e-3
    assert torch.equal(log_probs(vllm), held)


@pytest.mark.parametrize("length", [1, 8, 9, 20])
def test_texts_end_where_the_rule_says(length: int, vllm: VLLMEngine, hf: HFEngine) -> None:
    """The rule is asked at every eighth token."""
    requests = [Request((5, 6, token)) for token in range(7, 27)]
    ours, theirs = (e.complete(requests, 30, stop=lambda text: len(text) >= length) for e in (hf, vllm))
    assert theirs == ours
    assert max(len(completion.token_ids) for completion in theirs) <= -(-length // 8) * 8


def test_a_stop_rule_that_fails_leaves_nothing_behind(vllm: VLLMEngine) -> None:
    def rule(_: object) -> bool:
        raise KeyboardInterrupt

    expected = vllm.complete([Request((5, 6, 7))], 20)
    with pytest.raises(KeyboardInterrupt):
        vllm.complete([Request((5, 6, token)) for token in range(7, 20)], 40, rule)
    assert vllm.complete([Request((5, 6, 7))], 20) == expected


def test_prefixes_that_do_not_fit_are_refused(vllm: VLLMEngine) -> None:
    for length in (0, 256):
        with pytest.raises(CcaError, match=f"1 to 255 tokens, got {length}"):
            vllm.complete([Request((5,) * length)], 4)
    (full,) = vllm.complete([Request((5,) * 250)], 40)
    assert len(full.token_ids) <= 6
