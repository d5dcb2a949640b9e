"""Commands that cannot be done, by what is wrong; what they name, tests/bad_inputs_folder.py makes."""

import dataclasses

INTRODUCTION = """\
# What a command says when it cannot do what it was given

A command ends with one of these exit codes:

- 0: it did what was asked.
- 2: something that was given cannot be used, or a file cannot be read or written. One line on stderr says what was
  found, what was expected and what to do; it has at most 300 characters, and where it would be longer it is cut in the
  middle; a command to go on with, at its end, stays whole. What was there before is still there, and a run that was
  not begun leaves no folder behind.
- 130: it was interrupted, by Ctrl-C, SIGTERM or SIGHUP. The line says how to go on, where there is something to go on
  with.
- 141: whoever read its output ended first, as in `kcifar evaluate runs/a | head -1`. It says nothing.

Of several seeds each is trained by a command of its own: where one ends with a line on stderr, a second says which.
A traceback is a defect of kcifar, or of a part of your own that fails in the middle of a training.

The tables below are what the commands say, written by a test that gives them. In the folder in which it does, `tiny.py`
is a recipe, `images.npz` its data, `runs/a` a run of it that is done, and most else is called by what is wrong with it.
`python -m kcifar.train` says the same as `kcifar train`.
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that is refused.

    Attributes:
        what: is wrong.
        command: as typed, perhaps with variables before it.
        disk_full: the folder in which nothing can be written, None where there is space.
        written: the run's folder in which another process writes meanwhile.
    """

    what: str
    command: str
    disk_full: str | None = None
    written: str | None = None


