"""A distillation watched in Weights & Biases (pip install wandb): losses, and the images now and then.

    python examples/wandb_callback.py

`distill` calls a function after every iteration: any other logger of numbers and pictures is connected in the
same way.
"""

import io
from collections.abc import Callable

import wandb
from PIL import Image

from dgdd_fast import DistillConfig, SurgeryConfig, distill, load_dataset
from dgdd_fast.distillation import Progress


def to_wandb(images_every: int = 100) -> Callable[[Progress], None]:
    """What to give to `distill` as `progress`, after wandb.init."""

    def log(state: Progress) -> None:
        values = {"loss": state.loss, "seconds per iteration": state.seconds_per_iteration}
        values |= {f"loss/{name}": value for name, value in state.terms.items()}
        if state.iteration % images_every == 0 or state.iteration == state.iterations:
            sheet = state.images_so_far().contact_sheet_png()
            values["images"] = wandb.Image(Image.open(io.BytesIO(sheet)))
        wandb.log(values, step=state.iteration)

    return log


if __name__ == "__main__":
    sources, _, target = load_dataset("embedded-digits").leave_out("street")
    config = DistillConfig(surgery=SurgeryConfig(), iterations=500)
    with wandb.init(project="dgdd-fast", config={"iterations": config.iterations, "ipc": config.ipc}):
        distill(sources, config, target="street", progress=to_wandb()).save("street.safetensors")
