"""The phases of `scripts.device_check`, by subject.

`setting.py` is what all phases get. `hardware.py`: versions and ceilings. `numerics.py`: attention and goldens.
`transfer.py`: batches to the device, sums over ranks. `training.py`: short runs, loss scaling, kill and resume.
`speed.py`: whole steps of UNITER-base and -large. A phase is a function from a `Setting` to its `Results`.
"""
