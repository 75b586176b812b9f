"""Write what README.md, bench/README.md and docs/results.md show of bench/results: no figure without a run.

python bench/readme_tables.py            # rewrites them
python bench/readme_tables.py --check    # fails where they are not what the results say
python bench/readme_tables.py STUDY=GRID    # first takes what that grid has of bench/studies/STUDY.yaml
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import verdicts

from dgdd_fast.analysis.paired import paired_difference

ROOT, RESULTS = verdicts.ROOT, verdicts.RESULTS
METHODS = {"random": "Random", "dm": "DM", "dm+sgs": "DM + SGS"}
EXPERT_METHODS = {"random": "Random", "start": "start", "mmd": "MMD", "cadm": "CADM"}
DIAGNOSTICS = {
    "masked_share": "channels masked",
    "domain_accuracy": "discriminator, all channels",
    "masked_domain_accuracy": "discriminator, under its masks",
    "uniform_domain_accuracy": "discriminator, under uniform masks",
    "probe_accuracy": "probe, all channels",
    "masked_probe_accuracy": "probe, under the discriminator's masks",
    "uniform_probe_accuracy": "probe, under uniform masks",
}
DOMAIN_CLASSIFIERS = {
    "joint": "discriminator, as trained behind the gradient reversal",
    "refitted": "discriminator, refitted",
    "probe": "linear probe",
    "probe_behind_masks": "linear probe, under the refitted discriminator's masks",
    "probe_behind_uniform_masks": "linear probe, under uniform masks",
}
EFFECTS = {
    "difference": "domain difference, 1 without masks",
    "shift": "shift of the class mean, in domain differences",
    "noise": "noise of one mask, in squared class means",
}
MASKS = {"gap": "by score", "uniform": "uniform"}
BETWEEN_ENDS = {"trained": "trained", "between": "halfway"}
STAGES = ["stage 1", "stage 2", "stage 3", "stage 4"]


def table(columns: list[str], rows: Iterable[list[str]], texts: int) -> list[str]:
    """The lines of a Markdown table; the first `texts` columns flush left, the others right."""
    alignment = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return ["| " + " | ".join(cells) + " |" for cells in (columns, alignment, *rows)]


def spread(mean: float, std: float | None, form: str = ".1f") -> str:
    """``83.7 ± 1.0``; the mean alone for a single seed."""
    return f"{mean:{form}}" + ("" if std is None else f" ± {std:{form}}")


def _row(accuracy: dict[str, Any], methods: Iterable[str], pair: tuple[str, str]) -> list[str]:
    """Accuracy on the held-out domain of each method, and what the second of `pair` gains, with the 95 %
    interval of the mean, and by seed."""
    targets = {method: accuracy[method]["target"] for method in methods}
    cells = [spread(target["mean"], target["std"]) for target in targets.values()]
    plain, better = (dict(enumerate(targets[method]["seeds"])) for method in pair)
    gains = ", ".join(f"{better[seed] - plain[seed]:+.1f}" for seed in plain)
    found = paired_difference(better, plain)
    return [*cells, f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}): {gains}"]


def _protocol(study: dict[str, Any], budget: list[str], learners: list[str], network: str) -> str:
    """How the figures of a study came about, in a sentence."""
    distill, evaluate = study["distill"], study["evaluate"]
    parts = [
        f"{study['title']}: sources {', '.join(study['sources'])}; {study['resolution'][0]} px",
        *budget,
        f"{distill['iterations']} iterations",
        f"{distill['batch_real']} real images per class and domain in each",
        f"image learning rate {distill['image_lr']:g}",
        *learners,
        f"tested with {network} of width {evaluate['network']['width']}",
        f"after {evaluate['epochs']} epochs",
    ]
    seeds = f"mean and standard deviation over {study['seeds']} seeds, each a distillation and a training"
    return f"{', '.join(parts)}; {seeds}."


def accuracy_table(studies: list[dict[str, Any]]) -> str:
    """Accuracy on the held-out domain for every study, and a line on how it was measured."""
    rows = [
        [study["title"], study["target"], *_row(study["accuracy"], METHODS, ("dm", "dm+sgs"))]
        for study in studies
    ]
    lines = table(
        ["data", "held out", *METHODS.values(), "SGS's gain over DM (95 % interval): by seed"], rows, texts=2
    )
    lines.append("")
    for resolution, ipc, iterations, seeds in dict.fromkeys(
        (study["resolution"][0], study["distill"]["ipc"], study["distill"]["iterations"], study["seeds"])
        for study in studies
    ):
        lines.append(
            f"{resolution} px, {ipc} images per class, {iterations} iterations (the papers: 20,000); mean "
            f"and standard deviation over {seeds} seeds, each a distillation and a training."
        )
    return "\n".join(lines)


def accuracy_protocols(studies: list[dict[str, Any]]) -> str:
    """How the figures of `accuracy_table` came about, a paragraph a study."""
    paragraphs = []
    for study in studies:
        distill = study["distill"]
        learners = [
            f"alpha {distill['surgery']['alpha']:g}, beta {distill['surgery']['beta']:g}",
            f"ConvNet of width {distill['network']['width']}",
        ]
        budget = [f"{distill['ipc']} images per class"]
        paragraphs.append(_protocol(study, budget, learners, "a new one"))
    return "\n\n".join(paragraphs)


def expert_table(studies: list[dict[str, Any]]) -> str:
    """Accuracy of MMD and CADM on the held-out domain at every budget, and the protocol below."""
    rows = [
        [study["title"], study["target"], ipc, *_row(accuracy, EXPERT_METHODS, ("mmd", "cadm"))]
        for study in studies
        for ipc, accuracy in study["accuracy"].items()
    ]
    columns = ["data", "held out", "images per class", *EXPERT_METHODS.values()]
    lines = table([*columns, "CADM's gain over MMD (95 % interval): by seed"], rows, texts=2)
    for study in studies:
        experts = study["experts"]["config"]
        network = f"ResNet-18 of width {experts['network']['width']}, {experts['epochs']} epochs"
        budget = [f"{experts['experts']} experts ({network})"]
        lines += ["", _protocol(study, budget, [], "a ConvNet")]
    return "\n".join([*lines, "", "start: the mosaics of shrunken real images that MMD and CADM start from."])


def diagnostics_table(studies: list[dict[str, Any]]) -> str:
    """What the experts' discriminators and a linear probe know of the domains, stage by stage."""
    rows = []
    for study in studies:
        experts = next(iter(study["channels"].values()))["experts"]
        for name, label in DIAGNOSTICS.items():
            stages = zip(*(expert[name] for expert in experts), strict=True)
            means = [f"{statistics.fmean(values):.0f}" for values in stages]
            rows.append([study["title"], label, *means])
    return "\n".join(table(["data", "%", *STAGES], rows, texts=2))


