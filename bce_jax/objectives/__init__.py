"""Methods: which views of a batch are run, the loss of what comes out, the memory carried along."""

from bce_jax.objectives.joint import LOSSES, Joint, joint, parse
from bce_jax.objectives.objective import Objective, Views

__all__ = ["LOSSES", "Joint", "Objective", "Views", "joint", "parse"]
