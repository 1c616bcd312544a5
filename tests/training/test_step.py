import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bce_jax import sharding
from bce_jax.data import loader
from bce_jax.evaluation import summary
from bce_jax.runs import checkpoint
from bce_jax.training import experiment, loop, step

pytestmark = pytest.mark.slow


def mesh_of(devices):
  return jax.make_mesh(
    (devices, 1),
    ("data", "class"),
    axis_types=(AxisType.Auto,) * 2,
    devices=jax.devices()[:devices],
  )


def states_after(config, devices, steps):
  built = experiment.build(config)._replace(mesh=mesh_of(devices))
  train_step = step.jit_train_step(
    step.make_train_step(
      built.model, built.objective, built.optimizer, built.preprocess, built.key
    ),
    built.state_sharding,
  )
  state = built.state_sharding.put(jax.jit(built.init_state)())
  losses = []
  for batch in loader.train_batches(
    built.dataset.train,
    seed=0,
    batch_size=config.batch_size,
    first_step=0,
    last_step=steps,
    partner_exponent=built.objective.partner,
  ):
    state, logs = train_step(state, sharding.put_batch(batch, built.mesh))
    losses.append(float(logs["loss"]))
  return built, state, losses


@pytest.mark.parametrize("loss", ["bce-u", "bce-d", "bce-nd", "soft-u", "soft-nu", "soft-nd"])
def test_every_loss_takes_a_step(tiny, loss):
  tiny.loss = loss
  built, state, losses = states_after(tiny, 1, 2)
  assert np.isfinite(losses).all()
  bias = state.params["head"]["bias"]
  assert bias.shape == (() if loss.endswith("u") else (10,))
  start = jax.jit(built.init_state)().params["head"]["bias"]
  moved = not np.array_equal(bias, start)
  assert moved == (loss not in ("soft-u", "soft-nu"))  # there its gradient is exactly 0


@pytest.mark.core
def test_every_step_draws_its_own_augmentation(tiny):
  built = experiment.build(tiny)
  parts_of_step = (built.model, built.objective, built.optimizer, built.preprocess, built.key)
  train_step = jax.jit(step.make_train_step(*parts_of_step))
  state = jax.jit(built.init_state)()
  [batch] = loader.train_batches(
    built.dataset.train, seed=0, batch_size=32, first_step=0, last_step=1
  )
  first, again, later = (
    float(train_step(state.replace(step=jnp.int32(number)), batch)[1]["loss"])
    for number in (0, 0, 1)
  )
  assert first == again  # a function of the run's key and the step
  assert first != later


def test_a_bias_that_is_not_learnable_stays(tiny):
  tiny.bias_learnable = False
  tiny.optimizer.bias_weight_decay = 0.1
  built, state, _ = states_after(tiny, 1, 2)
  assert state.params["head"]["bias"] == jax.jit(built.init_state)().params["head"]["bias"]


def test_bfloat16_backbone_keeps_float32_parameters_and_scores(tiny):
  tiny.dtype = "bfloat16"
  built, state, losses = states_after(tiny, 1, 1)
  assert np.isfinite(losses).all()
  assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(state))
  outputs = built.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats},
    jnp.zeros((1, 8, 8, 1)),
    train=False,
  )
  assert outputs.scores.similarities.dtype == jnp.float32