def _stages(summary: dict[str, Any], form: str) -> list[str]:
    return [spread(*values, form) for values in zip(summary["mean"], summary["std"], strict=True)]


def discriminator_table(results: list[dict[str, Any]]) -> str:
    """Domain accuracy of the discriminators as trained and refitted, beside that of a linear probe."""
    rows = []
    for result in results:
        reversal = result["pretrain"]["reversal_weight"]
        name = f"{result['data']} without {result['target']}, reversal {reversal:g}"
        for classifier, label in DOMAIN_CLASSIFIERS.items():
            rows.append([name, label, *_stages(result["told"]["summary"][classifier], ".1f")])
        rows.append([name, "majority class (the largest domain)", *[f"{result['largest_domain']:.1f}"] * 4])
    return "\n".join(table(["data", "domain accuracy, %", *STAGES], rows, texts=2))


def effect_table(results: list[dict[str, Any]]) -> str:
    """What masks of each stage do to the final features."""
    rows = []
    for result in results:
        name = f"{result['data']} without {result['target']}"
        for end, score, effect in itertools.product(BETWEEN_ENDS, MASKS, EFFECTS):
            cells = _stages(result["effects"]["summary"][end][score][effect], ".2f")
            rows.append([name, BETWEEN_ENDS[end], MASKS[score], EFFECTS[effect], *cells])
    return "\n".join(table(["data", "expert", "masks", "", *STAGES], rows, texts=4))


def grid_table(name: str) -> str:
    """The table of a grid as `dgdd table --format markdown` wrote it, without its heading."""
    return (RESULTS / f"{name}.md").read_text().partition("\n\n")[2].strip()


CPU_PROVIDERS = ["threads", "dgdd-fast", "PyTorch eager", "torch.compile"]


