"""Images and labels: their sources, their order, and their augmentation.

`sources` and `loader` run in NumPy, on the host and in Grain's worker processes; `augment` runs in
JAX, on the device. Import the module you need: nothing is imported here, so that a worker process
loads no more than it runs.
"""
