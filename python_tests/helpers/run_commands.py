"""Options of commands that take a moment."""

SMALL = ("--set=distill.network.width=8", "--set=distill.batch_real=4")
TINY = ("--ipc", 3, "--iterations", 2, *SMALL)
ONE_STEP = ("--ipc", 1, "--iterations", 1, "--threads", 1, *SMALL)
NARROW = ("--set=pretrain.network.width=4", "--set=pretrain.batch_size=40")  # experts