def compared(row: dict[str, Any]) -> list[str]:
    """The cells of a CPU benchmark's row: our time, those of plain PyTorch and how many times longer."""
    times = row["times"]
    others = [
        f"{times[name]['median']:.3g} ms ({row['speedup'][name]:.1f}x)" for name in ("eager", "compiled")
    ]
    return [str(row["threads"]), f"{times['dgdd_fast']['median']:.3g} ms", *others]


def speed_table(benchmark: dict[str, Any]) -> str:
    """`spectral_surgery` on the CPU at the papers' sizes against the same formulas in PyTorch."""
    rows = []
    papers = {(32, 100), (64, 140), (128, 200), (224, 20), (227, 20)}
    for row in benchmark["rows"]:
        case = row["case"]
        chosen = (case["size"], case["images"]) in papers and case["dtype"] == "float32"
        if case["operator"] != "spectral_surgery" or not chosen:
            continue
        name = f"{case['images']} of {case['size']} x {case['size']}"
        rows.append([name, *compared(row)])
    lines = table(["images", *CPU_PROVIDERS], rows, texts=1)
    lines += [
        "",
        f"`spectral_surgery`, three domains, float32; {benchmark['device']}, torch {benchmark['torch']}.",
    ]
    return "\n".join(lines)


def masking_table(benchmark: dict[str, Any]) -> str:
    """`mask_channels` on the CPU after the four stages of a ResNet-18 against the same steps in PyTorch."""
    rows = []
    for row in benchmark["rows"]:
        case = row["case"]
        if (case["image_size"], case["direction"], case["layout"]) != (32, "forward", "planes"):
            continue
        side = case["image_size"] >> (case["stage"] - 1)
        name = f"{case['batch']} of {32 << case['stage']} x {side} x {side}"
        rows.append([name, *compared(row)])
    lines = table(["feature maps", *CPU_PROVIDERS], rows, texts=1)
    lines += [
        "",
        "`mask_channels`, forward, a third of the channels, float32, images of 32 px; "
        f"{benchmark['device']}, torch {benchmark['torch']}.",
    ]
    return "\n".join(lines)


def literal_table(benchmark: dict[str, Any]) -> str:
    """Iterations of the loop and of the literal one; `benchmark` is the table of bench_literal.py."""
    rows = []
    for row in benchmark["rows"]:
        case, times = row["case"], row["times"]
        ours, literal = (f"{times[name]['median']:.0f} ms" for name in ("dgdd_fast", "literal"))
        ratios = [f"{row[name]:.1f}" for name in ("speedup", "speedup_of_least")]
        rows.append(
            [METHODS[case["method"]], str(case["width"]), str(row["real_images"]), ours, literal, *ratios]
        )
    columns = ["method", "width", "real images", "dgdd-fast", "literal", "times", "of the least"]
    return "\n".join(table(columns, rows, texts=1))


def training_table(benchmark: dict[str, Any]) -> str:
    """Epochs of training and of plain PyTorch's; `benchmark` is the table of bench_train.py."""
    rows = []
    for row in benchmark["rows"]:
        case, times = row["case"], row["times"]
        what = f"{case['task']}, {case['architecture']}, width {case['width']}, {case['resolution']} px"
        others = [
            f"{times[name]['median']:.0f} ms ({row['speedup'][name]:.1f}x)" if name in times else "-"
            for name in ("plain", "compiled")
        ]
        ours = f"{times['dgdd_fast']['median']:.0f} ms"
        rows.append([what, str(case["images"]), str(row["threads"]), ours, *others])
    return "\n".join(
        table(["epoch", "images", "threads", "dgdd-fast", "plain", "torch.compile"], rows, texts=1)
    )


def loop_sentence(literal: dict[str, Any], training: dict[str, Any]) -> str:
    """How much faster iterations of the loop and epochs of evaluation are than plain PyTorch."""

    def span(ratios: list[float]) -> str:
        return f"{min(ratios):.1f} to {max(ratios):.1f}"

    dm, sgs = (
        span([row["speedup"] for row in literal["rows"] if row["case"]["method"] == method])
        for method in ("dm", "dm+sgs")
    )
    evaluation = [row["speedup"]["plain"] for row in training["rows"] if row["case"]["task"] == "evaluation"]
    return (
        f"A whole iteration of distillation is {dm} times as fast as the same in plain PyTorch for DM and "
        f"{sgs} times for DM + SGS, an epoch of evaluation {span(evaluation)} times "
        f"({literal['device']}; every size in `bench/README.md`)."
    )


