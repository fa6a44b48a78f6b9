"""The memory a plan foretells: of the whole process by stage and device, of prefixes; and what will not fit.

A rehearsed stage tells what it took beside the model; that grows with the rows of a batch. Prefixes of pivots and the
base's distributions are counted exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import torch

from cca.evaluation.drift import MAX_CACHED_BYTES
from cca.files import Row
from cca.models.forward.prefixes import common_prefix
from cca.models.memory import free_memory
from cca.runs.findings import Rehearsal
from cca.runs.session import Session

KNOBS = {
    "traces": "traces.batch_size",
    "pivots": "traces.batch_size",
    "circuit": "circuit.batch_size, or fewer pivots (pivots.most)",
    "amplify": "amplify.batch_size, or amplify.gradient_checkpointing",
    "evaluate": "traces.batch_size",
    "controls": "amplify.batch_size",
}
TRACE_BYTES = 60
"""Of run folder a traced token: its id, its text, its share of the rest of the row."""


def memory_of(
    found: Rehearsal, pivots: float, guards: Mapping[str, int], reported: Mapping[str, int]
) -> dict[str, Row]:
    """``peak_cpu_bytes`` and ``peak_gpu_bytes`` of each stage, and the bytes of all prefixes."""
    session = found.session
    batch = session.config.traces.batch_size
    decoded = max((call.work.requests for call in found.traced), default=1.0)
    grown = max(1.0, min(batch, len(session.task.train)) / min(batch, decoded))
    prefixes = _prefix_bytes(found, pivots)
    sizes = {
        "traces": {"generation": grown},
        "pivots": {"generation": grown},
        "circuit": {"circuit": 1.0},
        "amplify": {"generation": grown, "amplify": 1.0},
        "evaluate": {"generation": grown, "left": 1.0},
        "controls": {"generation": grown, "amplify": 1.0},
    }
    kept = {
        "circuit": prefixes,
        "amplify": _distributions(session, guards),
        "evaluate": _distributions(session, reported),
        "controls": _distributions(session, guards) + _distributions(session, reported),
    }
    memory: dict[str, Row] = {}
    for stage, pieces in sizes.items():
        memory[stage] = {}
        for device, base in found.base_bytes.items():
            took = max(found.piece_bytes.get(piece, {}).get(device, 0) * by for piece, by in pieces.items())
            stays = kept.get(stage, 0) if _keeps(stage, device, found) else 0
            memory[stage][f"peak_{device}_bytes"] = base + took + stays
    memory["prefixes"] = {"bytes": prefixes}
    memory["held"] = {f"{device}_bytes": base for device, base in found.base_bytes.items()}
    return memory


def warnings(session: Session, memory: Mapping[str, Row]) -> list[str]:
    """What will not fit, each with the knob that helps."""
    told: list[str] = []
    device = session.model.device
    name = "gpu" if device.type == "cuda" else "cpu"
    free = free_memory(device)
    for stage, knob in KNOBS.items():
        peak = memory[stage].get(f"peak_{name}_bytes", 0)
        room = free + memory["held"][f"{name}_bytes"]
        if peak > room:
            told.append(
                f"{stage}: needs about {gigabytes(peak)} of {name} memory and {gigabytes(room)} are there; "
                f"lower {knob}"
            )
    return told + _disk(session)


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _disk(session: Session) -> list[str]:
    rows = len(session.task.train) * (1 + session.config.traces.samples)
    needed = rows * session.max_new_tokens * TRACE_BYTES
    place = session.config.out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed <= free:
        return []
    return [
        f"disk: traces may take up to {gigabytes(needed)} and {place} has {gigabytes(free)}; make room, or take "
        "another 'out'"
    ]


def _keeps(stage: str, device: str, found: Rehearsal) -> bool:
    """Distributions are kept in main memory, prefixes where the model is."""
    on_gpu = found.session.model.device.type == "cuda"
    return device == ("gpu" if on_gpu and stage == "circuit" else "cpu")


def _prefix_bytes(found: Rehearsal, pivots: float) -> int:
    """Keys and values of every pivot's own prefix, and once of what all share."""
    session = found.session
    dtype = torch.tensor([], dtype=session.model.dtype).element_size()
    a_token = (
        sum(layer.n_kv_heads * (layer.head_dim + layer.v_head_dim) for layer in session.anatomy.layers)
        * dtype
    )
    prompts = [session.grader.prompt_ids(problem) for problem in session.task.train[:64]]
    shared = common_prefix(prompts) if len(prompts) > 1 else 0
    return round(a_token * (shared + pivots * max(0.0, found.pivot_tokens - shared)))


def _distributions(session: Session, sizes: Mapping[str, int]) -> int:
    """The base's log-probabilities on the solutions of so many problems a skill (float32)."""
    vocabulary = session.model.config.get_text_config().vocab_size
    codec, total = session.grader.codec, 0
    for name, count in sizes.items():
        some = session.task.retention[name][:16]
        tokens = sum(len(codec.encode_continuation(f" {p.solution or p.answer}")) for p in some) / len(some)
        total += min(MAX_CACHED_BYTES, round(4 * vocabulary * tokens * count))
    return total
