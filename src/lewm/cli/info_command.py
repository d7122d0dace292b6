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
from lewm.config import Config
from lewm.families.presets import preset

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
        notes = {"total": " trained", "target_encoder": " (EMA copy)", "steps_to_go": " (planning cost)"}
        counts = [(f"{name}{notes.get(name, '')}", f"{count:,}") for name, count in info["parameters"].items()]
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

    The total is of what training moves, such as encoder, predictor and action embedding. The target encoder is a copy
    that no gradient reaches, and the steps-to-go cost is fitted afterwards; both are counted apart.
    """
    import torch

    from lewm.families.family import Family, make_model
    from lewm.plan.steps_to_go import StepsToGo

    m = config.model
    with torch.device("meta"):  # shapes without numbers
        model: Family = make_model(config)
        cost = StepsToGo(m.num_tokens, m.token_width) if m.plans else None
    counts = {name: _count(part) for name, part in model.parts().items()} | {"total": model.num_parameters}
    if (target := getattr(model, "target_encoder", None)) is not None:
        counts["target_encoder"] = _count(target)
    if cost is not None:
        counts["steps_to_go"] = _count(cost)
    return {
        "parameters": counts,
        "preset": config.preset,
        "family": m.family,
        "image_size": m.image_size,
        **{
            name: getattr(m, attribute)
            for name, attribute in (("pixels_a_token", "effective_patch"), ("predictor_width", "predictor_width"))
            if hasattr(m, attribute)
        },
        "tokens": m.num_tokens,
        "width": m.token_width,
        "history": m.history,
        "clip_frames": m.clip_frames,
        "frame_skip": config.data.frame_skip,
        "action": f"{config.action.kind} {config.action.size}",
        "model_action_size": config.model_action_size,
    }


def _count(part: Any) -> int:
    return sum(p.numel() for p in part.parameters())
