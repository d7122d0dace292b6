"""Write the tables of README.md and of pages in docs from the JSON in benchmarks/results and beside shipped models.

python benchmarks/tables.py
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lewm.files import write_text
from lewm.pretrained import FOLDER, pretrained_names

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/data.md",
    "docs/evaluation.md",
    "docs/deployment.md",
    "docs/real-time.md",
)

Runs = Sequence[Mapping[str, Any]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate(value: float, interval: Sequence[float]) -> str:
    """Return a success rate with its 95% interval, in percent."""
    return f"{100 * value:.0f}% ({100 * interval[0]:.0f}-{100 * interval[1]:.0f})"


def hard(evaluation: Mapping[str, Any]) -> str:
    """Return the success from starts that moving straight does not solve, beside the random policy's."""
    part = evaluation["planning"]["by_start"]["hard"]
    if not part["count"]:
        return "none"
    ours, chance = rate(part["success_rate"], part["ci95"]), rate(part["random_success_rate"], part["random_ci95"])
    return f"{ours} of {part['count']}; random {chance}"


def evaluations(summary: Mapping[str, Any]) -> str:
    """Return a table with a column a seed: what one evaluation measured, each number beside its trivial rival."""
    runs: Runs = summary["runs"]
    evals = [run["eval"] for run in runs]
    rows = [["measure (and its trivial rival)", *(f"seed {run['seed']}" for run in runs)]]

    def row(name: str, number: Callable[[Mapping[str, Any]], str]) -> None:
        rows.append([name, *(number(e) for e in evals)])

    for k, ahead in enumerate(evals[0]["prediction"]["horizon"]):
        row(f"error ratio, {_steps(ahead)} ahead (rival 1)", lambda e, k=k: f"{e['prediction']['error_ratio'][k]:.3f}")
    for k, ahead in enumerate(evals[0]["prediction"]["horizon"]):
        row(
            f"centred cosine, {_steps(ahead)} ahead (copying)",
            lambda e, k=k: (
                f"{e['prediction']['centred_cosine'][k]:.2f} ({e['prediction']['copy_centred_cosine'][k]:.2f})"
            ),
        )
    row("effective rank (collapse: 1)", lambda e: f"{e['spectrum']['effective_rank']:.1f}")
    row("content share (position alone: 0)", lambda e: f"{e['spectrum']['content_share']:.2f}")
    row(
        "state R², linear probe on flattened tokens (random encoder)",
        lambda e: f"{e['probe']['r2']:.3f} ({e['probe']['linear_flattened']['random_r2']:.3f})",
    )
    row("the same by state variable", lambda e: ", ".join(f"{n} {v:.2f}" for n, v in e["probe"]["r2_by_state"].items()))
    row("rank correlation of cost and true distance", lambda e: f"{e['cost']['rank_correlation_distance']:.2f}")
    row("rank correlation of cost and steps to go", lambda e: f"{e['cost']['rank_correlation']:.2f}")
    planner = evals[0]["planning"]
    count = f"{planner['episodes']} episodes, {planner['planner'].upper()}"
    row(
        f"success by the {_protocol(planner)} protocol, {count}",
        lambda e: rate(e["planning"]["success_rate"], e["planning"]["ci95"]),
    )
    row("random policy", lambda e: rate(e["planning"]["random_success_rate"], e["planning"]["random_ci95"]))
    if "by_start" in planner:
        row("moving straight", lambda e: rate(e["planning"]["straight_success_rate"], e["planning"]["straight_ci95"]))
    row("solved at the start", lambda e: f"{100 * e['planning']['solved_at_start']:.0f}%")
    if "by_start" in planner:
        row("success from hard starts", hard)
    split = evals[0]["cost"]["split_episodes"]
    for name in ("planner_alone", "cost_alone", "model"):
        row(
            f"{name.replace('_', ' ')}, first {split} episodes",
            lambda e, n=name: rate(e["cost"][f"{n}_success"], e["cost"][f"{n}_ci95"]),
        )
    seconds = [run["seconds"] for run in runs]
    total = [sum(s.values()) if isinstance(s, dict) else s for s in seconds]
    rows.append(["seconds in all", *(f"{s:.0f}" for s in total)])
    machine = evals[0]["machine"]
    facts = f"{machine['device']}, {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    return f"{table(rows[0], rows[1:])}\n\nMachine: {facts}, torch {machine['torch']}."


