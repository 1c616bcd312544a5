"""Names that other programs give to our config keys, for hints in messages.

Nothing is imported for it, so that a mistyped option is answered at once.
"""

from collections.abc import Iterable

from bce_jax.names import nearest

# A key, or the first of several that a config has, and what it is called elsewhere: in small
# letters, without _ and -.
_WORDS = {
  "optimizer.learning_rate": "lr baselr initlr maxlr peaklr eta stepsize initiallearningrate",
  "optimizer.weight_decay": "wd decay l2 l2reg weightdec regularization",
  "optimizer.momentum": "mom beta1",
  "optimizer.name": "opt optim optimiser",
  "optimizer.schedule": "sched scheduler lrschedule lrscheduler lrpolicy",
  "optimizer.warmup_epochs": "warmup warmupsteps lrwarmup",
  "optimizer.clip_norm": "clip gradclip clipgrad gradclipping gradientclipping maxgradnorm maxnorm",
  "batch_size": "bs batch minibatch minibatchsize trainbatchsize perdevicetrainbatchsize",
  "eval_batch_size": "evalbs testbatchsize valbatchsize validationbatchsize testbs valbs",
  "micro_batches": "accum accumulation accumulationsteps gradaccum gradientaccumulationsteps",
  "epochs": "epoch numepochs nepochs maxepochs trainepochs nepoch ep",
  "steps": "step iters iter iterations niter maxiter maxsteps numsteps totalsteps trainsteps",
  "seed": "randomseed rng rngseed randomstate",
  "model": "arch architecture backbone network net encoder modelname",
  "embedding": "embdim embeddim embeddingsize embeddingdim featdim featuredim embed",
  "dtype": "precision amp bf16 bfloat16 fp16 half mixedprecision",
  "start_from": "pretrained initfrom resume weights finetune ckpt checkpoint loadfrom init",
  "loss": "criterion lossname lossfn lossfunction losstype",
  "scale": "gamma s scaling featurescale logitscale",
  "margin": "m marginvalue",
  "smoothing": "labelsmoothing ls smooth labelsmooth",
  "negative_weight": "negweight lambda lam negatives negativesweight posweight",
  "bias_init": "bias initbias biasinitialization",
  "data.name": "dataset data datasetname task",
  "data.folder": "datadir datapath dataroot root path dir imagefolder images imagedir traindir",
  "data.image_size": "imgsize imsize imagesize resolution inputsize res imgsz size cropsize",
  "data.channels": "inchannels numchannels inchans colors",
  "data.workers": "numworkers nworkers j threads",
  "data.validation_fraction": "val valsplit valfraction valsize validation validationsplit",
  "data.test_fraction": "test testsplit testsize testratio",
  "data.imbalance": "if imb imbfactor imbalancefactor imbalanceratio imbratio longtail",
  "data.auto_augment": "aug augment augmentation autoaugment aa autoaug",
  "data.crop_padding": "crop randomcrop padding pad",
  "data.flip": "hflip mirror horizontalflip randomflip",
  "data.sampling_exponent": "sampler sampling resample resampling oversample",
  "rebalance.logit_adjustment": "logitadj logitadjust la balancedsoftmax",
  "rebalance.class_weight_beta": "classweights classweight cbbeta beta reweight",
  "objective.name": "method algorithm algo",
  "objective.contrast_weight": "contrast contrastive contrastiveweight lambdass",
  "objective.temperature scale": "temperature temp tau t",
  "log_every_steps": "log loginterval logfreq logevery logsteps printfreq printevery loggingsteps",
  "eval_every_epochs": "eval evalfreq evalevery evalinterval valevery testevery evalsteps",
  "checkpoint_every_steps": "save savefreq saveevery saveinterval savesteps ckptevery",
  "eval_flip": "tta testtimeaugmentation",
  "verification.pairs": "pairs lfwpairs",
}
_KEYS = {word: keys.split() for keys, words in _WORDS.items() for word in words.split()}


def _plain(name: str) -> str:
  return "".join(letter for letter in name.lower() if letter.isalnum())


_OWN = {_plain(k.rpartition(".")[2]): k for keys in _WORDS for k in keys.split()}
del _OWN["name"]  # of many groups


def usual_key(word: str) -> str | None:
  """Returns the key that an option like `word` means in other programs; None where nobody knows.

  Args:
    word: such as --lr.

  >>> usual_key("--lr"), usual_key("--Batch-Size"), usual_key("--zebra")
  ('optimizer.learning_rate', 'batch_size', None)
  """
  last = _plain(word.rpartition(".")[2])
  return _OWN.get(last) or next(iter(_KEYS.get(last, ())), None)


def nearest_key(key: str, known: Iterable[str]) -> str:
  """Returns the key of a config that may be meant by one that it lacks.

  One of another group, or without its group; else what other programs call so; else the one that
  looks most like it, by itself or with its group.

  >>> known = ["seed", "model", "optimizer.name", "optimizer.learning_rate", "data.folder"]
  >>> [nearest_key(key, known) for key in ("lr", "train.learning_rate", "folder", "model.name")]
  ['optimizer.learning_rate', 'optimizer.learning_rate', 'data.folder', 'model']
  """
  known = list(known)
  group, _, last = key.rpartition(".")
  if group in known and last in ("name", "type", "kind", "arch"):
    return group
  if f"{key}.name" in known:  # a group
    return f"{key}.name"
  same = [k for k in known if _plain(k.rpartition(".")[2]) == _plain(last)]
  if same:
    return nearest(key, same)
  usual = next((k for k in _KEYS.get(_plain(last), ()) if k in known), None)
  if usual is not None:
    return usual
  if group:
    return nearest(key, known)
  alone = {k.rpartition(".")[2]: k for k in reversed(known)}
  found = nearest(key, [*known, *alone])
  return found if found in known else alone[found]
