"""The patch file: read back to the bit, the same bytes for the same patch, no fault accepted in silence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cca.errors import CcaError
from cca.patches.patch import Patch
from cca.patches.patch_content import FORMAT
from cca.patches.patch_file import digest, load_patch, save_patch, to_bytes

FILES = Path(__file__).parent / "files"


def small_patch(dtype: torch.dtype = torch.float32) -> Patch:
    """Also what the stored file of every version holds: keep it, and make another for another need."""
    model = nn.ModuleDict({"up_proj": nn.Linear(3, 4), "down_proj": nn.Linear(4, 2, bias=False)})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view(parameter.shape) / 8)
    model.to(dtype)
    up, down = model["up_proj"].weight.detach(), model["down_proj"].weight.detach()
    edits = [
        ("up_proj.weight", 0, torch.tensor([1, 3]), up[[1, 3]], up[[1, 3]] + 1),
        ("down_proj.weight", 1, torch.tensor([2]), down[:, 2:3].T, down[:, 2:3].T * -2),
    ]
    made_by = {"cca": "0.1.0", "gain": {"points": 12.5, "interval": [8.0, 17.0]}}
    return Patch.from_edits(model, edits, "some/model", "abc123", ["L0.neuron1", "L0.neuron3"], made_by)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_patch_reads_back_as_it_was(tmp_path: Path, dtype: torch.dtype) -> None:
    patch = small_patch(dtype)
    save_patch(tmp_path / "patch.safetensors", patch)
    loaded = load_patch(tmp_path / "patch.safetensors")
    assert loaded == patch
    assert digest(loaded) == digest(patch)
    assert to_bytes(loaded) == to_bytes(patch)


def test_a_patch_without_edits_reads_back(tmp_path: Path) -> None:
    patch = Patch((), "some/model", None, {}, {})
    save_patch(tmp_path / "patch.safetensors", patch)
    assert load_patch(tmp_path / "patch.safetensors") == patch


def test_the_digest_depends_on_everything() -> None:
    patch = small_patch()
    seen = {digest(patch)}
    for field, value in {
        "base_model": "other",
        "base_revision": None,
        "circuit": [],
        "made_by": {},
        "base_hashes": dict.fromkeys(patch.base_hashes, "0" * 64),
        "tied": {"up_proj.weight": ["alias"]},
        "edits": patch.edits[:1],
    }.items():
        seen.add(digest(Patch(**{**vars(patch), field: value})))
    assert len(seen) == 8


@pytest.mark.parametrize("path", sorted(FILES.glob("patch_v*.safetensors")), ids=lambda path: path.stem)
def test_files_of_every_version_are_read(path: Path) -> None:
    assert load_patch(path) == small_patch()


def test_there_is_a_stored_file_for_this_version() -> None:
    assert (FILES / f"patch_v{small_patch().version}.safetensors").exists()


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """The small patch with header and tensors changed by ``change``, its digest left as it was."""
    save_patch(path, small_patch())
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
        names = file.keys()
        tensors = {name: file.get_tensor(name).clone() for name in names}
    change(header, tensors)
    save_file(tensors, path, metadata={FORMAT: json.dumps(header)})
    return path


def edit_field(name: str, value: object) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda header, tensors: header["edits"][0].update({name: value})  # noqa: ARG005


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "expected format version 1 to 1, got 2": lambda header, _: header.update(version=2),
    "expected format version 1 to 1, got True": lambda header, _: header.update(version=True),
    "header of format": lambda header, _: header.update(format="cca.traces"),
    "expected the fields": lambda header, _: header.update(surprise=1),
    "'base_model' to be a text": lambda header, _: header.update(base_model=3),
    "'base_revision' to be": lambda header, _: header.update(base_revision=3),
    "'circuit' to be": lambda header, _: header.update(circuit=[1]),
    "'made_by' to be": lambda header, _: header.update(made_by=[]),
    "'edits' to be": lambda header, _: header.update(edits={}),
    "each edit to be": lambda header, _: header.update(edits=[3]),
    "each parameter once": lambda header, _: header["edits"].reverse(),
    "the tensors of 1 edits": lambda header, _: header["edits"].pop(),
    "expected fields axis": lambda header, _: header["edits"][0].pop("tied"),
    "'axis' to be": edit_field("axis", "0"),
    "no rows along axis 7": edit_field("axis", 7),
    "'parameter' to be": edit_field("parameter", 5),
    "'shape' to be": edit_field("shape", [2, -4]),
    "1 to 3 sizes": edit_field("shape", [2, 4, 1, 1]),
    "expected 'before' of shape": edit_field("shape", [3, 4]),
    r"must lie in 0 \.\.\. 1": edit_field("shape", [2, 2]),
    "64 hex digits": edit_field("sha256", "abc"),
    "'tied' to be": edit_field("tied", "name"),
    "does not have the digest": lambda header, _: header.update(base_model="other/model"),
    "not have the digest in": lambda _, tensors: tensors["up_proj.weight:after"].mul_(2),
    "ascending row indices": lambda _, tensors: tensors.update({"up_proj.weight:indices": torch.tensor([3, 1])}),
    "1-D int64 indices": lambda _, tensors: tensors.update({"up_proj.weight:indices": torch.tensor([1.0, 3.0])}),
    "expected one dtype": lambda _, tensors: tensors.update(
        {"up_proj.weight:after": tensors["up_proj.weight:after"].half()}
    ),
    "in float32, float16 or": lambda _, tensors: tensors.update(
        {"up_proj.weight:before": tensors["up_proj.weight:before"].int()}
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_wrong_field_is_refused_in_one_line(tmp_path: Path, message: str) -> None:
    path = rewritten(tmp_path / "patch.safetensors", CHANGES[message])
    with pytest.raises(CcaError, match=message) as refusal:
        load_patch(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_texts_that_would_steer_a_terminal_are_neither_written_nor_read(tmp_path: Path) -> None:
    patch = small_patch()
    for field, value in {"base_model": "a\x1b[2J", "base_revision": "a\nb", "circuit": ["L0.q1\r"]}.items():
        with pytest.raises(CcaError, match=field):
            save_patch(tmp_path / "patch.safetensors", Patch(**{**vars(patch), field: value}))
    assert not list(tmp_path.iterdir())
    path = rewritten(tmp_path / "patch.safetensors", edit_field("parameter", "up_proj\x1b"))
    with pytest.raises(CcaError, match="'parameter' to be a name"):
        load_patch(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": NaN}', "[" * 100_000, '{"version":' + "9" * 5000 + "}"])
def test_a_header_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "patch.safetensors"
    save_file({}, path, metadata={FORMAT: text})
    with pytest.raises(CcaError, match="header"):
        load_patch(path)


def test_numbers_beyond_every_float_are_refused(tmp_path: Path) -> None:
    patch = replace(small_patch(), made_by={"claims": {"gain": {"points": 10**400}}})
    with pytest.raises(CcaError, match="expected a JSON header, got a number of 401 digits"):
        save_patch(tmp_path / "p", patch)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_text("")
    (tmp_path / "huge").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    for name in ("model.safetensors", "text", "empty", "huge", "missing", "."):
        with pytest.raises(CcaError, match="patch file"):
            load_patch(tmp_path / name)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_refused_or_mean_the_same(tmp_path: Path, data: st.DataObject) -> None:
    patch = small_patch()
    content = bytearray(to_bytes(patch))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "truncate"]))
        if kind == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place : place + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del content[place:]
        if not content:
            break
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(content)
    try:
        loaded = load_patch(path)
    except CcaError as error:
        refusal = str(error)
    else:
        assert loaded == patch
        return
    assert "\n" not in refusal