def _steps(count: int) -> str:
    return f"{count} model step{'' if count == 1 else 's'}"


def _protocol(planning: Mapping[str, Any]) -> str:
    """Return by which protocol success was judged; what was measured before there were several is of `standard`."""
    return planning.get("protocol", "standard")


def pretrained() -> str:
    """Return the success of the models that come with the package, from what was measured when each was made."""
    rows = []
    for name in pretrained_names():
        planning = json.loads((FOLDER / name / "metrics.json").read_text(encoding="utf-8"))["planning"]
        rates = (
            ("success_rate", "ci95"),
            ("random_success_rate", "random_ci95"),
            ("straight_success_rate", "straight_ci95"),
        )
        shown = [rate(planning[value], planning[interval]) for value, interval in rates]
        rows.append([f"`{name}`", *shown, str(planning["episodes"]), _protocol(planning)])
    return table(["model", "success", "random policy", "moving straight", "episodes", "protocol"], rows)


def headline(summary: Mapping[str, Any]) -> str:
    """Return the few rows of the demo's table with which a reader begins."""
    wanted = (
        "measure",
        "---",
        "error ratio, 1 ",
        "error ratio, 8 ",
        "state R²",
        "success by ",
        "random",
        "moving",
        "seconds",
    )
    lines = evaluations(summary).splitlines()
    kept = [line for line in lines if not line.startswith("| ") or line.removeprefix("| ").startswith(wanted)]
    return "\n".join(kept)


def sampler(summary: Mapping[str, Any]) -> str:
    """Return the sampler's table, with a column for each of two machines."""
    other = json.loads((RESULTS / "sampler_another_machine.json").read_text(encoding="utf-8"))
    runs = (summary, other)
    rows: list[list[str]] = []

    def row(name: str, key: str, form: str) -> None:
        rows.append([name, *("not measured" if run.get(key) is None else f"{run[key]:{form}}" for run in runs)])

    ways = {run["hdf5_way"].replace("_", " ") for run in runs}
    row("store, warm, clips/s", "clips_per_s_warm", ",.0f")
    row("its share of the speed of copying the same frames", "ratio_to_copying", ".2f")
    row("its page faults a batch", "page_faults_a_batch", ".1f")
    row(f"warm, over HDF5's fastest way ({', '.join(ways)}), the same frames and actions", "ratio_to_hdf5", ".2f")
    row("warm, over HDF5 that reads frames alone", "ratio_to_hdf5_frames_only", ".2f")
    row("bare copying over HDF5: no reader into memory can have more", "ratio_to_hdf5_of_copying", ".2f")
    row("warm, over HDF5 compressed a frame (LZF)", "ratio_to_hdf5_compressed", ".1f")
    row("warm, over stable-worldmodel's HDF5 data set", "ratio_to_stable_worldmodel", ".0f")
    row("warm, over video", "ratio_to_video", ".0f")
    row("store, cold, clips/s", "clips_per_s_cold", ",.0f")
    row("cold, over HDF5", "ratio_to_hdf5_cold", ".2f")
    large = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    seconds = [f"{large['seconds'][step]:.2f} ({large['first_seconds'][step]:.2f})" for step in large["seconds"]]
    name = f"{large['gigabytes']} GB, seconds to the first batch, new and resumed, median (first look at the pages)"
    rows.append([name, ", ".join(seconds), "not measured"])
    head = f"{summary['clip_frames']}-frame clips at {summary['image_size']} px, batches of {summary['batch_size']}"
    machines = "\n".join(machine(run) for run in runs)
    return f"{table([head, 'one machine', 'another'], rows)}\n\n{machines}"