TABLES = {
    "kcifar": [
        Case("no such command", "kcifar trian"),
        Case("no such option", "kcifar --verbose"),
    ],
    "kcifar train: the recipe": [
        Case("no recipe", "kcifar train"),
        Case("no such recipe", "kcifar train recipes/mixpu.py"),
        Case("an empty path", "kcifar train ''"),
        Case("a folder", "kcifar train runs"),
        Case("no Python file", "kcifar train images.npz"),
        Case("it does not parse", "kcifar train unclosed.py"),
        Case("it does not run", "kcifar train fails.py"),
        Case("it defines no recipe", "kcifar train nothing.py"),
        Case("a field that there is not", "kcifar train misspelt.py"),
        Case("a field is missing", "kcifar train seedless.py"),
        Case("text in the place of a number", "kcifar train textual.py"),
        Case("two recipes", "kcifar train tiny.py recipes/mixup.py"),
    ],
    "kcifar train: fields of the recipe": [
        Case("an unknown field", "kcifar train tiny.py epoch=30"),
        Case("PyTorch's name of an argument", "kcifar train tiny.py lr=0.1"),
        Case("an unknown part of a field", "kcifar train tiny.py optimizer.rate=0.1"),
        Case("a transform that the recipe does not have", "kcifar train tiny.py transforms.ColorJitter.hue=0.1"),
        Case("no batch", "kcifar train tiny.py batch_size=0"),
        Case("a batch in no parts", "kcifar train tiny.py accumulate=0"),
        Case("a fraction of a part", "kcifar train tiny.py accumulate=1.5"),
        Case("more parts than images", "kcifar train tiny.py accumulate=21"),
        Case("no epoch", "kcifar train tiny.py epochs=0"),
        Case("fewer than none", "kcifar train tiny.py epochs=-1"),
        Case("a fraction of an epoch", "kcifar train tiny.py epochs=1e3"),
        Case("a word for a number", "kcifar train tiny.py epochs=ten"),
        Case("nothing behind the =", "kcifar train tiny.py epochs="),
        Case("more than all images held out", "kcifar train tiny.py validation=1.5"),
        Case("so few that there is none", "kcifar train tiny.py validation=0.001"),
        Case("selection on images that there are not", "kcifar train tiny.py validation=0"),
        Case("selection on an unknown split", "kcifar train tiny.py select_on=valid"),
        Case("an unknown precision", "kcifar train tiny.py precision=float8"),
        Case("neither true nor false", "kcifar train tiny.py deterministic=maybe"),
        Case("a word for a seed", "kcifar train tiny.py seed=x"),
        Case("a seed below 0", "kcifar train tiny.py seed=-1"),
        Case("seeds from the greater to the smaller", "kcifar train tiny.py seed=5..1"),
        Case("the seed given twice", "kcifar train tiny.py seed=0..4 --seed 3"),
        Case("one of several seeds cannot be trained", "kcifar train tiny.py seed=0..1 epochs=0"),
        Case("means of two channels of three", "kcifar train tiny.py mean=0.5,0.5 std=0.2,0.2"),
        Case("a deviation of 0", "kcifar train tiny.py mean=0,0,0 std=0,0,0"),
        Case("a mean without a deviation", "kcifar train tiny.py mean=0.5,0.5,0.5"),
        Case("a crop larger than the image", "kcifar train tiny.py center_crop=64"),
        Case("fewer images than a batch has", "kcifar train tiny.py batch_size=500 drop_last=true"),
    ],
    "kcifar train: parts of the recipe": [
        Case("an unknown model", "kcifar train tiny.py 'model=resnet21()'"),
        Case("an unknown argument of a model", "kcifar train tiny.py model.droput=0.1"),
        Case("a model of one's own that is not there", "kcifar train tiny.py 'model=my_nets:small()'"),
        Case("a name that is not in the module", "kcifar train tiny.py 'model=nets:smal()'"),
        Case("what makes something else", "kcifar train tiny.py 'model=nets:small()'"),
        Case("what fails", "kcifar train tiny.py 'model=nets:broken()'"),
        Case("an unknown optimizer", "kcifar train tiny.py 'optimizer=Adma()'"),
        Case("a bracket is missing", "kcifar train tiny.py 'optimizer=Adam(learning_rate=0.1'"),
        Case("an argument without its name", "kcifar train tiny.py 'optimizer=Adam(0.1)'"),
        Case("PyTorch's name in a part", "kcifar train tiny.py 'optimizer=Adam(lr=0.1)'"),
        Case("an argument is missing", "kcifar train tiny.py 'optimizer=SGD()'"),
        Case("an argument of another optimizer", "kcifar train tiny.py optimizer.momentum=0.9"),
        Case("a learning rate below 0", "kcifar train tiny.py optimizer.learning_rate=-1"),
        Case("a word for a learning rate", "kcifar train tiny.py optimizer.learning_rate=fast"),
        Case("a penalty below 0", "kcifar train tiny.py optimizer.l2=-1"),
        Case("no finite learning rate", "kcifar train tiny.py optimizer.learning_rate=1e400"),
        Case("a word for a momentum", "kcifar train tiny.py 'optimizer=SGD(learning_rate=0.1, momentum=high)'"),
        Case("an unknown loss", "kcifar train tiny.py 'loss=CrossEntropy()'"),
        Case("smoothing above 1", "kcifar train tiny.py loss.label_smoothing=5"),
        Case("a word for a smoothing", "kcifar train tiny.py 'loss=CategoricalCrossentropy(label_smoothing=some)'"),
        Case("an unknown transform", "kcifar train tiny.py 'transforms=[MixPu(alpha=0.2)]'"),
        Case("a transform's argument out of range", "kcifar train tiny.py transforms.MixUp.alpha=-1"),
        Case("a transform without its arguments", "kcifar train tiny.py 'transforms=[RandomCrop()]'"),
        Case("a transform that is no list", "kcifar train tiny.py 'transforms=RandomFlip()'"),
        Case("an unknown schedule", "kcifar train tiny.py 'schedule=Cosine()'"),
        Case("a schedule without its arguments", "kcifar train tiny.py 'schedule=StepDecay()'"),
        Case("a warm-up longer than the run", "kcifar train tiny.py 'schedule=WarmupCosine(warmup_epochs=5)'"),
        Case(
            "a cycle the wrong way round", "kcifar train tiny.py 'schedule=CyclicLR(base=1, maximum=0, step_size_up=2)'"
        ),
        Case("a callback that there is not", "kcifar train tiny.py 'callbacks=[Checkpoint()]'"),
        Case("one that Keras has not", "kcifar train tiny.py 'callbacks=[keras.callbacks:TerminateOnNan()]'"),
        Case(
            "nothing to stop early by", "kcifar train tiny.py 'early_stopping=EarlyStopping(patience=2)' select_on=last"
        ),
        Case("patience below 0", "kcifar train tiny.py 'early_stopping=EarlyStopping(patience=-1)'"),
        Case("a radius of 0", "kcifar train tiny.py 'sharpness_aware=SharpnessAware(rho=0)'"),
        Case("an average that never ends", "kcifar train tiny.py 'weight_ema=WeightEMA(decay=2)'"),
        Case("unknown layers to freeze", "kcifar train tiny.py freeze=layer9"),
        Case("all layers frozen", "kcifar train tiny.py freeze=conv1,conv2,dense1,dense2,logits"),
        Case("nothing to unfreeze", "kcifar train tiny.py unfreeze_epoch=1 epochs=2"),
    ],
    "kcifar train: weights to start from": [
        Case("no such file", "kcifar train tiny.py pretrained=none.pth"),
        Case("no such published weights", "kcifar train tiny.py pretrained=torchvision/resnet19"),
        Case("an empty file", "kcifar train tiny.py pretrained=blank.pth"),
        Case("a page in the place of a download", "kcifar train tiny.py pretrained=page.pth"),
        Case("a damaged file", "kcifar train tiny.py pretrained=cut.keras"),
        Case("weights of another model", "kcifar train tiny.py pretrained=small.keras"),
        Case("a folder", "kcifar train tiny.py pretrained=runs/a"),
        Case("a named pipe", "kcifar train tiny.py pretrained=pipe.npz"),
    ],
    "kcifar train: data": [
        Case("no such path", "kcifar train tiny.py --data nowhere/images.npz"),
        Case("an empty path", "kcifar train tiny.py data="),
        Case("a word with a slip", "kcifar train tiny.py --data dmeo"),
        Case("an empty folder", "kcifar train tiny.py --data empty"),
        Case("a file of another kind", "kcifar train tiny.py --data notes.txt"),
        Case("a file called .npz that is none", "kcifar train tiny.py --data text.npz"),
        Case("a named pipe", "kcifar train tiny.py --data pipe.npz"),
        Case("half a file", "kcifar train tiny.py --data cut.npz"),
        Case("arrays are missing", "kcifar train tiny.py --data lacking.npz"),
        Case("arrays that need a pickle", "kcifar train tiny.py --data objects.npz"),
        Case("images as fractions", "kcifar train tiny.py --data floats.npz"),
        Case("images with NaN", "kcifar train tiny.py --data holes.npz"),
        Case("channels in front", "kcifar train tiny.py --data planes.npz"),
        Case("images as rows", "kcifar train tiny.py --data flat.npz"),
        Case("no images", "kcifar train tiny.py --data blank.npz"),
        Case("test images of another size", "kcifar train tiny.py --data sizes.npz"),
        Case("fewer labels than images", "kcifar train tiny.py --data fewer.npz"),
        Case("a label out of range", "kcifar train tiny.py --data eleven.npz"),
        Case("labels with fractions", "kcifar train tiny.py --data halves.npz"),
        Case("a file of CIFAR-10 is missing", "kcifar train tiny.py --data cifar-10-batches-py"),
        Case("half an archive", "kcifar train tiny.py --data cifar-10-python.tar.gz"),
        Case("coarse labels of what has none", "kcifar train tiny.py --data images.npz:coarse"),
        Case("no test images", "kcifar train tiny.py --data testless"),
        Case("one class", "kcifar train tiny.py --data single"),
        Case("other classes in test", "kcifar train tiny.py --data differing"),
        Case("a class without images", "kcifar train tiny.py --data bare"),
        Case("an image that is none", "kcifar train tiny.py --data damaged"),
        Case("images of two sizes", "kcifar train tiny.py --data uneven"),
        Case("images in one folder", "kcifar train tiny.py --data pictures"),
        Case("the variable names nothing", "KCIFAR_DATA=nowhere kcifar train tiny.py --data auto"),
    ],
    "kcifar train: options": [
        Case("an unknown option", "kcifar train tiny.py --epochs 3"),
        Case("an option without its value", "kcifar train tiny.py --seed"),
        Case("an abbreviation of several", "kcifar train tiny.py --d cpu"),
        Case("a line every 0 batches", "kcifar train tiny.py --progress 0"),
        Case("an unknown list", "kcifar train --list modles"),
        Case("an empty path for the run", "kcifar train tiny.py --out ''"),
        Case("the run is there already", "kcifar train tiny.py --out runs/a"),
        Case("a folder that holds something else", "kcifar train tiny.py --out pictures"),
        Case("a file", "kcifar train tiny.py --out notes.txt"),
        Case("a folder below a file", "kcifar train tiny.py --out notes.txt/run"),
        Case("a trial of what cannot be trained", "kcifar train tiny.py epochs=0 --dry-run"),
        Case("a trial that would draw into a run", "kcifar train tiny.py --dry-run --out runs/a"),
        Case("no such GPU", "kcifar train tiny.py --device cuda:9"),
        Case("no such device", "kcifar train tiny.py --device abc"),
        Case("another backend", "KERAS_BACKEND=tensorflow kcifar train tiny.py"),
        Case("one of several processes that nobody started", "WORLD_SIZE=2 kcifar train tiny.py"),
        Case("all devices on torch", "kcifar train tiny.py --device all"),
        Case("the disk is full", "kcifar train tiny.py --out full/run", disk_full="full"),
    ],
    "kcifar train --resume": [
        Case("nothing to resume", "kcifar train --resume runs/none"),
        Case("an empty path", "kcifar train tiny.py --resume ''"),
        Case("a file", "kcifar train --resume model.keras"),
        Case("a folder of runs", "kcifar train --resume runs"),
        Case("a run that was killed as it was made", "kcifar train --resume runs/young"),
        Case("another learning rate", "kcifar train --resume runs/begun optimizer.learning_rate=1"),
        Case("another seed", "kcifar train --resume runs/begun --seed 3"),
        Case("another recipe", "kcifar train recipes/demo.py --resume runs/begun"),
        Case("fewer epochs", "kcifar train --resume runs/two-epochs epochs=1"),
        Case("several seeds", "kcifar train --resume runs/begun --seed 0..4"),
        Case("other images", "kcifar train --resume runs/begun --data others.npz"),
        Case("no images", "kcifar train --resume runs/begun --data nowhere.npz"),
        Case("an unknown field", "kcifar train --resume runs/begun epoch=3"),
        Case("a damaged recipe.json", "kcifar train --resume runs/cut-recipe"),
        Case("a recipe of a newer kcifar", "kcifar train --resume runs/newer"),
        Case("a damaged environment.json", "kcifar train --resume runs/cut-environment"),
        Case("damaged states", "kcifar train --resume runs/cut-state"),
        Case("another process trains it", "kcifar train --resume runs/written", written="runs/written"),
        Case("a new run without further epochs", "kcifar train --resume runs/a --out runs/c"),
        Case("a new run from one without an epoch", "kcifar train --resume runs/begun epochs=3 --out runs/c"),
        Case(
            "a new run by another optimizer",
            "kcifar train --resume runs/a epochs=3 optimizer='SGD(learning_rate=0.1)' --out runs/c",
        ),
        Case("a new run of another model", "kcifar train --resume runs/a epochs=3 model='elu_cnn()' --out runs/c"),
        Case("a new run where there is one", "kcifar train --resume runs/a epochs=3 --out runs/b"),
    ],
    "kcifar evaluate": [
        Case("one of several processes", "WORLD_SIZE=2 kcifar evaluate runs/a"),
        Case("no run", "kcifar evaluate"),
        Case("two runs", "kcifar evaluate runs/a runs/b"),
        Case("no such run", "kcifar evaluate runs/none"),
        Case("a folder of runs", "kcifar evaluate runs"),
        Case("another file", "kcifar evaluate notes.txt"),
        Case("a run before the end of its first epoch", "kcifar evaluate runs/begun"),
        Case("a run that lost its model", "kcifar evaluate runs/bestless"),
        Case("half a model", "kcifar evaluate runs/cut-best"),
        Case("a damaged recipe.json", "kcifar evaluate runs/cut-recipe"),
        Case("a damaged environment.json", "kcifar evaluate runs/cut-environment"),
        Case("a model without data", "kcifar evaluate model.keras"),
        Case("a model of something else", "kcifar evaluate rows.keras --data images.npz"),
        Case("a model of smaller images", "kcifar evaluate small.keras --data images.npz"),
        Case("images of other classes", "kcifar evaluate runs/a --data cats.npz"),
        Case("grey images", "kcifar evaluate runs/a --data grey.npz"),
        Case("no such data", "kcifar evaluate runs/a --data nowhere.npz"),
        Case("unknown views", "kcifar evaluate runs/a --tta flipp"),
        Case("a radius without --sharpness", "kcifar evaluate runs/a --rho 0.1"),
        Case("a radius below 0", "kcifar evaluate runs/a --sharpness --rho -1"),
        Case("no radius at all", "kcifar evaluate runs/a --sharpness --rho nan"),
        Case("no finite radius", "kcifar evaluate runs/a --sharpness --rho inf"),
        Case("a word for a radius", "kcifar evaluate runs/a --sharpness --rho big"),
        Case("sharpness of no images", "kcifar evaluate runs/a --sharpness --images 0"),
        Case("sharpness without a recipe", "kcifar evaluate model.keras --data images.npz --sharpness"),
        Case("an unknown format", "kcifar evaluate runs/a --export onxx"),
        Case("a module that is not there", "kcifar evaluate runs/a --import my_layers"),
        Case("a module that does not run", "kcifar evaluate runs/a --import fails.py"),
    ],
    "kcifar predict": [
        Case("no image", "kcifar predict runs/a"),
        Case("no such image", "kcifar predict runs/a two.png"),
        Case("an empty file", "kcifar predict runs/a blank.png"),
        Case("text", "kcifar predict runs/a words.png"),
        Case("half an image", "kcifar predict runs/a cut.png"),
        Case("a named pipe", "kcifar predict runs/a pipe.png"),
        Case("an empty folder", "kcifar predict runs/a empty"),
        Case("a folder without images", "kcifar predict runs/a texts"),
        Case("no such model", "kcifar predict runs/none one.png"),
        Case("an empty path", "kcifar predict runs/a ''"),
        Case("a named pipe for the model", "kcifar predict pipe.npz one.png"),
        Case("a folder without a model", "kcifar predict pictures one.png"),
        Case("the image before the model", "kcifar predict one.png runs/a/best.keras"),
        Case("half a model", "kcifar predict cut.keras one.png"),
        Case("a model of something else", "kcifar predict rows.keras one.png"),
        Case("a run before the end of its first epoch", "kcifar predict runs/begun one.png"),
        Case("a damaged environment.json", "kcifar predict runs/cut-environment one.png"),
        Case("the best 0 classes", "kcifar predict runs/a one.png --top 0"),
        Case("more classes than there are", "kcifar predict runs/a one.png --top 99"),
        Case("an unknown option", "kcifar predict runs/a one.png --tta flip"),
    ],
    "kcifar report": [
        Case("no run", "kcifar report"),
        Case("no such run", "kcifar report runs/none"),
        Case("a folder without runs", "kcifar report pictures"),
        Case("a run before the end of its first epoch", "kcifar report runs/begun"),
        Case("a damaged log.csv", "kcifar report runs/cut-log"),
        Case("a damaged metrics.json", "kcifar report runs/cut-metrics"),
        Case("a damaged recipe.json", "kcifar report runs/cut-recipe"),
        Case("the same run twice", "kcifar report runs/a runs/a"),
        Case("runs of other classes", "kcifar report runs/a runs/cats"),
        Case("runs of other images", "kcifar report runs/a runs/b --data cats.npz"),
        Case("a folder for the page", "kcifar report runs/a --out runs"),
        Case("a page in a folder that is not there", "kcifar report runs/a --out pages/a.html"),
        Case("a table of another kind", "kcifar report runs/a --csv a.xlsx"),
        Case("LaTeX in a file of another kind", "kcifar report runs/a --latex a.csv"),
        Case("a table in a folder that is not there", "kcifar report runs/a --csv tables/a.csv"),
        Case("a table below a file", "kcifar report runs/a --latex notes.txt/a.tex"),
        Case("figures of another kind", "kcifar report runs/a --figures eps"),
        Case("figures beside a file", "kcifar report model.keras --data images.npz --figures pdf"),
    ],
    "kcifar vote": [
        Case("no run", "kcifar vote"),
        Case("one run", "kcifar vote runs/a"),
        Case("the same run twice", "kcifar vote runs/a runs/a"),
        Case("no such run", "kcifar vote runs/a runs/none"),
        Case("a folder without runs", "kcifar vote pictures"),
        Case("runs of other classes", "kcifar vote runs/a runs/cats"),
        Case("a run without its model", "kcifar vote runs/a runs/bestless"),
        Case("half a model", "kcifar vote runs/a runs/cut-best"),
        Case("an unknown way to vote", "kcifar vote twice --mode sotf"),
        Case("an ensemble of 0", "kcifar vote twice --size 0 --out e.keras"),
        Case("an ensemble of more than there are", "kcifar vote twice --size 9 --out e.keras"),
        Case("an ensemble of one", "kcifar vote twice --size 1 --out e.keras"),
        Case("one member alone is best", "kcifar vote twice --out e.keras"),
        Case("a size of a file that is not written", "kcifar vote twice --size 2"),
        Case("both a size and all", "kcifar vote twice --size 2 --all --out e.keras"),
        Case("a file of another kind", "kcifar vote twice --out e.h5"),
        Case("a folder in the place of the file", "kcifar vote twice --all --out folder.keras"),
        Case("a file below a file", "kcifar vote twice --all --out notes.txt/e.keras"),
        Case("models of something else", "kcifar vote model.keras small.keras"),
    ],
}
"""By title of the table."""
