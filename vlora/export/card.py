"""The page of a repository that a run is pushed to: what it is, how it was made, how good it is, how to use it. Pure.

Nothing of the rows stands in it, no path of the machine, and no secret.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import attrs
from huggingface_hub import EvalResult, ModelCardData

from ..models.published.transformers_names import AUTO
from ..system.nouns import with_noun
from ..system.redaction import redact

CURVES = "curves.png"
"""The picture of a run's losses in its repository."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
PATH_KEYS = (
    *("model.path", "model.adapter_path", "data.path", "data.valid_path", "data.image_root", "data.chat_template"),
    *("output.path", "features.path"),
)
"""Keys of a recipe that may lead to places of a machine."""

SOURCES, SOURCE_PATHS = "data.sources", ("path", "image_root")
"""The key of several sources, and those of theirs that may lead to places of a machine."""

PIPELINE = "image-text-to-text"


@attrs.frozen(kw_only=True)
class Described:
    """What a card says.

    Attributes:
        repo: The repository, "owner/name".
        base: The base's hub id, or the last part of its path.
        has_hub_base: Whether it is a hub id.
        revision: The commit of the base; None where it is not known.
        is_adapter: Whether an adapter is pushed, and not a whole model.
        method: How it was trained, in words; None where it is not known, as of a fused model.
        data: The rows: a hub id, or the last part of their path; None where it is not known.
        has_hub_data: Whether that is a hub id.
        n_rows: How many rows it was trained on; None where it is not known.
        n_steps: Steps taken.
        scores: Name of a score to its last value.
        licence: Of the base; None where it is not known.
        recipe: The run's recipe as TOML, without places of the machine; None where there is none.
        versions: Names of packages to versions.
        has_curves: Whether there is a picture of the losses.
        has_peft_form: Whether PEFT has a form for an adapter: it has none for added tokens.
        opener: transformers' class that opens the base.
        like: A base in transformers' own layout, where it does not open published ones; None where it does.
        vllm_rank: What vLLM's --max-lora-rank has to be at least for an adapter; None if it takes no such adapter.
    """

    repo: str
    base: str
    has_hub_base: bool
    revision: str | None = None
    is_adapter: bool
    method: str | None
    data: str | None = None
    has_hub_data: bool = False
    n_rows: int | None = None
    n_steps: int = 0
    scores: Mapping[str, float] = attrs.field(factory=dict)
    licence: str | None = None
    recipe: str | None = None
    versions: Mapping[str, str] = attrs.field(factory=dict)
    has_curves: bool = False
    has_peft_form: bool = True
    opener: str = AUTO
    like: str | None = None
    vllm_rank: int | None = None


def name_place(place: str, *, exists: bool) -> tuple[str, bool]:
    """Name a model or rows without saying where they lie on a machine.

    Args:
        place: A hub id, an address or a path.
        exists: Whether there is a file or folder called so.

    Returns:
        The hub id, or the last part of the path; and whether it is a hub id.
    """
    is_hub_id = not exists and HUB_ID.fullmatch(place) is not None
    return (place if is_hub_id else PurePath(redact(place)).name or "a folder"), is_hub_id


def without_places(recipe: Mapping[str, Any], exists: Sequence[str]) -> dict[str, Any]:
    """Give a recipe's values by dotted key without paths of the machine and without secrets.

    Args:
        recipe: Values by dotted key.
        exists: Keys whose values are files or folders here; those of a source as `source_key` writes them.
    """
    found = dict(recipe)
    for key, value in recipe.items():
        if isinstance(value, str):
            found[key] = name_place(value, exists=key in exists)[0] if key in PATH_KEYS else redact(value)
    if isinstance(sources := recipe.get(SOURCES), list):
        found[SOURCES] = [
            {
                name: value
                if not isinstance(value, str)
                else name_place(value, exists=source_key(place, name) in exists)[0]
                if name in SOURCE_PATHS
                else redact(value)
                for name, value in source.items()
            }
            for place, source in enumerate(sources)
        ]
    return found


def source_key(place: int, name: str) -> str:
    """Write the key of a source."""
    return f"{SOURCES}[{place}].{name}"


