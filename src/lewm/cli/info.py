"""`lewm info`: sizes and parameter counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from lewm.cli.options import Pretrained, Settings, WithSettings, parse_settings, run_folder
from lewm.cli.show import print_result, print_table
from lewm.config import Config, preset


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
    info = describe(config)

    def show() -> None:
        notes = {"total": " of the three", "target_encoder": " (EMA copy)", "steps_to_go": " (planning cost)"}
        order = ("encoder", "predictor", "action", "total", "target_encoder", "steps_to_go")
        counts = [(f"{name}{notes.get(name, '')}", f"{info['parameters'][name]:,}") for name in order]
        print_table(f"{title}: parameters", ("part", "number"), counts)
        sizes = [(name.replace("_", " "), str(value)) for name, value in info.items() if name != "parameters"]
        print_table(f"{title}: sizes", ("size", "value"), sizes)

    print_result(args.json, info, show)


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