def importing(summary: Mapping[str, Any]) -> str:
    """Return the table of the import's speed, a column a codec."""
    codecs = [name for name in ("h264", "av1") if name in summary]
    labels = {
        "frames_per_s_import": "import, frames/s",
        "frames_per_s_bare": "bare decoding, frames/s",
        "cpu_ms_a_frame_import": "import, ms of CPU a frame",
        "cpu_ms_a_frame_bare": "bare decoding, ms of CPU a frame",
    }
    rows = [
        [label, *(f"{summary[codec][key]:,.{0 if 'per_s' in key else 2}f}" for codec in codecs)]
        for key, label in labels.items()
    ]
    rows.append(["import over bare decoding", *(f"{summary[codec]['ratio']:.2f}" for codec in codecs)])
    frames = f"{summary['width']}x{summary['height']} to {summary['image_size']} px, {summary['workers']} processes"
    return f"{table([frames, *(codec.upper() for codec in codecs)], rows)}\n\n{machine(summary)}"


def fuzz_import(summary: Mapping[str, Any]) -> str:
    """Return the table of how damaged recordings end."""
    rows = [[how, f"{summary.get(how, 0):,}"] for how in ("refused", "episodes left out", "imported", "failures")]
    kinds = len(summary["recordings"])
    return table([f"{summary['mutations']:,} damaged recordings of {kinds} kinds", ""], rows)


def damage(summary: Mapping[str, Any]) -> str:
    """Return the table of what damage is seen, the kinds that look wrong most often first."""
    rows = [
        [row["kind"], *(f"{row[how]}" for how in ("refused", "cut_off", "looks_right", "looks_wrong", "whole_refused"))]
        for row in sorted(summary["rows"], key=lambda row: -row["looks_wrong"])
    ]
    head = [f"of {summary['files']} files with one damaged place", "refused", "end there", "look right", "look wrong"]
    rate = (
        f"A whole H.264 video of 128 px is decoded at {summary['rate']['ratio']:.2f} times the rate of FFmpeg without"
    )
    return f"{table([*head, 'whole ones refused'], rows)}\n\n{rate} checks in one thread."


def machine(summary: Mapping[str, Any]) -> str:
    """Return the line that says where something was measured, and how busy it was."""
    return (
        f"Machine: {summary['machine']}, {summary['cpu_count']} cores, load average {summary['load_average']:.1f}, "
        f"Python {summary['python']}."
    )


def push_t_data(summary: Mapping[str, Any]) -> str:
    """Return the table of what Push-T's episodes hold, scripted ones beside replays of demonstrations."""
    units, degrees = f"{summary['success_units']:.0f} units", f"{summary['success_degrees']:.0f} degrees"
    poses, agent = ("x".join(map(str, summary[f"{name}_grid"])) for name in ("pose", "agent"))
    labels = [
        "episodes in which the disc moves the block",
        "steps in which the block moves",
        "frames with the block partly outside",
        "way of the block in an episode, units, median (quartiles)",
        "turning of the block in an episode, degrees",
        f"pairs whose block moved more than {units}",
        f"pairs whose block turned more than {degrees}",
        "pairs with either",
        "pairs that are a success at the start",
        f"visited cells of the block's pose, {poses} over x, y, angle",
        "the same, of the cells in which the block fits between the walls",
        "episodes that visit such a cell, median (quartiles)",
        f"visited cells of the disc's position, {agent}",
    ]
    columns = {"scripted": summary, "replays of demonstrations": summary["demos"]}
    head = f"pairs are {summary['goal_offset']} steps apart"
    heads = [f"{name}: {of['episodes']} episodes, {of['frames']:,} frames" for name, of in columns.items()]
    rows = zip(labels, *map(_push_t_cells, columns.values()), strict=True)
    return table([head, *heads], [list(row) for row in rows])