def make_metadata(card: Described) -> ModelCardData:
    """Make the metadata of a card, under the hub's keys."""
    tags = ["mlx", "vlora", "vision-language-model"]
    results = [
        EvalResult(
            task_type=PIPELINE,
            dataset_type=card.data or "unknown",
            dataset_name=card.data or "unknown",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in card.scores.items()
    ]
    return ModelCardData(
        base_model=card.base if card.has_hub_base else None,
        base_model_relation=("adapter" if card.is_adapter else "finetune") if card.has_hub_base else None,
        datasets=[card.data] if card.data and card.has_hub_data else None,
        library_name="mlx",
        license=card.licence,
        pipeline_tag=PIPELINE,
        tags=[*tags, "lora"] if card.is_adapter else tags,
        model_name=card.repo.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )


def write_card(card: Described) -> str:
    """Write README.md: the metadata, and what people read."""
    name = card.repo.rpartition("/")[2]
    parts = [f"---\n{make_metadata(card).to_yaml()}\n---", f"# {name}", _describe(card)]
    if card.scores:
        rows = "\n".join(f"| {score} | {value:.4f} |" for score, value in card.scores.items())
        steps = with_noun(card.n_steps, "step")
        parts.append(f"## Scores\n\nOn rows that were held out, after {steps}.\n\n| | |\n|---|---|\n{rows}")
    if card.has_curves:
        parts.append(f"## Curves\n\n![Losses over the steps of the run]({CURVES})")
    parts.append("\n\n".join(["## Use", *(_use_adapter(card) if card.is_adapter else _use_model(card))]))
    if card.recipe:
        parts.append(
            "## Recipe\n\nAs `python -m vlora` carries it out; paths are named by their last part.\n\n"
            f"```toml\n{card.recipe.strip()}\n```"
        )
    if card.versions:
        parts.append(
            "## Versions\n\n" + ", ".join(f"{package} {version}" for package, version in card.versions.items())
        )
    return "\n\n".join(parts) + "\n"


def _describe(card: Described) -> str:
    if card.method is None:
        return "A fine-tuned model; its files do not say of which model, and how it was trained."
    base = f"[{card.base}](https://huggingface.co/{card.base})" if card.has_hub_base else f"`{card.base}`"
    version = f" at commit `{card.revision}`" if card.revision else ""
    kind = "An adapter for" if card.is_adapter else "A fine-tuned version of"
    rows = "" if card.n_rows is None else f"{with_noun(card.n_rows, 'row')} of "
    data = f" on {rows}`{card.data}`" if card.data else ""
    steps = f" in {with_noun(card.n_steps, 'step')}" if card.n_steps else ""
    return f"{kind} {base}{version}, trained by {card.method}{data}{steps} with vlora."


def _use_adapter(card: Described) -> list[str]:
    base = card.base if card.has_hub_base else f"path/to/{card.base}"
    return [
        "With mlx_vlm, on a Mac or on Linux:",
        _code(
            "python",
            "from huggingface_hub import snapshot_download",
            "from mlx_vlm import load",
            "",
            f'model, processor = load("{base}", adapter_path=snapshot_download("{card.repo}"))',
        ),
        "With vlora, in the terminal:",
        _code(
            "sh",
            f"hf download {card.repo} --local-dir adapter",
            "python -m vlora run adapter --image cat.png --prompt 'What is it?'",
        ),
        *_use_in_peft(card, base),
        *_use_in_vllm(card, base),
        "As one model, in the layout of its base: `python -m vlora fuse adapter --out model`.",
    ]


def _use_in_peft(card: Described, base: str) -> list[str]:
    if not card.has_peft_form:
        return ["With transformers, which has no place for added tokens in an adapter, as one model (below)."]
    converted = "of a base that was converted for MLX, name the model that it was converted from here and with `--base`"
    if card.like is not None:
        converted = f"it opens a base only in a layout of its own, as `{card.like}` is"
        base = card.like
    return [
        f"With transformers and PEFT, after it was written in their layout; {converted}:",
        _code("sh", "python -m vlora export adapter --to peft --out peft-adapter"),
        _code(
            "python",
            "from peft import PeftModel",
            f"from transformers import {card.opener}",
            "",
            f'model = {card.opener}.from_pretrained("{base}")',
            'model = PeftModel.from_pretrained(model, "peft-adapter")',
        ),
    ]


def _use_in_vllm(card: Described, base: str) -> list[str]:
    """Say how vLLM serves an adapter. What it takes of a tower depends on the family, and export says it."""
    if card.vllm_rank is None:
        return ["With vLLM, which takes no such adapter, as one model (below)."]
    name = card.repo.rpartition("/")[2]
    options = "all options of the second, and a larger rank where layers are parts of one in transformers"
    return [
        f"With vLLM, after it was written within what that takes; the first command prints {options}:",
        _code(
            "sh",
            "python -m vlora export adapter --to vllm --out vllm-adapter",
            f"vllm serve {base} --enable-lora --max-lora-rank {card.vllm_rank} --lora-modules {name}=vllm-adapter",
        ),
    ]


def _use_model(card: Described) -> list[str]:
    return [
        _code("python", "from mlx_vlm import load", "", f'model, processor = load("{card.repo}")'),
        "With transformers and with vLLM, if it is in the layout that its base was published in:",
        _code(
            "python",
            "from transformers import AutoModelForImageTextToText",
            "",
            f'model = AutoModelForImageTextToText.from_pretrained("{card.repo}")',
        ),
        _code("sh", f"vllm serve {card.repo}"),
    ]


def _code(language: str, *lines: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
