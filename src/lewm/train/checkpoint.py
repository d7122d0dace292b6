"""Run folders: configuration, weights, and the state that resumes training. Nothing in them is ever executed."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lewm.config import ActionConfig, Config, EncoderSettings
from lewm.config.checks import shown
from lewm.config.typed import build
from lewm.data.action_range import action_range
from lewm.data.store import Store
from lewm.device import resolve_device
from lewm.families import from_json, to_json
from lewm.families.family import Family, make_model
from lewm.files import atomic_path, check_space, write_text
from lewm.plan.proposal import PROPOSAL_VERSION, Proposal, ProposalSettings
from lewm.plan.steps_to_go import StepsToGo
from lewm.run_spec import SPEC, RunSpec, check_spec, load_spec

CONFIG, WEIGHTS, STATE, METRICS = "config.json", "weights.safetensors", "state/checkpoint.safetensors", "metrics.jsonl"
COST, REACHED, LOCK, DIVERGED = "cost.safetensors", "reached.json", ".lock", "diverged"
PROPOSAL = "proposal.safetensors"
TARGET = "target_encoder."  # names of weights that begin so


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A trained model, ready for inference, and where it came from."""

    config: Config
    model: Any
    """A `WorldModel`, or a `PolicyModel` where `config.model.plans` is false."""
    cost: StepsToGo | None
    """The learnt planning cost, if the run has one."""
    data: Path | None
    spec: RunSpec
    proposal: Proposal | None = None
    """What `lewm distill` has made of the run's data, if it has."""


def save_config(run: Path, config: Config) -> None:
    """Write the resolved configuration of a run."""
    write_text(run / CONFIG, to_json(config))


def load_config(run: str | Path) -> Config:
    """Read a run's configuration.

    Raises:
        ValueError: If the folder, or a valid configuration in it, is missing.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"run={run}: no such folder; give the --out folder of `lewm train`")
    if not (run / CONFIG).is_file():
        raise ValueError(f"run={run}: has no {CONFIG}; give the --out folder of `lewm train`")
    try:
        text = (run / CONFIG).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{run / CONFIG}: is no text ({error}); restore the file or train again") from None
    return from_json(text, str(run / CONFIG))


def save_weights(run: Path, model: Family) -> None:
    """Write a model's weights atomically."""
    _write(run / WEIGHTS, model.state_dict())


def save_light(run: Path, model: Family, cost: StepsToGo | None) -> None:
    """Write weights to give away: in float16, and without a target encoder, which training alone needs.

    Raises:
        ValueError: If the model represents frames by its target encoder, or a weight is beyond float16's range.
    """
    if getattr(model.config.model, "inference_encoder", "online") == "target":
        raise ValueError("model.inference_encoder=target: its target encoder is needed; give the run away as it is")
    parts = {WEIGHTS: model.state_dict()} | ({} if cost is None else {COST: cost.state_dict()})
    for file, tensors in parts.items():
        kept = {name: value for name, value in tensors.items() if not name.startswith(TARGET)}
        light = {name: value.half() if value.is_floating_point() else value for name, value in kept.items()}
        for name, value in light.items():
            if not value.isfinite().all():
                raise ValueError(f"{run / file}: {name}: is beyond the range of float16; give the run away as it is")
        _write(run / file, light)


def save_cost(run: Path, cost: StepsToGo) -> None:
    """Write a run's learnt planning cost atomically."""
    _write(run / COST, cost.state_dict())


def load_cost(run: Path, config: Config) -> StepsToGo | None:
    """Read a run's learnt planning cost; None where it has none.

    Raises:
        ValueError: If the file does not fit the configuration.
    """
    if not (run / COST).is_file():
        return None
    cost = StepsToGo(config.model.num_tokens, config.model.token_width)
    load_weights(cost, _read(run / COST), run / COST)
    return cost.eval()


