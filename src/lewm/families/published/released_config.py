"""The released configuration of the published LeWM, as data: what it says in our settings, and ours in its form."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from lewm.families.published.settings import PublishedSettings
from lewm.files import shorten

_LEWM = "stable_worldmodel.wm.lewm"
_MLP, _NORM = (f"{_LEWM}.module.MLP", "module.MLP"), ("torch.nn.BatchNorm1d",)
_TARGETS = {
    "_target_": (f"{_LEWM}.LeWM", f"{_LEWM}.lewm.LeWM", "jepa.JEPA"),
    "encoder._target_": ("stable_pretraining.backbone.utils.vit_hf",),
    "predictor._target_": (f"{_LEWM}.module.Predictor", f"{_LEWM}.module.ARPredictor", "module.ARPredictor"),
    "action_encoder._target_": (f"{_LEWM}.module.Embedder", "module.Embedder"),
    "projector._target_": _MLP,
    "projector.norm_fn._target_": _NORM,
    "pred_proj._target_": _MLP,
    "pred_proj.norm_fn._target_": _NORM,
}
"""What the parts are called in the configurations of the releases. Names alone: nothing is imported by them."""
_FIXED = {
    "encoder.pretrained": False,
    "encoder.use_mask_token": False,
    "projector.norm_fn._partial_": True,
    "pred_proj.norm_fn._partial_": True,
}
_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, depth and heads by `encoder.size`; the width of its MLPs is four times its own."""
_WIDTHS = (
    *("predictor.input_dim", "predictor.hidden_dim", "predictor.output_dim", "action_encoder.emb_dim"),
    *("projector.input_dim", "projector.output_dim", "pred_proj.input_dim", "pred_proj.output_dim"),
)
_FIELDS = {
    "image_size": ("encoder.image_size",),
    "patch_size": ("encoder.patch_size",),
    "width": _WIDTHS,
    "history": ("predictor.num_frames",),
    "predictor_depth": ("predictor.depth",),
    "predictor_heads": ("predictor.heads",),
    "predictor_mlp_width": ("predictor.mlp_dim",),
    "predictor_head_width": ("predictor.dim_head",),
    "dropout": ("predictor.dropout",),
    "input_dropout": ("predictor.emb_dropout",),
    "action_channels": ("action_encoder.smoothed_dim",),
    "mlp_ratio": ("action_encoder.mlp_scale",),
    "projector_width": ("projector.hidden_dim", "pred_proj.hidden_dim"),
}
"""Where the value of each of our settings stands; the same one at all of its places."""
_INPUTS = "action_encoder.input_dim"
_DEFAULTS = {
    "encoder.size": "tiny",
    "encoder.patch_size": 16,
    "encoder.image_size": 224,
    "predictor.dim_head": 64,
    "predictor.dropout": 0.0,
    "predictor.emb_dropout": 0.0,
    "action_encoder.smoothed_dim": 10,
    "action_encoder.mlp_scale": 4,
}
"""Values that a configuration may leave out."""
_ALSO = {"embed_dim": "width", "history_size": "history"}
"""Entries that a configuration may have besides, and the setting that they repeat."""
_MOST = 1_000_000  # more is no size of a model, and would not fit


def from_released(config: Any, source: str) -> tuple[PublishedSettings, int]:
    """Return the settings that a released configuration says, and f*A, the numbers of a model action.

    Args:
        config: The configuration as JSON was read.
        source: The file, for errors.

    Raises:
        ValueError: If it is of another model, or an entry is unknown, missing or of a value that the model has not.
    """
    given = dict(_entries(config, ""))
    said = _DEFAULTS | given

    def require(ok: bool, entry: str, constraint: str) -> None:
        if not ok:
            found = f"={said[entry]}" if entry in said else " is missing"
            remedy = "give a configuration of the published LeWM"
            raise ValueError(shorten(f"{source}: {entry}{found}: {constraint}; {remedy}"))

    for entry, names in _TARGETS.items():
        require(said.get(entry) in names, entry, f"must be {names[0]}")
    for entry, value in _FIXED.items():
        require(said.get(entry) is value, entry, f"must be {str(value).lower()}")
    require(said["encoder.size"] in tuple(_SIZES), "encoder.size", f"must be one of {', '.join(_SIZES)}")
    width, depth, heads = _SIZES[said["encoder.size"]]
    values: dict[str, Any] = {"width": width, "depth": depth, "num_heads": heads, "mlp_ratio": 4}
    for field, places in _FIELDS.items():
        for entry in places:
            value = values.setdefault(field, said.get(entry))
            require(
                entry in said and said[entry] == value and _is_size(said[entry], field), entry, _wanted(field, value)
            )
    for entry, field in _ALSO.items():
        require(entry not in said or said[entry] == values[field], entry, f"must be {values[field]}")
    require(_is_size(said.get(_INPUTS), _INPUTS), _INPUTS, _wanted(_INPUTS, None))
    known = {*_TARGETS, *_FIXED, *_ALSO, _INPUTS, "encoder.size", *chain(*_FIELDS.values())}
    for entry in given:
        require(entry in known, entry, "is no setting of it")

    settings = PublishedSettings(**values)
    try:
        settings.validate()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return settings, said[_INPUTS]


def to_released(settings: PublishedSettings, action_inputs: int) -> dict[str, Any]:
    """Write settings in the released form.

    Raises:
        ValueError: If the encoder is of a size that the release has no name for.
    """
    sizes = {size: name for name, size in _SIZES.items()}
    name = sizes.get((settings.width, settings.depth, settings.num_heads))
    if name is None or settings.mlp_ratio != 4:
        known = ", ".join(f"{name} {size}" for name, size in _SIZES.items())
        raise ValueError(
            f"model.width={settings.width}: the release has no name for this encoder; it can be written with width, "
            f"depth and heads of {known}, and mlp_ratio 4"
        )
    entries: dict[str, Any] = {entry: names[0] for entry, names in _TARGETS.items()} | _FIXED
    entries |= {"encoder.size": name, _INPUTS: action_inputs}
    entries |= {entry: getattr(settings, field) for field, places in _FIELDS.items() for entry in places}
    config: dict[str, Any] = {}
    for entry, value in entries.items():
        *parts, last = entry.split(".")
        place = config
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return config


def _entries(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Flatten nested dictionaries to entries `encoder.size`."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _entries(part, f"{name}.{key}" if name else key)


def _is_size(value: Any, field: str) -> bool:
    """Tell whether a value is a number of the kind that a setting takes, booleans apart."""
    if field.endswith("dropout"):
        return type(value) in (int, float)
    return type(value) is int and 0 < value <= _MOST


def _wanted(field: str, value: Any) -> str:
    if value is not None and _is_size(value, field):
        return f"must be {value}"
    return "must be a number" if field.endswith("dropout") else f"must be a whole number of 1 to {_MOST:,}"
