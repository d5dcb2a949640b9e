"""What each of two processes does in tests/experiment/test_together.py, and one alone."""

import sys

import keras
import numpy as np
import torch
from keras import layers

import kcifar
from kcifar import backend, callbacks
from kcifar.augment import MixUp, RandomFlip
from kcifar.callbacks.processes import StopTogether, Together
from kcifar.data import Batches, Split
from kcifar.errors import InputError
from kcifar.evaluation.models import evaluation_batches
from kcifar.training import SGD, SharpnessAware

EPOCHS, BATCH, IMAGES = 5, 16, 156  # ten steps an epoch, the last of 12 images


def without_norm():
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(),
        layers.Dense(4),
    ])  # fmt: skip


def with_norm():
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3, use_bias=False),
        layers.BatchNormalization(), layers.ReLU(), layers.Flatten(), layers.Dense(4),
    ])  # fmt: skip


CASES = {  # model, what is around it, whether it is accelerated, the optimizer's arguments, and a decay of averages
    "plain": (without_norm, lambda model: model, False, {}, None),
    "native": (without_norm, lambda model: model, True, {"global_clipnorm": 0.5, "l2": 1e-3}, None),
    "averaged": (without_norm, lambda model: model, True, {}, 0.9),
    "synchronized SAM": (without_norm, lambda model: SharpnessAware(model, 0.1, synchronized=True), True, {}, None),
    "local SAM": (without_norm, lambda model: SharpnessAware(model, 0.1), True, {}, None),
    "with norm": (with_norm, lambda model: model, True, {"momentum": 0.0}, None),
}


class Draws(keras.callbacks.Callback):
    """What torch's global generator gives at the begin of each epoch, as layers without a seed get it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.found.append(torch.rand(3).numpy())


class Stops(keras.callbacks.Callback):
    """Ends training in one process, in its third batch; counts the batches."""

    def __init__(self, stops):
        super().__init__()
        self.stops, self.batches = stops, 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        self.model.stop_training = self.stops and batch == 2


def made(case, seed=0):
    """A compiled model and the callbacks of a case."""
    make, around, fast, options, decay = CASES[case]
    keras.utils.set_random_seed(seed)
    model = make()
    if fast:
        kcifar.accelerate(model)
    model = around(model)
    optimizer = SGD(**{"learning_rate": 0.05, "momentum": 0.9} | options)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model, [callbacks.WeightEMA(decay)] if decay else []


def batches(part=(0, 1)):
    """Those that all of a case are trained on."""
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (IMAGES, 8, 8, 3), dtype=np.uint8), rng.integers(0, 4, IMAGES), 4)
    return Batches(split, BATCH, [RandomFlip(), MixUp(0.2)], seed=3, part=part)


def trained(case, processes=None, others=(), last=()):
    """All values of a model after fifty steps, and the figures of its epochs."""
    model, further = made(case)
    own = batches((processes.rank, processes.count) if processes else (0, 1))
    if processes:
        backend.average_gradients(model, processes)
        further = [Together(processes), *further, *others, *last]
    history = model.fit(own, shuffle=False, epochs=EPOCHS, verbose=0, callbacks=further).history
    odd = evaluation_batches(model, own.split.take(slice(31)))
    values = {str(i): value for i, value in enumerate(model.get_weights())}
    return values | history | model.evaluate(odd, verbose=0, return_dict=True)


def on_all_devices():
    """What is trained on all devices of JAX, two of which are there, is what is trained on one."""
    cases = ("averaged", "local SAM", "with norm")
    alone = {case: trained(case) for case in cases}
    backend.use_device("all")
    assert len(made("averaged")[0].weights[0].value.sharding.device_set) == 2
    for case in cases:
        for name, value in trained(case).items():
            np.testing.assert_allclose(value, alone[case][name], rtol=1e-4, atol=1e-4, err_msg=f"{case} {name}")


def by_torchs_group(processes, folder):
    """What a model has that knows torch's default group alone, and began with other weights in each process."""
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=processes.rank, world_size=processes.count)
    model, _ = made("local SAM", seed=processes.rank)
    try:
        model.fit(batches((processes.rank, processes.count)), shuffle=False, epochs=EPOCHS, verbose=0)
    except InputError as error:
        return {"refused": np.array(str(error))}
    return {str(i): value for i, value in enumerate(model.get_weights())}


def in_two_processes(folder):
    """Writes what a process has of each case, and what ends in one process alone."""
    processes = backend.join_processes()
    draws, stops = Draws(), Stops(processes.rank == 1)
    for case in CASES:
        np.savez(f"{folder}/{case} {processes.rank}.npz", **trained(case, processes, [draws]))
    trained("plain", processes, [stops], [StopTogether(processes)])
    np.savez(f"{folder}/draws {processes.rank}.npz", draws=draws.found, batches=stops.batches)
    np.savez(f"{folder}/torch's group {processes.rank}.npz", **by_torchs_group(processes, folder))


if __name__ == "__main__":
    if keras.backend.backend() == "jax":
        on_all_devices()
    else:
        in_two_processes(sys.argv[1])
