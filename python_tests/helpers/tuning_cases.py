"""A tuning that takes a moment."""

from __future__ import annotations

from dgdd_fast.experiments.study import MethodEntry, Range, Study, TuneConfig

SETTINGS = {"distill.image_lr": Range(0.1, 10.0, relative=True), "distill.surgery.alpha": Range(0.5, 2.0)}


STUDY = Study(
    methods=(MethodEntry("dm"), MethodEntry("dm+sgs")),
    targets=("domain0", "domain1"),
    ipc=(2,),
    seeds=(0,),
    distill={"iterations": 1, "batch_real": 3, "network": {"width": 2}},
    evaluate={"epochs": 1},
    tune=TuneConfig(trials=3, settings=SETTINGS),
)