def _push_t_cells(found: Mapping[str, Any]) -> list[str]:
    """Return a column of the table of Push-T's data."""
    pairs, coverage = found["pairs"], found["coverage"]

    def share(value: float) -> str:
        return f"{100 * value:.1f}%"

    def quartiles(values: Mapping[str, float]) -> str:
        return f"{values['median']:.0f} ({values['q25']:.0f}-{values['q75']:.0f})"

    return [
        *(share(found[name]) for name in ("episodes_with_contact", "steps_moved", "frames_partly_outside")),
        *(quartiles(found[name]) for name in ("path_length", "rotation_degrees")),
        *(share(pairs[name]) for name in ("moved", "turned", "either", "solved_at_start")),
        *(share(coverage[name]) for name in ("poses", "of_possible_poses")),
        quartiles(coverage["episodes_a_possible_pose"]),
        share(coverage["agent"]),
    ]


def timing(summary: Mapping[str, Any]) -> str:
    """Return the table of times: a model's parts, their operations, and their share of a matrix product's rate."""
    count = f"{summary['candidates']} candidates, {summary['horizon']} steps, {summary['iterations']} iterations"
    parts = {
        "encoder": "encoder, one frame",
        "step": "predictor, one step",
        "steps": f"predictor, one step of {summary['candidates']} candidates",
        "cycle": f"planning cycle: {count}",
        "train": "training step, as the preset masks",
        "train_bfloat16": "the same in bfloat16",
        "train_whole": "training step, whole frames",
    }
    head, rows = ["part"], [[label] for label in parts.values()]
    rows[-3:] = [[f"{row[0]}, batch of {summary['batch_size']}"] for row in rows[-3:]]
    for preset, found in summary["presets"].items():
        head += [f"`{preset}`, GFLOP", "ms", "share of a matrix product's rate"]
        for row, name in zip(rows, parts, strict=True):
            one = found.get(name)
            if one is None:
                row += ["–"] * 3
                continue
            share = one["gflop_per_s"] / summary["product_gflop_per_s"]
            row += [f"{one['gflop']:.3g}", f"{one['ms']:,.1f}", f"{share:.2f}"]
    rows = [row for row in rows if set(row[1:]) != {"–"}]  # what was not measured
    where = summary["machine"]
    facts = f"{where['device']}, {where['processor']}, {where['threads']} thread, torch {where['torch']}"
    rate = f"{summary['product_gflop_per_s']:.0f} GFLOP/s"
    return f"{table(head, rows)}\n\nMachine: {facts}; a matrix product in float32: {rate}."


