"""The engine of a run: which it is, what is said of it, and what is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import RARE, TINY

import tiny_world
from cca.engines.engine import Engine
from cca.engines.hf import HFEngine
from cca.engines.weight_sync import WeightWatch, checkpoint_tensors
from cca.errors import CcaError
from cca.models.anatomy.weight_rows import get_rows, set_rows_
from cca.models.fingerprint import model_fingerprint
from cca.models.loading import LoadedModel
from cca.runs.config import config_of
from cca.runs.folder.run_folder import RunFolder
from cca.runs.stages.engine import make_engine

LEAST = {"model": "tinymath", "task": "tinymath", "out": "runs/x"}


def made(said: list[str], **keys: Any) -> Engine:
    model = tiny_world.model(dtype=torch.float32)
    loaded = LoadedModel(model, tiny_world.grader().codec, "somewhere", None, model_fingerprint(model))
    return make_engine(config_of({**LEAST, **keys}, []), loaded, WeightWatch(model), said.append, said.append)


def test_auto_says_what_it_took_and_why() -> None:
    said: list[str] = []
    assert isinstance(made(said, engine="auto"), HFEngine)
    (line,) = said
    assert line.startswith("engine: hf (auto: ")


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(CcaError, match=r'pip install -e "\.\[vllm\]"'):
        made([], engine="vllm")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"engine": "tgi"}, "'engine': input should be 'auto', 'hf', 'vllm' or 'ray'"),
        ({"vllm": {"memory": 1.5}}, "'vllm.memory'"),
        ({"vllm": {"options": {"dtype": "float16"}}}, "dtype follows from other keys"),
        ({"ray": {"actors": 0}}, "'ray.actors'"),
        ({"ray": {"nodes": 2}}, "unknown config key 'ray.nodes'"),
    ],
)
def test_keys_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(CcaError, match=message):
        config_of({**LEAST, **keys}, [])


def test_the_engine_may_change_while_a_run_goes_on(tmp_path: Path) -> None:
    first = config_of({**LEAST, "out": str(tmp_path / "run"), "engine": "ray", "ray": {"actors": 3}}, [])
    with RunFolder(first.out) as folder:
        folder.begin(first, {})
        folder.check_config(first.model_copy(update={"engine": "hf"}))
        assert folder.config() == first
        with pytest.raises(CcaError, match="other seed"):
            folder.check_config(first.model_copy(update={"engine": "hf", "seed": 1}))


def test_the_watch_finds_what_is_written_and_sends_whole_blocks() -> None:
    model = tiny_world.model("llama", torch.float32)
    watch = WeightWatch(model)
    assert watch.look() == []
    name, indices = "model.layers.1.mlp.up_proj.weight", torch.tensor([2])
    weight = model.get_parameter(name)
    set_rows_(weight, 0, indices, get_rows(weight, 0, indices) + 1)
    assert watch.look() == [name]
    assert watch.look() == []
    assert watch.state == 1
    sent = checkpoint_tensors(watch)
    assert set(sent) == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert torch.equal(sent[name], weight)
    sent[name].zero_()
    assert weight.abs().sum() > 0, "what is sent must be a copy"


def test_adapters_are_refused() -> None:
    model = tiny_world.model("llama", torch.float32)
    watch = WeightWatch(model)
    model.model.layers[0].register_parameter("extra", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(CcaError, match="set engine: hf"):
        watch.look()


def test_experts_are_sent_as_a_checkpoint_stores_them() -> None:
    model = {**TINY, **RARE}["qwen3-moe"]().requires_grad_(False)
    watch = WeightWatch(model)
    name = next(name for name, _ in model.named_parameters() if "experts" in name and "down" in name)
    with torch.no_grad():
        model.get_parameter(name)[1, 0] += 1
    assert watch.look() == [name]
    sent = checkpoint_tensors(watch)
    (one,) = (tensor for key, tensor in sent.items() if key.endswith("experts.1.down_proj.weight"))
    assert torch.equal(one, model.get_parameter(name)[1])
