"""Released checkpoints of the published LeWM: a folder with `config.json` and `weights.pt`, read without running it."""

import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lewm.config import ActionConfig, Config, PlanConfig
from lewm.families.published.model import Published
from lewm.families.published.released_config import from_released, to_released
from lewm.families.published.settings import PublishedSettings
from lewm.files import atomic_path, shorten, write_text

CONFIG, WEIGHTS = "config.json", "weights.pt"

_RENAMED = (
    (r"^encoder\.class_token$", "encoder.embeddings.cls_token"),
    (r"^encoder\.positions$", "encoder.embeddings.position_embeddings"),
    (r"^encoder\.patch\.", "encoder.embeddings.patch_embeddings.projection."),
    (r"^encoder\.norm\.", "encoder.layernorm."),
    (r"^encoder\.blocks\.(\d+)\.norm1\.", r"encoder.{layers}.\1.layernorm_before."),
    (r"^encoder\.blocks\.(\d+)\.norm2\.", r"encoder.{layers}.\1.layernorm_after."),
    (r"^encoder\.blocks\.(\d+)\.(query|key|value|out|fc1|fc2)\.", r"encoder.{layers}.\1.{\2}."),
    (r"^predictor\.positions$", "predictor.pos_embedding"),
    (r"^predictor\.norm\.", "predictor.transformer.norm."),
    (r"^predictor\.blocks\.(\d+)\.attention_norm\.", r"predictor.transformer.layers.\1.attn.norm."),
    (r"^predictor\.blocks\.(\d+)\.qkv\.", r"predictor.transformer.layers.\1.attn.to_qkv."),
    (r"^predictor\.blocks\.(\d+)\.out\.", r"predictor.transformer.layers.\1.attn.to_out.0."),
    (r"^predictor\.blocks\.(\d+)\.mlp_norm\.", r"predictor.transformer.layers.\1.mlp.net.0."),
    (r"^predictor\.blocks\.(\d+)\.fc1\.", r"predictor.transformer.layers.\1.mlp.net.1."),
    (r"^predictor\.blocks\.(\d+)\.fc2\.", r"predictor.transformer.layers.\1.mlp.net.4."),
    (r"^predictor\.blocks\.(\d+)\.modulation\.", r"predictor.transformer.layers.\1.adaLN_modulation.1."),
    (r"^action_embed\.mix\.", "action_encoder.patch_embed."),
    (r"^action_embed\.fc1\.", "action_encoder.embed.0."),
    (r"^action_embed\.fc2\.", "action_encoder.embed.2."),
    (r"^encoder\.projector\.fc1\.", "projector.net.0."),
    (r"^encoder\.projector\.norm\.", "projector.net.1."),
    (r"^encoder\.projector\.fc2\.", "projector.net.3."),
    (r"^predictor\.projector\.fc1\.", "pred_proj.net.0."),
    (r"^predictor\.projector\.norm\.", "pred_proj.net.1."),
    (r"^predictor\.projector\.fc2\.", "pred_proj.net.3."),
)
"""Our names, as patterns, and the released ones."""

_TRANSFORMERS = (
    {
        "layers": "encoder.layer",
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "out": "attention.output.dense",
        "fc1": "intermediate.dense",
        "fc2": "output.dense",
    },
    {
        "layers": "layers",
        "query": "attention.q_proj",
        "key": "attention.k_proj",
        "value": "attention.v_proj",
        "out": "attention.o_proj",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
)
"""What the encoder's layers are called by transformers 4 and the first releases of 5, and by the later ones of 5."""

# What reading a damaged or hostile pickle raises: the safe unpickler refuses in many ways.
_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, struct.error),
)


@dataclass(frozen=True, slots=True)
class Released:
    """A released model as our family holds it."""

    settings: PublishedSettings
    weights: dict[str, Tensor]
    """By our names; without the moments of the actions, which the release keeps with the data."""
    action_inputs: int
    """f*A: numbers of a model action, the frame-skip's sub-actions concatenated."""


def read_released(folder: Path) -> Released:
    """Read a released model; nothing in the folder is executed.

    Args:
        folder: Folder with `config.json`, whose `_target_` entries are names and are never called, and `weights.pt`, a
            dictionary of tensors; of another name if it is the one `.pt` file there.

    Raises:
        ValueError: If a file is missing or damaged, the configuration is not one of the published LeWM, or the tensors
            are not exactly those that it needs.
    """
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one with {CONFIG} and {WEIGHTS}")
    if not weights.is_file() and len(others := sorted(folder.glob("*.pt"))) == 1:
        weights = others[0]
    for file in (config, weights):
        if not file.is_file():
            raise ValueError(f"{folder}: has no {file.name}; give a folder with {CONFIG} and {WEIGHTS}")
    settings, action_inputs = from_released(_read_json(config), str(config))
    return Released(settings, _fitted(settings, action_inputs, _read_tensors(weights), weights), action_inputs)