def lag(summary: Mapping[str, Any]) -> str:
    """Return the tables of what the check says of aligned and of shifted actions."""
    cells = summary["cells"]

    def chosen(**wanted: Any) -> list[Mapping[str, Any]]:
        return [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]

    def said(some: Sequence[Mapping[str, Any]], how: str) -> str:
        count, cases = sum(cell["said"].get(how, 0) for cell in some), sum(cell["cases"] for cell in some)
        return f"{count} of {cases:,}"

    def share(some: Sequence[Mapping[str, Any]], how: str, least: int = 2) -> str:
        counts = [by for cell in some for shift, by in cell["by_shift"].items() if abs(int(shift)) >= least]
        return f"{100 * sum(by.get(how, 0) for by in counts) / max(sum(sum(by.values()) for by in counts), 1):.0f}%"

    def modes(some: Sequence[Mapping[str, Any]]) -> str:
        total = sum(sum(cell["mode"].values()) for cell in some)
        return " / ".join(f"{100 * sum(c['mode'].get(how, 0) for c in some) / total:.0f}" for how in MODES)

    head = ["actions", "seen by", "false advice, aligned"]
    head += ["late, found: smooth", "late: noisy", "early by 3 to 5, found: smooth", "early: noisy"]
    head += ["another amount, late or early", "mode right / wrong / unknown, %"]
    rows = []
    for kind in dict.fromkeys(cell["kind"] for cell in cells):
        for states in (True, False):
            some = {"kind": kind, "states": states}
            shifted = [cell for cell in chosen(**some) if cell["shift"] != "aligned"]
            found = [
                share(chosen(**some, shift=shift, smooth=smooth), "right", least)
                for shift, least in (("late", 2), ("early", 3))
                for smooth in (True, False)
            ]
            name = "states" if states else "frames alone"
            told = "–" if kind == "discrete" else modes(chosen(**some))
            false = said(chosen(**some, shift="aligned"), "false")
            rows.append([kind, name, false, *found, share(shifted, "other amount"), told])
    sizes = dict.fromkeys(cell["episodes"] for cell in cells)
    sized = [chosen(episodes=size) for size in sizes]
    late, early, aligned = ([[c for c in some if c["shift"] == shift] for some in sized] for shift in SHIFTS)
    few = [
        ["late, found", *(share(some, "right") for some in late)],
        ["early by 3 to 5, found", *(share(some, "right", 3) for some in early)],
        ["false advice, aligned", *(said(some, "false") for some in aligned)],
        ["called unrelated, aligned", *(said(some, "unrelated") for some in aligned)],
    ]
    first, last = summary["seeds"]
    total = f"False advice in {summary['false_advice']} of {summary['aligned_cases']:,} aligned cases; "
    total += f"{summary['shifted_cases']:,} cases were shifted; seeds {first} to {last} in each cell."
    by_size = table(["episodes", *(str(size) for size in sizes)], few)
    return f"{table(head, rows)}\n\n{by_size}\n\n{total}\n\n{machine(summary)}"