@pytest.mark.parametrize("loss", ["bce-u", "bce-nd"])
@pytest.mark.parametrize("devices", [1, 8])
def test_evaluation_is_exact(tiny, loss, devices):
  tiny.loss = loss
  tiny.eval_batch_size = 64  # 360 images: the last batch is filled up
  built, state, _ = states_after(tiny, 1, 2)
  built = built._replace(mesh=mesh_of(devices))
  state = jax.device_put(state, sharding.replicated(built.mesh))
  test = built.dataset.test
  outputs, moments = built.evaluator.split(state.variables, "test")
  bias, weights = (np.asarray(state.params["head"][name]) for name in ("bias", "weights"))
  actual = summary.summarize(
    outputs, test.labels, bias, train_counts=built.train_counts, moments=moments, weights=weights
  )

  # By definition, from all scores of all images at once.
  state = jax.device_get(state)
  images = built.preprocess.evaluate(test.images(np.arange(len(test))))
  scores = built.model.apply(
    {"params": state.params, "batch_stats": state.batch_stats}, images, train=False
  ).scores
  scaled = np.asarray(scores.scaled, np.float64)
  z = scaled - np.asarray(bias, np.float64)
  own = np.eye(10, dtype=bool)[test.labels]
  positive, negative = z[own], np.where(own, -np.inf, z).max(1)
  assert actual["images"] == 360
  close = {"abs": 2.5 / 360}  # rounding may tip a sample or two
  assert actual["sample_wise_accuracy"] == pytest.approx(np.mean(negative < positive), **close)
  at_bias = np.mean((z > 0) == own, where=own)
  at_bias = np.mean(((z > 0) == own).all(1))
  assert actual["uniform_accuracy_at_bias"] == pytest.approx(at_bias, **close)
  grid = np.unique(np.concatenate([positive, negative]))
  middles = (grid[:-1] + grid[1:]) / 2
  uniform = max(np.mean((negative < t) & (t < positive)) for t in middles)
  assert actual["uniform_accuracy"] == pytest.approx(uniform, **close)
  # threshold and bias are both on scale · c.
  raw_own, raw_other = scaled[own], np.where(own, -np.inf, scaled).max(1)
  t = actual["threshold"]
  assert np.mean((raw_other < t) & (t < raw_own)) == pytest.approx(
    actual["uniform_accuracy" if bias.ndim == 0 else "raw_uniform_accuracy"], **close
  )
  if bias.ndim:
    assert actual["bias_min"] <= actual["bias"] <= actual["bias_max"]
    assert actual["bias"] == pytest.approx(bias.mean(), rel=1e-6)


def test_validation_threshold_is_chosen_on_the_validation_split():
  def pairs(positive, negative):
    p, n = np.float32(positive), np.float32(negative)
    return summary.EvalOutputs(p, n, p, n)

  validation = pairs([2.0, 3.0], [1.0, 1.5])  # best between 1.5 and 2
  test = pairs([5.0, 1.6, 1.7, 9.0], [1.0, 1.0, 1.0, 8.0])
  labels = np.array([0, 1])
  assert summary.at_validation_threshold(test, validation, labels, 2) == 0.25


def test_parameters_that_overflow_in_an_update_are_not_saved(tmp_path, tiny, monkeypatch):
  tiny.checkpoint_every_steps = 1
  make_train_step = experiment.make_train_step

  def overflowing(*args, **options):
    train_step = make_train_step(*args, **options)

    def wrapped(state, batch):  # the loss of step 3 is from before its update, and finite
      state, logs = train_step(state, batch)
      factor = jnp.where(state.step == 3, jnp.inf, 1.0)
      return state.replace(params=jax.tree.map(lambda x: x * factor, state.params)), logs

    return wrapped

  monkeypatch.setattr(experiment, "make_train_step", overflowing)
  message = "the parameters after step 3 are not finite; training stops. Checkpoint 2 is kept"
  with pytest.raises(summary.NonFiniteError, match=message):
    loop.train(experiment.build(tiny), tmp_path)
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_checkpoints_keep_the_latest_and_the_best(tmp_path, tiny):
  tiny.data.validation_fraction = 0.1
  built = experiment.build(tiny)
  state = jax.jit(built.init_state)()
  store = checkpoint.Checkpoints(tmp_path, best_metric="uniform_accuracy")
  assert store.latest_step() is None
  for number, score in enumerate([0.2, 0.9, 0.5, None, 0.4], start=1):
    results = None if score is None else {"uniform_accuracy": score, "other": 1.0}
    store.save(state.replace(step=jnp.int32(number)), {"seconds": 1.0}, results)
  store.close()
  again = checkpoint.Checkpoints(tmp_path, best_metric="uniform_accuracy", read_only=True)
  assert (again.latest_step(), again.best_step()) == (5, 2)
  assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == [
    "2",
    "4",
    "5",
  ]
  like = built.state_sharding.to_restore()
  restored, record = again.restore(2, like)
  assert int(restored.step) == 2
  assert record == {"seconds": 1.0}
  for a, b in zip(jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True):
    np.testing.assert_array_equal(a, b)
