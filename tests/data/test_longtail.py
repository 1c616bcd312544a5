import numpy as np
import pytest

from bce_jax.data import longtail


@pytest.mark.parametrize("imbalance", [10, 50, 100, 200])
@pytest.mark.parametrize(("classes", "largest"), [(10, 5000), (100, 500)])
def test_counts_equal_the_released_code(official, classes, largest, imbalance):
  expected = official[f"counts/cifar{classes}_if{imbalance}"]
  actual = longtail.class_counts(classes, largest, imbalance=imbalance)
  np.testing.assert_array_equal(actual, expected)


def test_totals_of_the_paper():
  totals = {(10, 5000): (20431, 13996, 12406), (100, 500): (19573, 12608, 10847)}
  for (classes, largest), expected in totals.items():
    actual = [longtail.class_counts(classes, largest, imbalance=f).sum() for f in (10, 50, 100)]
    assert tuple(actual) == expected


def test_step_profile():
  counts = longtail.class_counts(5, 100, imbalance=20, profile="step")
  assert counts.tolist() == [100, 100, 5, 5, 5]


def test_no_imbalance_keeps_all():
  for profile in longtail.PROFILES:
    counts = longtail.class_counts(4, 7, imbalance=1, profile=profile)
    assert counts.tolist() == [7] * 4


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_largest_fit_is_the_largest_that_every_class_can_give(profile):
  available = np.random.default_rng(0).integers(60, 90, 7)
  counts = longtail.largest_fit(available, imbalance=5, profile=profile)
  assert (counts <= available).all()
  larger = longtail.class_counts(7, int(counts[0]) + 1, imbalance=5, profile=profile)
  assert (larger > available).any()


@pytest.mark.parametrize(("classes", "each"), [(10, 5000), (100, 500)])
def test_largest_fit_of_cifar_is_the_published_subset(official, classes, each):
  for imbalance in (10, 50, 100, 200):
    counts = longtail.largest_fit(np.full(classes, each), imbalance=imbalance)
    np.testing.assert_array_equal(counts, official[f"counts/cifar{classes}_if{imbalance}"])


def test_an_imbalance_of_the_largest_class_leaves_one_image():
  for n in range(1, 300):
    for profile in ("exponential", "step"):
      counts = longtail.class_counts(10, n, imbalance=n, profile=profile)
      assert (counts[0], counts[-1]) == (n, 1)


def test_subset_keeps_the_first_in_data_order_or_a_seeded_choice():
  labels = np.random.default_rng(0).integers(0, 4, 400)
  counts = np.array([40, 20, 10, 1])
  first = longtail.subset(labels, counts)
  np.testing.assert_array_equal(np.bincount(labels[first]), counts)
  for label, count in enumerate(counts):
    np.testing.assert_array_equal(
      first[labels[first] == label], np.flatnonzero(labels == label)[:count]
    )
  seeded = [longtail.subset(labels, counts, seed=seed) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(seeded[0], seeded[1])
  assert not np.array_equal(seeded[0], seeded[2])
  np.testing.assert_array_equal(np.bincount(labels[seeded[2]]), counts)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: longtail.class_counts(1, 5, imbalance=2), "num_classes is 1"),
    (lambda: longtail.class_counts(5, 5, imbalance=0.5), "imbalance is 0.5"),
    (lambda: longtail.class_counts(5, 5, imbalance=float("nan")), "imbalance is nan"),
    (lambda: longtail.class_counts(5, 5, imbalance=100), "expected at most 5"),
    (lambda: longtail.class_counts(5, 5, imbalance=2, profile="exp"), "did you mean 'exponential'"),
    (lambda: longtail.subset(np.array([0, 1]), [1, 2]), "class 1 has 1 images, fewer than the 2"),
  ],
)
def test_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
