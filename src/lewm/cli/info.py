"""`lewm info`: sizes and parameter counts."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from lewm.cli.options import Pretrained, Settings, WithSettings, parse_settings, run_folder
from lewm.cli.show import print_result, print_table
from lewm.config import Config, preset

if TYPE_CHECKING:
    from lewm.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class Info(WithSettings):
    """Show sizes and parameter counts of a run, or of a preset with the settings given."""

    run: Annotated[Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Run folder; without one, the preset is shown."""
    pretrained: Pretrained = None
    """Model that comes with the package, in place of RUN."""


def command(argv: list[str]) -> None:
    args = parse_settings("info", Info, argv)
    run = run_folder(args.run, args.pretrained)
    if run is None:
        title, config = f"preset {args.settings.preset}", args.settings.config()
    else:
        from lewm.train.checkpoint import load_config

        if args.settings != Settings.of(preset("tiny")):
            raise ValueError(f"run={run}: has settings of its own; leave the other options out, or the run")
        title, config = args.pretrained or str(run), load_config(run)
    info, spec = describe(config), None if run is None else _spec(run)
    if run is not None:
        info["spec"] = spec and dataclasses.asdict(spec)

    def show() -> None:
        notes = {"total": " of the three", "target_encoder": " (EMA copy)", "steps_to_go": " (planning cost)"}
        order = ("encoder", "predictor", "action", "total", "target_encoder", "steps_to_go")
        counts = [(f"{name}{notes.get(name, '')}", f"{info['parameters'][name]:,}") for name in order]
        print_table(f"{title}: parameters", ("part", "number"), counts)
        sizes = [
            (name.replace("_", " "), str(value)) for name, value in info.items() if name not in ("parameters", "spec")
        ]
        print_table(f"{title}: sizes", ("size", "value"), sizes)
        if spec is not None:
            print_table(f"{title}: what it is for", ("what", "value"), list(spec.in_words().items()))

    print_result(args.json, info, show)


def _spec(run: Path) -> "RunSpec | None":
    """Return what a run says of its robot; of a run of an earlier version, say what writes it."""
    from lewm.run_spec import SPEC, load_spec

    try:
        return load_spec(run)
    except ValueError as error:
        if (run / SPEC).exists():
            raise
        print(f"warning: {error}", file=sys.stderr)
        return None


def describe(config: Config) -> dict[str, Any]:
    """Return parameter counts and sizes of a configuration, as `lewm info` shows them.

    The total is of the trained online parts: encoder, predictor and action embedding. The target encoder is a copy that
    no gradient reaches, and the steps-to-go head is fitted afterwards; both are counted apart.
    """
    import torch

    from lewm.model import WorldModel

    with torch.device("meta"):  # shapes without numbers
        model = WorldModel(config)
    parts = {
        "encoder": model.encoder,
        "predictor": model.predictor,
        "action": model.action_embed,
        "target_encoder": model.target_encoder,
        "steps_to_go": model.steps_to_go,
    }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    total = sum(counts[name] for name in ("encoder", "predictor", "action"))
    m = config.model
    return {
        "parameters": counts | {"total": total},
        "preset": config.preset,
        "image_size": m.image_size,
        "pixels_a_token": m.effective_patch,
        "tokens": m.num_tokens,
        "width": m.width,
        "predictor_width": m.predictor_width,
        "history": m.history,
        "frame_skip": config.data.frame_skip,
        "action": f"{config.action.kind} {config.action.size}",
        "model_action_size": config.model_action_size,
    }