def weights_digest(run: Path) -> str:
    """Return the SHA-256 of a run's weights."""
    with (run / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_proposal(run: Path, proposal: Proposal) -> None:
    """Write a run's proposal atomically, its settings in the header of its weights."""
    settings = json.dumps(dataclasses.asdict(proposal.settings))
    _write(run / PROPOSAL, proposal.state_dict(), metadata={"settings": settings})


def load_proposal(run: Path, config: Config) -> Proposal | None:
    """Read a run's proposal; None where it has none.

    Raises:
        ValueError: If the file is damaged, of another version, or was not made for this run.
    """
    path = run / PROPOSAL
    if not path.is_file():
        return None
    weights, remedy = _read(path), f"make it anew by `lewm distill {run}`"
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("settings", "")
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: settings: are no JSON; {remedy}") from None
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != PROPOSAL_VERSION:
        raise ValueError(f"{path}: version={shown(version)}: must be {PROPOSAL_VERSION}; {remedy}")
    settings: ProposalSettings = build(ProposalSettings, raw, str(path))
    for name, value in dataclasses.asdict(ProposalSettings.of(config, weights_digest(run))).items():
        if (has := getattr(settings, name)) != value:
            raise ValueError(f"{path}: {name}={shown(has)}: is of another run, this one has {shown(value)}; {remedy}")
    proposal = Proposal(settings)
    load_weights(proposal, weights, path)
    return proposal.eval()


def load_run(run: str | Path, device: str | None = None, *, proposal: bool = True) -> LoadedRun:
    """Load a trained model for inference.

    Args:
        run: Run folder.
        device: auto, cpu, cuda or mps; None takes the configuration's setting.
        proposal: Load what `lewm distill` has made of the run's data as well, if it has.

    Raises:
        ValueError: If the folder has no configuration, no weights or no description, or they do not fit together.
    """
    run = Path(run)
    model = _load_model(run)
    config, spec = model.config, load_spec(run)
    check_spec(spec, config, str(run / SPEC))
    place, data = resolve_device(device or config.device), Path(config.data.path) if config.data.path else None
    cost = load_cost(run, config)
    proposed = load_proposal(run, config) if proposal else None
    return LoadedRun(
        config,
        model.to(place).eval(),
        None if cost is None else cost.to(place),
        data,
        spec,
        None if proposed is None else proposed.to(place),
    )


def require_fit(store: Store, config: Config, run: Path) -> None:
    """Check that a store is data of a run.

    Raises:
        ValueError: If its frames or actions are of another size or kind.
    """
    for name, has, wants in (
        ("image_size", store.meta.image_size, config.model.image_size),
        ("action_kind", store.meta.action_kind, config.action.kind),
        ("action_size", store.meta.action_size, config.action.size),
    ):
        if has != wants:
            raise ValueError(
                f"{name}={has}: {store.path} does not fit {run}, which has {wants}; give the data of this run"
            )


def _load_model(run: Path) -> Any:
    config = load_config(run)
    if not (run / WEIGHTS).is_file():
        raise ValueError(f"run={run}: has no {WEIGHTS}; go on with `lewm train --resume {run}`")
    model = make_model(config)
    weights = _read(run / WEIGHTS)
    # a model that is given away may leave out the target encoder, which training alone needs
    for name in model.state_dict():
        if name.startswith(TARGET) and (online := name.removeprefix("target_")) in weights:
            weights.setdefault(name, weights[online])
    load_weights(model, weights, run / WEIGHTS)
    return model


def load_encoder(model: Family, run: Path) -> None:
    """Start a model's encoder, and its target encoder if it has one, from the one that a run uses at inference.

    A projector that only this model has keeps its random weights.

    Raises:
        ValueError: If the run is broken, or its encoder has another size or form.
    """
    setting = f"train.encoder_from={run}"
    try:
        other = _load_model(run)
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from None
    ours, theirs = model.config.model, other.config.model
    if not (isinstance(ours, EncoderSettings) and isinstance(theirs, EncoderSettings)):
        raise ValueError(
            f"{setting}: the encoders of the families {theirs.family} and {ours.family} are of different kinds; leave "
            "it out"
        )
    sizes = [field.name for field in dataclasses.fields(EncoderSettings) if field.name not in ("family", "history")]
    differing = [name for name in sizes if getattr(ours, name) != getattr(theirs, name)]
    if differing:
        found = ", ".join(f"model.{name}={getattr(theirs, name)}" for name in differing)
        options = " ".join(
            f"--model.{name.replace('_', '-')} {_as_option(getattr(theirs, name))}" for name in differing
        )
        raise ValueError(f"{setting}: its encoder has {found}, and this run another; use {options}")
    online = getattr(theirs, "inference_encoder", "online") == "online"
    weights = (other.encoder if online else other.target_encoder).state_dict()
    for encoder in (model.encoder, getattr(model, "target_encoder", model.encoder)):
        own = encoder.state_dict()
        encoder.load_state_dict(own | {name: tensor for name, tensor in weights.items() if name in own})


def _as_option(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Copy weights into a model.

    Raises:
        ValueError: If a name or a shape differs, or a number is not finite.
    """
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        have = tuple(weights[name].shape) if name in weights else "absent"
        want = tuple(expected[name].shape) if name in expected else "absent"
        if have != want:
            raise ValueError(
                f"{source}: {name}={have}: {CONFIG} makes it {want}; use the configuration that the weights came with"
            )
        if not weights[name].isfinite().all():
            raise ValueError(f"{source}: {name}: has numbers that are not finite; restore the file or train again")
    model.load_state_dict(weights)


def save_state(run: Path, model: Family, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write what resumes training after `step` steps, then the weights for inference; each atomically.

    Batches, masks and random directions are functions of the seed and the step, so no generator is kept.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    (run / STATE).parent.mkdir(exist_ok=True)
    _write(run / STATE, tensors, metadata={"step": str(step)})
    save_weights(run, model)


def check_room(run: Path, model: Family) -> None:
    """Check that the disk has room for a run's checkpoints: an old one stays until the new one is there.

    Raises:
        ValueError: If it has not.
    """
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    there = sum(path.stat().st_size for name in (WEIGHTS, STATE) if (path := run / name).is_file())
    check_space(run, 2 * (weights + moments) + weights - there, "run", "free some space")


def load_state(run: Path, model: Family, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint and return its step; 0, with everything untouched, when there is none yet.

    Raises:
        ValueError: If the checkpoint is damaged or of another configuration.
    """
    path = run / STATE
    if not path.is_file():
        return 0
    tensors = _read(path)
    with safe_open(path, framework="pt") as file:
        step = int((file.metadata() or {}).get("step", -1))
    if step < 0:
        raise ValueError(f"{path}: has no step; restore the file or train again")
    part = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    load_weights(model, part, path)
    for name, parameter in model.named_parameters():
        if f"optimizer.exp_avg.{name}" in tensors:
            # AdamW counts its steps on the CPU, unless it is fused
            places = {"step": parameter.device if optimizer.defaults["fused"] else "cpu"}
            optimizer.state[parameter] = {
                key: tensors[f"optimizer.{key}.{name}"].to(places.get(key, parameter.device))
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return step


def with_data(config: Config, store: Store) -> Config:
    """Return the configuration with what the store says of itself filled in, and paths that hold in any folder."""
    meta, action_values = store.meta, {}
    if meta.action_kind == "continuous":
        store.validate()  # what is not finite has no range
        train, _ = store.split(held_out=config.data.held_out, seed=config.data.split_seed)
        action_values = dataclasses.asdict(action_range(store, train, quantile=config.data.change_quantile))
    encoder_from = config.train.encoder_from
    if meta.action_kind == "none":  # images: a clip is one frame, and nothing is planned
        config = dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, frame_skip=1),
            train=dataclasses.replace(config.train, cost_steps=0),
            plan=dataclasses.replace(config.plan, cost="tokens"),
        )
    return dataclasses.replace(
        config,
        action=ActionConfig(
            kind=meta.action_kind, size=meta.action_size, control_mode=meta.control_mode, **action_values
        ),
        data=dataclasses.replace(config.data, path=str(store.path.resolve())),
        train=dataclasses.replace(config.train, encoder_from=encoder_from and str(Path(encoder_from).resolve())),
    )


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); restore the file or train again") from None


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata)
    with atomic_path(path) as temporary:  # written here, because safetensors' own writer hides a full disk's OSError
        temporary.write_bytes(content)
