"""All command lines, from phantoms to the report in a browser.

The fixtures of `conftest.py` run make_phantom.py, convert_to_tfrecord.py and train.py on two
replicas; these tests check the results. `tests/app` opens the viewer on the same model.
"""

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import spec
from brats_tfrecord.cohort import layouts, nifti
from brats_tfrecord.training import loop
from brats_tfrecord.training.network import networks
from brats_tfrecord.training.train_options import TrainOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(run_tool, tiny_model, small_cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    run_tool(
        "evaluate.py",
        f"--model={tiny_model}",
        f"--input_dir={small_cohort}",
        f"--output_dir={root}",
        "--pictures=2",
    )
    return root / "report.html"


def test_training_writes_the_files_that_its_help_lists(model_dir):
    for name in (
        "saved_model/saved_model.pb",
        "saved_model/assets/model.json",
        "history.csv",
        "history.png",
        "overlays.png",
        "run_card.md",
        "checkpoints",
        "tensorboard",
    ):
        assert (model_dir / name).exists(), name
    rows = np.genfromtxt(model_dir / "history.csv", delimiter=",", names=True)
    assert len(rows) == 8 and rows["loss"][-1] < rows["loss"][0]


def test_the_saved_model_is_the_trained_network_in_float32(
    model_dir, tiny_model, small_dataset, small_cohort
):
    """Compares the model trained on two replicas, loaded with TensorFlow alone, to 1e-5."""
    result = loop.train(
        TrainOptions(
            str(small_dataset),
            str(model_dir),
            filters="8,16",
            dropout="0",
            patch_size=32,
            batch_size=2,
            patches_per_case=8,
            foreground_fraction=0.67,
            epochs=8,
            learning_rate=0.004,
            loss="dice_cross_entropy",
            validate_every=8,
            gpus="none",
        )
    )
    network = networks.build_network(result.network).model
    network.set_weights(result.weights)
    raw = nifti.read_case(layouts.find_cases(small_cohort)[0], result.modalities)
    recipe = result.manifest.recipe
    volumes = recipe.correct(raw.volumes)
    origin = recipe.window(volumes, raw.modalities)
    image = recipe.network_input(volumes, origin).astype(np.float32)[None]
    signature = tf.saved_model.load(str(tiny_model)).signatures["serving_default"]
    probabilities = signature(image=tf.constant(image))["probabilities"].numpy()
    assert np.abs(probabilities - network(image).numpy()).max() <= 1e-5
    assert probabilities.std() > 1e-3, "constant outputs would be equal by chance"


@pytest.mark.browser
def test_the_report_opens_in_a_browser(report, chromium):
    errors, requests = [], []
    page = chromium.new_page()
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    text = page.inner_text("body")
    pictures = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
    page.close()
    assert not errors
    assert all(url.startswith(("file:", "data:")) for url in requests)
    for region in spec.REGIONS:
        assert region in text
    assert "BraTS20_Training_001" in text and "Validation_001" in text
    assert len(pictures) >= 2 and min(pictures) > 100
