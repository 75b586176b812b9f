"""Write the tables of both READMEs from the results in bench/results: no figure without a run.

python bench/readme_tables.py            # rewrites README.md and bench/README.md
python bench/readme_tables.py --check    # fails where they are not what the results say
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
METHOD_NAMES = {"random": "Random", "dm": "DM", "dm+sgs": "DM + SGS"}


def mean_and_spread(accuracy: dict[str, Any]) -> str:
    """``83.7 ± 1.0``; the mean alone for a single seed."""
    spread = accuracy["std"]
    return f"{accuracy['mean']:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def accuracy_table(studies: list[dict[str, Any]]) -> str:
    """Accuracy on the held-out domain for every study, and the protocol below."""
    lines = [
        "| data | held out | " + " | ".join(METHOD_NAMES.values()) + " | SGS's gain over DM, by seed |",
        "| --- | --- |" + " ---: |" * len(METHOD_NAMES) + " --- |",
    ]
    for study in studies:
        cells = []
        for method in METHOD_NAMES:
            cells.append(mean_and_spread(study["accuracy"][method]["target"]))
        pairs = zip(
            *(study["accuracy"][method]["target"]["seeds"] for method in ("dm", "dm+sgs")), strict=True
        )
        gains = ", ".join(f"{with_surgery - plain:+.1f}" for plain, with_surgery in pairs)
        lines.append(f"| {study['title']} | {study['target']} | {' | '.join(cells)} | {gains} |")
    for study in studies:
        distill, evaluate = study["distill"], study["evaluate"]
        surgery = distill["surgery"]
        parts = [
            f"{study['title']}: sources {', '.join(study['sources'])}; {study['resolution'][0]} px",
            f"{distill['ipc']} images per class",
            f"{distill['iterations']} iterations",
            f"{distill['batch_real']} real images per class and domain in each",
            f"image learning rate {distill['image_lr']:g}",
            f"alpha {surgery['alpha']:g}, beta {surgery['beta']:g}",
            f"ConvNet of width {distill['network']['width']}",
            f"tested with a new one of width {evaluate['network']['width']}",
            f"after {evaluate['epochs']} epochs",
        ]
        seeds = f"mean and standard deviation over {study['seeds']} seeds, each a distillation and a training"
        lines += ["", ", ".join(parts) + f"; {seeds}."]
    return "\n".join(lines)


EXPERT_METHODS = {"random": "Random", "start": "start", "mmd": "MMD", "cadm": "CADM"}


def expert_table(studies: list[dict[str, Any]]) -> str:
    """Accuracy of MMD and CADM on the held-out domain at every budget, and the protocol below."""
    if not studies:
        return "MMD and CADM: no study is kept yet."
    shown = [
        method
        for method in EXPERT_METHODS
        if all(method in cells for study in studies for cells in study["accuracy"].values())
    ]
    lines = [
        "| data | held out | images per class | "
        + " | ".join(EXPERT_METHODS[method] for method in shown)
        + " | CADM's gain over MMD, by seed |",
        "| --- | --- | ---: |" + " ---: |" * len(shown) + " --- |",
    ]
    for study in studies:
        for ipc, accuracy in study["accuracy"].items():
            targets = {method: accuracy[method]["target"] for method in shown}
            cells = [mean_and_spread(target) for target in targets.values()]
            pairs = zip(targets["mmd"]["seeds"], targets["cadm"]["seeds"], strict=True)
            gains = ", ".join(f"{cadm - mmd:+.1f}" for mmd, cadm in pairs)
            lines.append(f"| {study['title']} | {study['target']} | {ipc} | {' | '.join(cells)} | {gains} |")
    for study in studies:
        distill, evaluate, experts = study["distill"], study["evaluate"], study["experts"]["config"]
        parts = [
            f"{study['title']}: sources {', '.join(study['sources'])}; {study['resolution'][0]} px",
            f"{experts['experts']} experts (ResNet-18 of width {experts['network']['width']}, "
            f"{experts['epochs']} epochs)",
            f"{distill['iterations']} iterations",
            f"{distill['batch_real']} real images per class and domain in each",
            f"image learning rate {distill['image_lr']:g}",
            f"tested with a ConvNet of width {evaluate['network']['width']}",
            f"after {evaluate['epochs']} epochs",
        ]
        seeds = f"mean and standard deviation over {study['seeds']} seeds, each a distillation and a training"
        lines += ["", ", ".join(parts) + f"; {seeds}."]
    if "start" in shown:
        lines += ["", "start: the mosaics of shrunken real images that MMD and CADM start from."]
    return "\n".join(lines)


DIAGNOSTICS = {
    "masked_share": "channels masked",
    "domain_accuracy": "discriminator, all channels",
    "masked_domain_accuracy": "discriminator, behind its masks",
    "uniform_domain_accuracy": "discriminator, behind uniform masks",
    "probe_accuracy": "probe, all channels",
    "masked_probe_accuracy": "probe, behind the discriminator's masks",
    "uniform_probe_accuracy": "probe, behind uniform masks",
}


def diagnostics_table(studies: list[dict[str, Any]]) -> str:
    """What the experts' discriminators and a linear probe know of the domains, stage by stage."""
    lines = [
        "| data | % | stage 1 | stage 2 | stage 3 | stage 4 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for study in studies:
        experts = next(iter(study["channels"].values()))["experts"]
        for name, label in DIAGNOSTICS.items():
            stages = zip(*(expert[name] for expert in experts), strict=True)
            cells = " | ".join(f"{statistics.fmean(values):.0f}" for values in stages)
            lines.append(f"| {study['title']} | {label} | {cells} |")
    return "\n".join(lines)


JUDGES = {
    "joint": "discriminator, as trained behind the reversal",
    "refitted": "discriminator, refitted",
    "probe": "linear probe",
    "probe_behind_masks": "linear probe, behind the refitted discriminator's masks",
    "probe_behind_uniform_masks": "linear probe, behind uniform masks",
}
EFFECTS = {
    "difference": "domain difference, 1 without masks",
    "shift": "shift of the class mean, in domain differences",
    "noise": "noise of one mask, in squared class means",
}
MASKS = {"gap": "by score", "uniform": "uniform"}
BETWEEN_ENDS = {"trained": "trained", "between": "halfway"}


def _stages(summary: dict[str, Any], form: str) -> str:
    cells = []
    for mean, spread in zip(summary["mean"], summary["std"], strict=True):
        cells.append(f"{mean:{form}}" + ("" if spread is None else f" ± {spread:{form}}"))
    return " | ".join(cells)


def judge_table(results: list[dict[str, Any]]) -> str:
    """How many domains the discriminators tell as they were trained and refitted, beside a linear probe."""
    lines = [
        "| data | domains told, % | stage 1 | stage 2 | stage 3 | stage 4 |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        reversal = result["pretrain"]["reversal_weight"]
        name = f"{result['data']} without {result['target']}, reversal {reversal:g}"
        for judge, label in JUDGES.items():
            cells = _stages(result["told"]["summary"][judge], ".1f")
            lines.append(f"| {name} | {label} | {cells} |")
        largest = " | ".join([f"{result['largest_domain']:.1f}"] * 4)
        lines.append(f"| {name} | whoever names the largest domain | {largest} |")
    return "\n".join(lines)


def effect_table(results: list[dict[str, Any]]) -> str:
    """What masks of each stage do to the final features."""
    lines = [
        "| data | expert | masks | | stage 1 | stage 2 | stage 3 | stage 4 |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        name = f"{result['data']} without {result['target']}"
        for end, expert in BETWEEN_ENDS.items():
            for score, masks in MASKS.items():
                for effect, label in EFFECTS.items():
                    cells = _stages(result["effects"]["summary"][end][score][effect], ".2f")
                    lines.append(f"| {name} | {expert} | {masks} | {label} | {cells} |")
    return "\n".join(lines)


def compared(row: dict[str, Any]) -> str:
    """The cells of a CPU benchmark's row: our time, those of plain PyTorch and how many times longer."""
    times = row["times"]
    others = [
        f"{times[name]['median']:.3g} ms ({row['speedup'][name]:.1f}x)" for name in ("eager", "compiled")
    ]
    return " | ".join([f"{times['dgdd_fast']['median']:.3g} ms", *others])


def speed_table(benchmark: dict[str, Any]) -> str:
    """`spectral_surgery` on the CPU at the papers' sizes against the same formulas in PyTorch."""
    lines = [
        "| images | threads | dgdd-fast | PyTorch eager | torch.compile |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    papers = {(32, 100), (64, 140), (128, 200), (224, 20), (227, 20)}
    for row in benchmark["rows"]:
        case = row["case"]
        chosen = (case["size"], case["images"]) in papers and case["dtype"] == "float32"
        if case["operator"] != "spectral_surgery" or not chosen:
            continue
        name = f"{case['images']} of {case['size']} x {case['size']}"
        lines.append(f"| {name} | {row['threads']} | {compared(row)} |")
    lines += [
        "",
        f"`spectral_surgery`, three domains, float32; {benchmark['device']}, torch {benchmark['torch']}.",
    ]
    return "\n".join(lines)


def masking_table(benchmark: dict[str, Any]) -> str:
    """`mask_channels` on the CPU after the four stages of a ResNet-18 against the same steps in PyTorch."""
    lines = [
        "| feature maps | threads | dgdd-fast | PyTorch eager | torch.compile |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in benchmark["rows"]:
        case = row["case"]
        if (case["image_size"], case["direction"], case["layout"]) != (32, "forward", "planes"):
            continue
        side = case["image_size"] >> (case["stage"] - 1)
        name = f"{case['batch']} of {32 << case['stage']} x {side} x {side}"
        lines.append(f"| {name} | {row['threads']} | {compared(row)} |")
    lines += [
        "",
        "`mask_channels`, forward, a third of the channels, float32, images of 32 px; "
        f"{benchmark['device']}, torch {benchmark['torch']}.",
    ]
    return "\n".join(lines)


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
    lines = [
        "| images | dgdd-fast | of a copy's bandwidth | " + " | ".join(CUDA_PROVIDERS.values()) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(CUDA_PROVIDERS),
    ]
    for row in (row for part in parts for row in part["rows"]):
        case, times = row["case"], row["times"]
        chosen = case["domains"] == 3 and case["dtype"] == "float32" and row["cache"] == "warm"
        if case["operator"] != "spectral_surgery" or not chosen:
            continue
        others = [
            f"{times[name]['median']:.3g} ms ({row['speedup'][name]:.1f}x)" if name in times else "-"
            for name in CUDA_PROVIDERS
        ]
        ours = f"{times['dgdd_fast']['median']:.3g} ms | {100 * row['share_of_copy']:.0f} %"
        lines.append(
            f"| {case['images']} of {case['size']} x {case['size']} | {ours} | {' | '.join(others)} |"
        )
    run = parts[0]
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
    on_cuda = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("spectral_cuda*.json"))]
    return {
        "README.md": {
            "accuracy": accuracy_table(studies),
            "speed": speed_table(spectral),
            "cuda": cuda_table(on_cuda),
        },
        "docs/results.md": {
            "experts": expert_table(of_experts),
            "masking": masking_table(masking),
        },
        "bench/README.md": {
            "diagnostics": diagnostics_table(of_experts),
            "judges": judge_table(of_discriminators),
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
    for name in blocks():
        path = ROOT / name
        rendered = render(name, path.read_text())
        if "--check" not in sys.argv[1:]:
            path.write_text(rendered)
        elif rendered != path.read_text():
            raise SystemExit(f"{name} differs from bench/results: run python bench/readme_tables.py")


if __name__ == "__main__":
    main()