def write_released(folder: Path, model: Published) -> None:
    """Write a model as the release does, with the names of transformers 4.

    The moments of its actions are left out, as in the release: whoever loads it takes them from data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        torch.save(released_weights(model), temporary)
    config = to_released(model.settings, model.action_embed.mix.in_channels)
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def released_weights(model: Published) -> dict[str, Tensor]:
    """Return a model's tensors by the names that the release has with transformers 4."""
    names, ours = _released_names(model.settings, model.action_embed.mix.in_channels)[0], model.state_dict()
    return {theirs: ours[name].detach().cpu() for name, theirs in names.items()}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); restore the file") from None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):  # the older form is a bare pickle, which no release is
        raise ValueError(f"{path}: is no file of torch.save; restore the file, or save the model's state dict again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles, which are refused or harmless
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error) or type(error).__name__
        if named := re.search(r"(?:GLOBAL|class) ([\w.]+)", reason):
            reason = f"it names {named[1]}"
        elif told := re.search(r"WeightsUnpickler error: (.+)", reason):
            reason = told[1]
        elif reason.startswith("Weights only"):
            reason = "damaged"
        reason = shorten(reason, 80)
        raise ValueError(
            shorten(f"{path}: is no dictionary of tensors alone ({reason}); nothing in it was run, give a state dict")
        ) from None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError(f"{path}: is no dictionary of tensors by name; give the model's state dict")
    return dict(tensors)


def _released_names(settings: PublishedSettings, action_inputs: int) -> list[dict[str, str]]:
    """Return the released name of each of our tensors, once for each form of the encoder's layers."""
    names = [name for name in _shapes(settings, action_inputs) if not re.search(r"^action_embed\.(mean|std)$", name)]
    return [{name: _released(name, layers) for name in names} for layers in _TRANSFORMERS]


def _released(name: str, layers: Mapping[str, str]) -> str:
    for pattern, theirs in _RENAMED:
        if match := re.match(pattern, name):
            return match.expand(theirs).format_map(layers) + name[match.end() :]
    raise AssertionError(name)


def _shapes(settings: PublishedSettings, action_inputs: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # shapes without numbers
        model = Published(
            Config(action=ActionConfig(size=action_inputs), model=settings, plan=PlanConfig(cost="tokens"))
        )
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _fitted(
    settings: PublishedSettings, action_inputs: int, tensors: Mapping[str, Tensor], source: Path
) -> dict[str, Tensor]:
    """Return tensors by our names, all of them and of their shapes."""
    layers = settings.depth + settings.predictor_depth
    if layers > len(tensors):  # before anything of that many layers is made
        raise ValueError(f"{source}: has {len(tensors)} tensors, and {CONFIG} makes {layers} layers; give both of one")
    dialects = _released_names(settings, action_inputs)
    names = max(dialects, key=lambda names: len(tensors.keys() & set(names.values())))
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    unknown = sorted(tensors.keys() - set(names.values()))
    if missing or unknown:
        found = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not of the model"
        if missing and unknown:
            found += f" and {unknown[0]} is unknown"
        raise ValueError(
            shorten(
                f"{source}: {found} ({len(tensors) - len(unknown)} of {len(names)} tensors are there); give the "
                f"weights that {CONFIG} came with"
            )
        )
    shapes = _shapes(settings, action_inputs)
    for ours, theirs in names.items():
        _check_tensor(tensors[theirs], shapes[ours], f"{source}: {theirs}")
    whole = torch.int64  # of the batches that a norm has seen
    return {
        ours: tensors[theirs].to(whole if ours.endswith("num_batches_tracked") else torch.float32).contiguous()
        for ours, theirs in names.items()
    }


def _check_tensor(tensor: Tensor, shape: tuple[int, ...], where: str) -> None:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_complex() or tensor.is_quantized:
        raise ValueError(f"{where}: is no plain tensor of real numbers; give the model's state dict")
    if tuple(tensor.shape) != shape:
        found = tuple(tensor.shape)
        raise ValueError(
            f"{where}={found}: {CONFIG} makes it {shape}; give the configuration that the weights came with"
        )
    whole = "give weights that are whole"
    if not tensor.isfinite().all():
        raise ValueError(f"{where}: has numbers that are not finite; {whole}")
    if where.endswith("running_var") and bool((tensor < 0).any()):
        raise ValueError(f"{where}={float(tensor.min()):.3g}: a variance must not be negative; {whole}")
