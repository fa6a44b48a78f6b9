"""A plan as lines for the terminal."""

from __future__ import annotations

from cca.files import Row
from cca.reports.formats import count, duration

MEMORY = {"peak_cpu_bytes": "memory", "peak_gpu_bytes": "GPU memory"}


def plan_lines(plan: Row) -> list[str]:
    """The stages with tokens, time and memory, what was assumed, and the warnings."""
    stages = plan["stages"]
    devices = [key for key in MEMORY if key in stages["traces"]]
    heading = "".join(f"{MEMORY[key]:>14}" for key in devices)
    lines = [f"{'':<10}{'tokens':>14}{'time':>14}{heading}{'FLOPs':>12}"]
    for name, stage in stages.items():
        sizes = "".join(f"{stage[key] / 1e9:>11.2f} GB" for key in devices)
        lines.append(
            f"{name:<10}{count(stage['tokens']):>14}{duration(stage['seconds']):>14}{sizes}{stage['flops']:>12.1e}"
        )
    tokens, seconds = (sum(stage[key] for stage in stages.values()) for key in ("tokens", "seconds"))
    lines.append(f"{'all':<10}{count(tokens):>14}{duration(seconds):>14}")
    sample, expected, most = plan["sample"], plan["expected"], plan["at_most"]
    lines += [
        f"expected: {expected['pairs']} problems with traces of both verdicts, {expected['pivots']} pivots (greedy "
        f"accuracy {sample['greedy_accuracy']:.0%} on {sample['problems']} problems); prefixes of pivots "
        f"{plan['prefix_bytes'] / 1e9:.2f} GB",
        f"steps are not known beforehand: up to {most['steps']} for each circuit, expected {_expected(stages)}; "
        f"with all of them {duration(most['seconds'])}",
    ]
    return lines + [f"warning: {warning}" for warning in plan["warnings"]]


def _expected(stages: Row) -> str:
    """ "16 by amplify (1.9 s each), 8 by controls (1.8 s each)"."""
    return ", ".join(
        f"{own['steps']} by {name} ({duration(own['each']['seconds'])} each)"
        for name, own in stages.items()
        if "steps" in own
    )
