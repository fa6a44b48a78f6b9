"""Two Ray actors against one process: the same bytes, also when an actor is killed or the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Thread

import pytest
import torch

from cca.engines.engine import Request
from cca.engines.hf import HFEngine
from cca.engines.ray import RayEngine, installed
from cca.engines.settings import RayConfig
from cca.engines.weight_sync import ModelSource, WeightWatch
from cca.errors import CcaError
from cca.models.anatomy.weight_rows import get_rows, set_rows_
from cca.models.loading import LoadedModel, load_model
from cca.pivots.find import branching_pivots
from cca.pivots.settings import TracesConfig
from cca.pivots.traces import Grader, opposite, sample_traces
from cca.problems.judges import make_judge
from cca.tinymath import BUNDLED_MODEL
from cca.tinymath.task import load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not installed(), reason='Ray is not installed: pip install -e ".[ray]"'),
]
BATCH, LONGEST = 8, 60


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(str(BUNDLED_MODEL), dtype="float32")


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def actors(loaded: LoadedModel, said: list[str]) -> Iterator[RayEngine]:
    source, watch = ModelSource.of(loaded), WeightWatch(loaded.model)
    engine = RayEngine(source, RayConfig(actors=2), watch, said.append, BATCH)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def grader(loaded: LoadedModel) -> Grader:
    return Grader(loaded.codec, make_judge("number"))


def requests(grader: Grader, count: int) -> list[Request]:
    problems = load(0).train[:count]
    return [Request(grader.prompt_ids(problem), 0.9 * (number % 2), number) for number, problem in enumerate(problems)]


def test_traces_and_pivots_are_those_of_one_process(loaded: LoadedModel, actors: RayEngine, grader: Grader) -> None:
    one = HFEngine(loaded.model, BATCH)
    problems, settings = load(0).train[:40], TracesConfig(samples=3)
    done: list[int] = []
    expected = sample_traces(problems, grader, one, settings, LONGEST)
    found = sample_traces(problems, grader, actors, settings, LONGEST, progress=done.append)
    assert found == expected
    assert sum(done) == len(problems)
    assert actors.generated_tokens == one.generated_tokens
    pairs = [(p, own[0], other) for p, own in zip(problems, expected, strict=True) if (other := opposite(own))]
    assert branching_pivots(pairs, grader, actors, LONGEST) == branching_pivots(pairs, grader, one, LONGEST)


def test_a_killed_actor_costs_its_batch(
    loaded: LoadedModel, actors: RayEngine, grader: Grader, said: list[str]
) -> None:
    """One of the two is killed while it works."""
    import ray

    asked = requests(grader, 60)
    expected = HFEngine(loaded.model, BATCH).complete(asked, LONGEST, grader.finished)
    before = actors.generated_tokens
    killers: list[Thread] = []
    live = actors._idle.get()
    actors._idle.put(live)

    def kill(_: int) -> None:
        if not killers:
            killers.append(Thread(target=ray.kill, args=(live,)))
            killers[0].start()

    assert actors.complete(asked, LONGEST, grader.finished, kill) == expected
    assert killers
    assert any("lost" in line for line in said)
    assert actors.generated_tokens - before == sum(len(c.token_ids) for c in expected)


def test_actors_hold_the_weights_as_they_stand(loaded: LoadedModel, actors: RayEngine, grader: Grader) -> None:
    asked = requests(grader, 20)
    one = HFEngine(loaded.model, BATCH)
    weight, indices = loaded.model.get_parameter("model.layers.1.mlp.up_proj.weight"), torch.arange(200)
    before = get_rows(weight.detach(), 0, indices)
    base = one.complete(asked, 20)
    set_rows_(weight, 0, indices, 3 * before)
    patched = one.complete(asked, 20)
    assert patched != base
    assert actors.complete(asked, 20) == patched
    set_rows_(weight, 0, indices, before)
    assert actors.complete(asked, 20) == base


def broken(text: Sequence[int]) -> bool:
    return len(text) // 0 == 1


@pytest.mark.parametrize(("rule", "expected"), [(broken, "division"), (None, "a prefix of 1 to")])
def test_faults_come_back(actors: RayEngine, rule: Callable[[Sequence[int]], bool] | None, expected: str) -> None:
    wrong = [Request((5,) * (10 if rule else 5000))]
    with pytest.raises((CcaError, ZeroDivisionError), match=expected) as caught:
        actors.complete(wrong, 40, rule)
    if rule is None:
        assert "\n" not in str(caught.value)
    assert len(actors.complete([Request((5, 6))], 4)) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere:x"])
def test_no_cluster_there(address: str, loaded: LoadedModel) -> None:
    with pytest.raises(CcaError, match=f"no cluster at {address}"):
        RayEngine(ModelSource.of(loaded), RayConfig(address=address), WeightWatch(loaded.model))
