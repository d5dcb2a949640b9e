"""The files of models open in plain Keras, on the backend that they were not written on."""

import keras
import numpy as np
import pytest

from kcifar.models import build
from kcifar.training import Adam
from tests.augment.test_resize import NORMALISED, images_of, scaled
from tests.models.test_small_networks import NAMES, OTHER, bytes_of_images, logits, python

pytestmark = pytest.mark.usefixtures("quick_compilation")

# In a process of its own: another backend sums in another order, 1e-5 of logits near 1.
OPEN = """
import sys
from pathlib import Path
class NoKcifar:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "kcifar":
            raise ImportError("kcifar is out of reach here")
sys.meta_path.insert(0, NoKcifar())
import keras, numpy as np
files = sorted(Path(sys.argv[1]).glob("*.keras"))
assert keras.backend.backend() == sys.argv[2]
for file in files:
    model = keras.models.load_model(file, **({"compile": False} if file.stem == "trained" else {}))
    with np.load(file.with_suffix(".npz")) as arrays:
        found = model.predict(arrays["images"], verbose=0)
        np.testing.assert_allclose(found, arrays["logits"], atol=1e-5, rtol=1e-5, err_msg=file.stem)
    assert all(type(layer).__module__.split(".")[0] == "keras" for layer in model.layers)
assert "kcifar" not in sys.modules
print(*[file.stem for file in files])
"""


def test_files_open_in_plain_keras_on_the_other_backend(tmp_path):
    """Run on both backends, that is once each way; the files take bytes."""

    def write(name, model, images):
        model.save(tmp_path / f"{name}.keras")
        expected = logits(model, images, training=False)
        assert 0.01 < np.abs(expected).max() < 5
        np.savez(tmp_path / f"{name}.npz", images=images, logits=expected)

    images = bytes_of_images()
    for name in NAMES:
        write(name, scaled(build(name, **NORMALISED)), images)
    write("resnet20", scaled(build("resnet20", **NORMALISED)), images)
    model = scaled(build("tutorial_net", **NORMALISED))
    model.compile(optimizer=Adam(1e-3, l2=1e-3), loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    model.train_on_batch(images, np.eye(10, dtype=np.float32)[:8])
    write("trained", model, images)
    of_other_sizes = images_of((32, 32), np.uint8)
    write("enlarged", scaled(build("tutorial_net", resize=64, center_crop=56, **NORMALISED)), of_other_sizes)
    write("reduced", scaled(build("elu_cnn", resize=24, center_crop=21, **NORMALISED)), of_other_sizes)

    names = ["elu_cnn", "enlarged", "reduced", "resnet18", "resnet20", "trained", "tutorial_net"]
    assert python(OPEN, tmp_path, OTHER, backend=OTHER).split() == names
