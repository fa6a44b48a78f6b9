"""Two small lm-eval tasks and a group of them in a local folder, and a tiny model with a patch to try them on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel

import tiny_world
from cca.models.anatomy.weight_rows import get_rows
from cca.patches.patch import Patch

CHOICE = """
task: cca_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.json}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
num_fewshot: 2
fewshot_split: test
"""
WRITING = """
task: cca_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/writing.json}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["w5"], max_gen_toks: 4, do_sample: false}}
filter_list: [{{name: first, filter: [{{function: regex, regex_pattern: "(w[0-9]+)"}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match}}]
"""
GROUP = """
group: cca_both
task: [cca_choice, cca_writing]
"""


def words(generator: torch.Generator, count: int) -> str:
    return " ".join(f"w{n}" for n in torch.randint(3, 64, (count,), generator=generator).tolist())


def write_tasks(folder: Path, documents: int = 40) -> Path:
    """The folder to give as ``include_path``."""
    generator = torch.Generator().manual_seed(0)
    folder.mkdir()
    choices = [
        {
            "question": words(generator, 5),
            "choices": [words(generator, 1 + n) for n in range(3)],
            "answer": int(torch.randint(0, 3, (1,), generator=generator)),
        }
        for _ in range(documents)
    ]
    # Few answers, so that a model without a clue is right now and then.
    texts = [{"question": words(generator, 4), "answer": f"w{3 + n % 8}"} for n in range(documents)]
    (folder / "choice.json").write_text(json.dumps(choices))
    (folder / "writing.json").write_text(json.dumps(texts))
    for name, text in (("choice", CHOICE), ("writing", WRITING), ("group", GROUP)):
        (folder / f"{name}.yaml").write_text(text.format(folder=folder))
    return folder


def model_and_patch(folder: Path) -> tuple[PreTrainedModel, Patch]:
    """A random model, saved in ``folder`` with its tokenizer, and a patch that changes much of what it says."""
    torch.manual_seed(0)
    model = tiny_world.model("llama", torch.float32)
    model.save_pretrained(folder)
    tiny_world.tokenizer().save_pretrained(folder)
    edits = []
    for name, parameter in model.named_parameters():
        if name.endswith(("up_proj.weight", "v_proj.weight")):
            indices = torch.arange(0, parameter.shape[0], 2)
            before = get_rows(parameter.detach(), 0, indices).clone()
            edits.append((name, 0, indices, before, before + 0.3 * torch.randn(before.shape)))
    return model, Patch.from_edits(model, edits, str(folder))