def arm(summary: Mapping[str, Any]) -> str:
    """Return how many goals the arm holds, a column a seed, and how often `reached` is wrong."""
    runs: Runs = summary["runs"]
    rows = [
        [
            name,
            *(rate(run["policies"][name]["rate"], run["policies"][name]["ci95"]) for run in runs),
            ", ".join(f"{run['policies'][name]['tip_px_median']:.2f}" for run in runs),
        ]
        for name in runs[0]["policies"]
    ]
    head = [f"held, of {summary['starts']} goals", *(f"seed {run['seed']}" for run in runs), "tip from its place, px"]

    def shares(name: str, place: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> list[str]:
        return [
            name,
            *(f"{100 * place(run['reached'])[key]:.0f}%" for run in runs for key in ("missed", "false_positives")),
        ]

    told = [
        shares("pairs of held-out frames", lambda reached: reached),
        shares("looks of the episodes above", lambda reached: reached["in closed loop"]),
    ]
    second = ["`reached`", *(f"seed {run['seed']}, {what}" for run in runs for what in ("missed", "wrongly said"))]
    used = runs[0]["machine"]
    where = f"Machine: {used['device']}, {used['processor']}, {used['cores']} cores, torch {used['torch']}."
    return f"{table(head, rows)}\n\n{table(second, told)}\n\n{where}"


def deployed(summary: Mapping[str, Any]) -> str:
    """Return a table of what shipped models reach through the runtime, beside PyTorch's planner and trivial rivals."""
    head = ["model", "runtime (95%)", "PyTorch, same starts", "random", "moving straight", "starts", "same action"]
    rows = [
        [
            row["model"],
            *(rate(row[part]["success_rate"], row[part]["ci95"]) for part in ("runtime", "pytorch", "random")),
            rate(row["moving_straight"]["success_rate"], row["moving_straight"]["ci95"]),
            str(row["runtime"]["episodes"]),
            f"{row['parity']['same_action']:.0%} of {row['parity']['looks']} looks",
        ]
        for row in summary["rows"]
    ]
    return table(head, rows)


def endurance(summary: Mapping[str, Any]) -> str:
    """Return a sentence on the memory of a controller that runs for long."""
    held, fallbacks = [mib for _, mib in summary["resident_mib"]], sum(summary["events"].values())
    return (
        f"Over {summary['steps']:,} looks in {summary['task']}, of which {fallbacks:,} had an event, the process held "
        f"{held[-1]:.1f} MiB at the end. From look {summary['growth_from_step']:,} on, that changed by "
        f"{summary['growth_mib']:+.2f} MiB."
    )


def precision(summary: Mapping[str, Any]) -> str:
    """Return a table of what each precision keeps of the models, and what it saves."""
    head = ["model", "export", "MB, `encode`", "MB, `improve`", "time, `encode`", "time, `improve`", "smallest cosine",
            "success", "gained, lost", "difference, 95% interval, points"]  # fmt: skip
    names = {
        "bfloat16": "bfloat16, for OpenVINO",
        "int8": "int8, for ONNX Runtime",
        "int8 openvino": "int8, for OpenVINO",
        "int8 tensorrt": "int8, for TensorRT",
    }
    order = ["float32", "float16", *names]
    rows = []
    for model, cells in summary["models"].items():
        for variant in sorted(cells.keys() & set(order), key=order.index):
            cell, driven = cells[variant], ["–"] * 4
            if "driven" in cell:
                of, cosine = cell["driven"], cell["agreement"]["cosine"]
                low, high = (100 * end for end in of["ci95"])
                driven = [
                    f"{cosine:.4f}",
                    f"{of['success']:.1%}",
                    f"{of['gained']}, {of['lost']}",
                    f"{low:.1f} to {high:.1f}",
                ]
            parts = [f"{cell[of][part]:.2f}" for of in ("mb", "time") for part in ("encode", "improve")]
            rows.append([f"`{model}`", names.get(variant, variant), *parts, *driven])
    return table(head, rows)


def budgets(summary: Mapping[str, Any]) -> str:
    """Return a table of what each budget of planning costs and reaches, a task a column."""
    summary = {name: task for name, task in summary.items() if "refinements" in task}  # those that are finished
    if not summary:
        return ""
    where = next(iter(summary.values()))["machine"]
    names = [*next(iter(summary.values()))["cells"]]
    rows = []
    for name in names:
        row = [name]
        for task in summary.values():
            cell, full = task["cells"][name], task["cells"]["full"]["ms"]
            row.append(f"{rate(cell['success_rate'], cell['ci95'])}, {cell['ms']:.1f} ({cell['ms'] / full:.2f})")
        rows.append(row)
    heads = [f"{name}: success, ms a look (of the full budget's)" for name in summary]
    own = [f"{name} {task['refinements']}" for name, task in summary.items()]
    told = f"The full budget is 64 candidates, refined so often: {', '.join(own)}. {_count(summary)} starts a cell."
    told += f" Machine: {where['processor']}, {where['threads']} thread, torch {where['torch']}."
    return f"{table(['budget', *heads], rows)}\n\n{told}"


def _count(summary: Mapping[str, Any]) -> int:
    (count,) = {task["starts"] for task in summary.values()}
    return count


def scaling(summary: Mapping[str, Any]) -> str:
    """Return a table of what each size of a model costs."""
    head = ["size", "million weights", "encode, GFLOP", "ms", "look, GFLOP", "ms", "training step, GFLOP", "s", "GB",
            "its share of the matrix rate"]  # fmt: skip
    rows = []
    for name, cells in summary["sizes"].items():
        if len(cells) < 3:
            continue
        encoder, cycle, train = (cells[part] for part in ("encoder", "cycle", "train"))
        row = [f"{train['parameters'] / 1e6:.1f}"]
        row += [f"{encoder['gflop']:.2f}", f"{encoder['ms']:.1f}", f"{cycle['gflop']:.1f}", f"{cycle['ms']:.0f}"]
        row += [f"{train['gflop']:.0f}", f"{train['ms'] / 1e3:.2f}"]
        rows.append([name, *row, f"{train['peak_mb'] / 1e3:.1f}", f"{train['share_of_matrix_rate']:.2f}"])
    where = summary["machine"]
    facts = f"{where['processor']}, {where['threads']} thread, torch {where['torch']}"
    return f"{table(head, rows)}\n\nMachine: {facts}."


def real_time(summary: Mapping[str, Any]) -> str:
    """Return a table of whole looks of a trained model in closed loop: how often, how late, how well."""
    cells = summary["cells"].values()
    counts = sorted({cell["threads"] for cell in cells}, reverse=True)
    rows = []
    for budget in dict.fromkeys(cell["budget"] for cell in cells):
        for way in dict.fromkeys(cell["way"] for cell in cells):
            row, success = [budget, way], "–"
            for threads in counts:
                found = [c for c in cells if (c["budget"], c["way"], c["threads"]) == (budget, way, threads)]
                if not found:
                    row += ["–"] * 2
                    continue
                looks = found[0]["looks"]
                row += [f"{looks['p50_ms']:.1f} ({1e3 / looks['p50_ms']:.0f})", f"{looks['p99_ms']:.1f}"]
                if "ci95" in found[0]:
                    success = rate(found[0]["success_rate"], found[0]["ci95"])
            if row[2:] != ["–"] * len(row[2:]):
                rows.append([*row, success])
    head = ["candidates x horizon x refinements", "way"]
    for threads in counts:
        head += [f"{threads} thread{'s' if threads > 1 else ''}: ms a look (Hz)", "p99"]
    where = summary["machine"]
    told = (
        f"`{summary['preset']}` on {summary['task']}, {summary['starts']} starts by the protocol {summary['protocol']}."
    )
    facts = f"{where['processor']}, {where['cores']} cores, torch {where['torch']}"
    return f"{table([*head, 'success'], rows)}\n\n{told} Machine: {facts}."


def roofline(summary: Mapping[str, Any]) -> str:
    """Return a table of the least time of a planning cycle on computers that were not at hand."""
    head = ["computer", "precision", "peak, 10^12/s", "memory, GB/s"]
    head += [f"`{model}`, {found['gflop']:.0f} GFLOP, ms" for model, found in summary["models"].items()]
    rows = []
    for name, computer in summary["computers"].items():
        for precision, peak in computer["tera"].items():
            least = []
            for found in summary["models"].values():
                cell = found["least_ms"][name][precision]
                least.append(f"{max(cell.values()):.1f}")
            told = summary["article_ms"].get(name)
            rows.append(
                [name, precision, f"{peak:g}", f"{computer['gigabytes']:g}", *least, f"{told:g}" if told else "–"]
            )
    return table([*head, "the article's, ms"], rows)


def planning_peer(summary: Mapping[str, Any]) -> str:
    """Return a table of the time of a control step, beside stable-worldmodel's."""
    head = ["way", "candidates x iterations", "ms a control step", "success (95%)"]
    rows = [
        [
            name,
            f"{row['budget']['candidates']} x {row['budget']['iterations']}" if row["budget"] else "",
            "" if row["ms_a_control_step"] is None else f"{row['ms_a_control_step']:.1f}",
            f"{rate(row['success_rate'], row['ci95'])} of {summary['episodes']}",
        ]
        for name, row in summary["rows"].items()
    ]
    times = ", ".join(f"{name}: {value:.1f}" for name, value in summary["times_theirs"].items())
    used = summary["machine"]
    where = f"{summary['task']}, {summary['threads']} thread, {used['processor']}, torch {used['torch']}"
    return f"{table(head, rows)}\n\nTheir time over ours: {times}. {where}."


def proposal(summary: Mapping[str, Any]) -> str:
    """Return success and time of a look of every way to plan, a column a task."""
    tasks, rows = list(summary), []
    for name in summary[tasks[0]]["ways"]:
        row = [name]
        for task in tasks:
            found, times = summary[task]["ways"][name], summary[task]["looks_ms"]
            share = f", {times[name] / times['full search']:.2f}" if name in times else ""
            row.append(rate(found["success_rate"], found["ci95"]) + share)
        rows.append(row)
    head = [f"success, of {summary[tasks[0]]['starts']} starts; time of a look over the full search's", *tasks]
    told = [f"{task} {part['distill']['error']:.2f} ({part['distill']['rival']:.2f})" for task, part in summary.items()]
    drawn = summary["two-room"]["random_actions"]
    alone = rate(drawn["ways"]["proposal alone"]["success_rate"], drawn["ways"]["proposal alone"]["ci95"])
    error = f"{drawn['distill']['error']:.2f} ({drawn['distill']['rival']:.2f})"
    times = ", ".join(f"{task} {part['looks_ms']['full search']:.0f}" for task, part in summary.items())
    where = summary[tasks[0]]["machine"]
    return (
        f"{table(head, rows)}\n\nError of the proposed actions on held-out episodes (of the mean action): "
        f"{', '.join(told)}.\nTwo-Room's proposal from random actions: alone {alone}, error {error}.\n"
        f"Milliseconds of a look of the full search: {times}. Machine: {where['device']}, {where['processor']}, "
        f"{where['cores']} cores, {where['threads']} thread, torch {where['torch']}."
    )


def ceiling(summary: Mapping[str, Any]) -> str:
    """Return what the search alone reaches, a row a way to plan."""
    rows = []
    for name, cell in summary["cells"].items():
        count = len(cell["solved_at"])
        if not count:
            continue
        success, hard = rate(cell["success_rate"], cell["ci95"]), rate(cell["hard_success_rate"], cell["hard_ci95"])
        rows.append(
            [name, f"{success} of {count}", f"{hard} of {cell['hard_count']}", f"{cell['seconds'] / count:.1f}"]
        )
    shares = {name: f"{100 * part['success_rate']:.0f}%" for name, part in summary["straight"].items()}
    where = summary["machine"]
    return (
        f"{table(['candidates x refinements', 'success', 'from hard starts', 'seconds a start'], rows)}\n\n"
        f"Moving straight, or nothing: {', '.join(f'{name} {share}' for name, share in shares.items())}. "
        f"Machine: {where['device']}, {where['processor']}, {where['threads']} thread, torch {where['torch']}."
    )


SHIFTS, MODES = ("late", "early", "aligned"), ("right", "wrong", "unknown")
WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "demo": evaluations,
    "headline": headline,
    "push-t": evaluations,
    "push-t-data": push_t_data,
    "sampler": sampler,
    "importing": importing,
    "fuzz-import": fuzz_import,
    "damage": damage,
    "timing": timing,
    "lag": lag,
    "arm": arm,
    "deployed": deployed,
    "endurance": endurance,
    "precision": precision,
    "budgets": budgets,
    "roofline": roofline,
    "real-time": real_time,
    "scaling": scaling,
    "planning-peer": planning_peer,
    "proposal": proposal,
    "ceiling": ceiling,
}


SOURCES = {"headline": "demo"}


def filled(page: str) -> str:
    """Return a page with every table between its markers written anew; a table without JSON stays."""
    for name, write in WRITERS.items():
        source = RESULTS / f"{SOURCES.get(name, name).replace('-', '_')}.json"
        begin, end = f"<!-- {name}-table -->", f"<!-- /{name}-table -->"
        if begin in page and source.is_file():
            before, rest = page.split(begin, 1)
            after = rest.split(end, 1)[1]
            page = f"{before}{begin}\n{write(json.loads(source.read_text(encoding='utf-8')))}\n{end}{after}"
    begin, end = "<!-- pretrained-table -->", "<!-- /pretrained-table -->"
    if begin in page:
        page = f"{page.partition(begin)[0]}{begin}\n{pretrained()}\n{end}{page.partition(end)[2]}"
    return page


def main() -> None:
    """Rewrite the pages."""
    for name in PAGES:
        path = ROOT / name
        write_text(path, filled(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