CUDA_PROVIDERS = {
    "eager": "PyTorch eager",
    "compiled": "torch.compile",
    "eager_graph": "PyTorch, CUDA graph",
    "cupy": "CuPy",
}


def cuda_table(parts: list[dict[str, Any]]) -> str:
    """`spectral_surgery` on CUDA in every regime that was measured; `parts` are tables of one device."""
    if not parts:
        return "On CUDA: not measured on a GPU yet; the goals are in `bench/README.md`."
    rows = []
    for row in (row for part in parts for row in part["rows"]):
        case, times = row["case"], row["times"]
        chosen = case["domains"] == 3 and case["dtype"] == "float32" and row["cache"] == "warm"
        if case["operator"] != "spectral_surgery" or not chosen:
            continue
        others = [
            f"{times[name]['median']:.3g} ms ({row['speedup'][name]:.1f}x)" if name in times else "-"
            for name in CUDA_PROVIDERS
        ]
        ours = [f"{times['dgdd_fast']['median']:.3g} ms", f"{100 * row['share_of_copy']:.0f} %"]
        rows.append([f"{case['images']} of {case['size']} x {case['size']}", *ours, *others])
    run = parts[0]
    columns = ["images", "dgdd-fast", "of a copy's bandwidth", *CUDA_PROVIDERS.values()]
    lines = table(columns, rows, texts=1)
    lines += [
        "",
        f"`spectral_surgery`, three domains, float32, caches warm; {run['device']}, torch {run['torch']}.",
    ]
    return "\n".join(lines)


def blocks() -> dict[str, dict[str, str]]:
    """What stands between `<!-- NAME -->` and `<!-- /NAME -->`, by file and name."""
    studies = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("accuracy_*.json"))]
    of_experts = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cadm_*.json"))]
    spectral, masking = (
        json.loads((RESULTS / name).read_text()) for name in ("spectral_cpu.json", "masking_cpu.json")
    )
    of_discriminators = [
        json.loads(path.read_text()) for path in sorted(RESULTS.glob("discriminators_*.json"))
    ]
    literal, training = (
        json.loads((RESULTS / name).read_text()) for name in ("literal_cpu.json", "train_cpu.json")
    )
    on_cuda = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("spectral_cuda*.json"))]
    demo = verdicts.demo(json.loads((RESULTS / "demo_embedded_digits.json").read_text()))
    measured = verdicts.results("verdict_") + verdicts.results("recipes_")
    return {
        "README.md": {
            "demo": demo,
            "accuracy": verdicts.summary(measured) or f"{accuracy_table(studies)}\n\n{verdicts.BEFORE}",
            "speed": speed_table(spectral),
            "loop": loop_sentence(literal, training),
            "cuda": cuda_table(on_cuda),
        },
        "bench/README.md": {"literal": literal_table(literal), "training": training_table(training)},
        "docs/results.md": {
            "verdicts": "\n\n".join(map(verdicts.report, measured)) or verdicts.NONE,
            "demo": demo,
            "800": accuracy_table(studies),
            "protocols": accuracy_protocols(studies),
            "tuned": grid_table("sgs_table_1_digits_tuned"),
            "cadm": grid_table("cadm_table_1_pacs"),
            "experts": expert_table(of_experts),
            "masking": masking_table(masking),
            "diagnostics": diagnostics_table(of_experts),
            "discriminators": discriminator_table(of_discriminators),
            "effects": effect_table(of_discriminators),
        },
    }


def render(name: str, content: str) -> str:
    """The file `name` with its blocks filled in from the results."""
    for block, text in blocks()[name].items():
        content, count = re.subn(
            rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)",
            lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}",
            content,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(
                f"{name} must have one block <!-- {block} --> ... <!-- /{block} -->, found {count}"
            )
    return content


def main() -> None:
    for grid in (argument for argument in sys.argv[1:] if argument != "--check"):
        name, given, folder = grid.partition("=")
        if not given:
            raise SystemExit(f"expected STUDY=FOLDER, such as verdict_sgs_digits=grids/digits, got {grid}")
        print(f"written: {verdicts.take(name, Path(folder))}")
    for name in blocks():
        path = ROOT / name
        rendered = render(name, path.read_text())
        if "--check" not in sys.argv[1:]:
            path.write_text(rendered)
        elif rendered != path.read_text():
            raise SystemExit(f"{name} differs from bench/results: run python bench/readme_tables.py")


if __name__ == "__main__":
    main()
