"""A config.json of before there were doors is read as it was meant."""

import json

from bce_jax import config as config_lib

# As bce_jax 0.1.0 of 2026-11-25 wrote it; a run of BCE3S.
OLD = """
{"batch_norm_group": null, "batch_size": 128, "best_metric": "uniform_accuracy", "bias_init":
"prior", "bias_learnable": true, "bias_mean": 0.0, "checkpoint_every_steps": null,
"class_chunk": null, "class_devices": 1, "data": {"auto_augment": false, "channels": 3,
"crop_padding": 4, "cutout": 0, "empty_classes": "refuse", "flip": false, "folder": "",
"full_scale": null, "image_size": null, "imbalance": null, "imbalance_profile": "exponential",
"imbalance_seed": null, "in_memory": null, "layout": "auto", "name": "digits",
"sampling_exponent": 0.0, "skip_damaged": 0, "test_fraction": 0.2, "validation_fraction": 0.0,
"workers": 0}, "dtype": "float32", "embedding": null, "epochs": 100.0, "eval_batch_size": 256,
"eval_every_epochs": 1.0, "eval_flip": false, "eval_geometry": true, "eval_logit_adjustment":
0.0, "log_every_steps": 50, "loss": "bce-nu", "margin": 0.0, "micro_batches": 1, "model":
"resnet32", "negative_weight": 1.0, "normalize_weights": null, "objective": {"class_share": 1.0,
"contrast_weight": 0.1, "name": "tripartite", "partner_exponent": 0.0, "projection_size": 128,
"released": false, "temperature": 1.0, "uniform_weight": 1.0}, "optimizer":
{"bias_weight_decay": 0.0, "clip_norm": null, "head_weight_decay": 0.0005, "learning_rate": 0.1,
"momentum": 0.9, "name": "sgd", "nesterov": false, "norm_weight_decay": 0.0005, "schedule":
"cosine", "warmup_epochs": 0.0, "weight_decay": 0.0005}, "rebalance": {"class_weight_beta":
null, "logit_adjustment": 0.0}, "report": true, "scale": 32.0, "seed": 0, "smoothing": 0.0,
"start_from": "", "start_from_checkpoint": "latest", "stem": "cifar", "steps": null,
"verification": {"flip": false, "folder": "", "identities": 0.0, "pairs": ""}, "weight_init":
"uniform", "zero_init_last_norm": false}
"""
# Keys that came later.
LATER = {
  "data.augmentation": "standard",
  "metrics": "",
  "writers": "",
  "optimizer.b1": 0.9,
  "optimizer.b2": 0.999,
  "optimizer.eps": 1e-8,
  "parallel": "jit",
  "start_from_parts": None,
}


def test_it_is_what_it_was_and_later_keys_are_at_their_defaults():
  old = json.loads(OLD)
  config = config_lib.from_dict(old)
  config_lib.check(config)
  flat = config_lib.flatten(config)
  assert {key: flat.pop(key) for key in LATER} == LATER
  assert flat == config_lib.flatten(old)
  assert config.objective.name == "tripartite"
  assert (config.model, config.data.flip) == ("resnet32", False)
