import dataclasses
import json
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from brats_tfrecord import workflow
from brats_tfrecord.errors import InputError
from brats_tfrecord.pieces import Piece
from brats_tfrecord.serving import card as cards
from brats_tfrecord.serving.card import ModelCard
from brats_tfrecord.serving.export import export_saved_model
from brats_tfrecord.training import initial_weights
from brats_tfrecord.training.initial_weights import InitialWeights
from brats_tfrecord.training.network.network_options import NetworkOptions
from brats_tfrecord.training.network.networks import build_network
from brats_tfrecord.training.train_options import TrainOptions

ARCHITECTURE = {"network": "unet_res", "filters": "6,8", "first_stride": "1"}
CLASSES, REGIONS = ("background", "NCR", "ED", "ET"), ("WT", "TC", "ET")


def network(inputs, outputs, first_stride=1, seed=0):
    options = NetworkOptions(
        "unet_res", inputs, outputs, "sigmoid", (6, 8), (0.0,) * 3, first_stride
    )
    return build_network(options, seed=seed).model


def given(model, inputs, outputs, **architecture):
    return InitialWeights(
        "there", {**ARCHITECTURE, **architecture}, inputs, outputs, model.get_weights(), {}
    )


def test_equal_channels_take_all_weights():
    source, model = network(2, 3, seed=1), network(2, 3, seed=2)
    initial = given(source, ("flair", "t2"), REGIONS)
    text = initial_weights.assign(initial, model, ARCHITECTURE, ("flair", "t2"), REGIONS)
    for theirs, ours in zip(source.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(theirs, ours)
    assert text.startswith("starting from there: ") and text.endswith("the outputs")


def test_input_channels_are_matched_by_name_and_new_ones_stay_random():
    source, model, random = network(3, 3, seed=1), network(2, 3, seed=2), network(2, 3, seed=2)
    initial = given(source, ("t1", "t1ce", "flair"), REGIONS)
    text = initial_weights.assign(initial, model, ARCHITECTURE, ("flair", "brain"), REGIONS)
    for name in ("encoder1_block1_conv1", "encoder1_block1_skip"):
        [theirs], [ours], [before] = (
            m.get_layer(name).get_weights() for m in (source, model, random)
        )
        np.testing.assert_array_equal(ours[..., 0, :], theirs[..., 2, :])
        np.testing.assert_array_equal(ours[..., 1, :], before[..., 1, :])
    assert "input channels flair (brain random)" in text


@pytest.mark.parametrize("first_stride", [1, 2])
def test_outputs_of_another_order_are_matched_by_name(first_stride):
    source, model = network(1, 3, first_stride, 1), network(1, 3, first_stride, 2)
    architecture = {**ARCHITECTURE, "first_stride": str(first_stride)}
    initial = given(source, ("flair",), ("ET", "WT", "TC"), first_stride=str(first_stride))
    initial_weights.assign(initial, model, architecture, ("flair",), REGIONS)
    image = np.random.default_rng(0).normal(size=(1, 8, 4, 12, 1)).astype(np.float32)
    np.testing.assert_allclose(
        model(image), tf.gather(source(image), (1, 2, 0), axis=-1), atol=1e-6
    )


def test_outputs_that_mean_something_else_stay_random():
    source, model, random = network(1, 4, seed=1), network(1, 3, seed=2), network(1, 3, seed=2)
    initial = given(source, ("flair",), CLASSES)
    text = initial_weights.assign(initial, model, ARCHITECTURE, ("flair",), REGIONS)
    for name, same in (("logits", random), ("decoder1_conv1", source)):
        for ours, theirs in zip(
            model.get_layer(name).get_weights(), same.get_layer(name).get_weights()
        ):
            np.testing.assert_array_equal(ours, theirs)
    assert "not the outputs, which are background,NCR,ED,ET there and WT,TC,ET here" in text


def test_another_network_is_refused_with_the_flags_to_give():
    initial = given(network(1, 3), ("flair",), REGIONS, filters="16,32")
    with pytest.raises(InputError, match="--filters is 6,8, there it is 16,32; .*--filters=16,32"):
        initial_weights.assign(initial, network(1, 3), ARCHITECTURE, ("flair",), REGIONS)


@pytest.mark.parametrize("change", [lambda w: w[:-1], lambda w: [*w, w[0]], lambda w: w[::-1]])
def test_weights_that_do_not_fit_are_refused(change):
    initial = given(network(1, 3), ("flair",), REGIONS)
    initial = dataclasses.replace(initial, weights=change(initial.weights))
    with pytest.raises(InputError, match="do not fit"):
        initial_weights.assign(initial, network(1, 3), ARCHITECTURE, ("flair",), REGIONS)


@pytest.mark.slow
def test_a_run_starts_from_an_exported_model(dataset, tmp_path, capsys):
    flags = {
        "filters": "2,4",
        "dropout": "0",
        "patch_size": 8,
        "precision": "float32",
        "post_processing": "none",
    }
    first = TrainOptions(str(dataset.root), str(tmp_path / "first"), epochs=1, **flags)
    trained = workflow.train_and_export(first)
    options = TrainOptions(
        str(dataset.root),
        str(tmp_path / "second"),
        epochs=1,
        validation_fold="1",
        learning_rate=1e-30,
        init_from=str(tmp_path / "first"),
        **flags,
    )
    capsys.readouterr()
    tuned = workflow.train_and_export(options)
    for before, after in zip(trained.result.weights, tuned.result.weights):
        np.testing.assert_array_equal(before, after)
    said = capsys.readouterr().out
    assert "starting from" in said and "input channels flair,t1ce,t2" in said
    assert "has seen 2 of the 2 validation and test cases" in said
    assert "starting from" in (tmp_path / "second/run_card.md").read_text()
    # Its card names the cases of both runs: folds 1 and 2 trained the other one, 0 and 2 this one.
    card = cards.read(tmp_path / "second/saved_model")
    assert card.train_case_ids == ("case0", "case2", "case3", "case5", "case1", "case4")
    assert card.select_case_ids == () and len(card.identities) == 6
    # A run that has begun does not need the model any more.
    again = dataclasses.replace(options, init_from=str(tmp_path / "gone"), epochs=2)
    with pytest.raises(InputError, match="--init_from was"):
        workflow.train_and_export(again)
    (tmp_path / "first").rename(tmp_path / "moved")
    workflow.train_and_export(dataclasses.replace(options, epochs=2))
    assert "starting from" in (tmp_path / "second/run_card.md").read_text()


def test_a_folder_without_a_model_is_refused(dataset, tmp_path):
    options = TrainOptions(str(dataset.root), str(tmp_path / "run"), init_from=str(tmp_path))
    with pytest.raises(InputError, match="--init_from=.*holds no SavedModel"):
        workflow.train_and_export(options)


@pytest.fixture(scope="module")
def exported(dataset, tmp_path_factory):
    """SavedModel of a network with random weights, whose card says that cases 1 to 5 trained it."""
    options = NetworkOptions("unet", 1, 3, "sigmoid", (2, 4), (0.0,) * 3)
    card = ModelCard(
        dataset.recipe,
        ("flair",),
        "brats2020",
        "regions",
        Piece((8, 8, 8), 2, 10**6),
        "f" * 64,
        tuple(f"case{n}" for n in range(1, 6)),
        (),
        {"options": {"network": "unet", "filters": "2,4"}},
    )
    path = tmp_path_factory.mktemp("exported") / "saved_model"
    export_saved_model(build_network(options, seed=1).model, card, path)
    return path


def changed(exported, folder, change):
    """A copy of the model whose card's JSON is changed."""
    shutil.copytree(exported, folder)
    path = folder / "assets" / "model.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return folder


@pytest.mark.slow
def test_cards_of_versions_without_a_first_stride_are_read(exported, dataset, tmp_path, capsys):
    options = TrainOptions(str(dataset.root), str(tmp_path / "run"), init_from=str(exported))
    initial = workflow.initial_weights(options)
    assert initial.architecture == {"network": "unet", "filters": "2,4", "first_stride": "1"}
    assert initial.inputs == ("flair",) and initial.outputs == REGIONS
    expected = tf.saved_model.load(str(exported)).weights[0]
    for ours, theirs in zip(initial.weights, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy(), strict=True)
    # case0 and case3 validate; the model has not seen the first.
    assert "has seen 1 of the 2 validation and test cases (case3)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda card: card["training"].pop("options"), "names no network of this version"),
        (
            lambda card: card["training"].update(options={"network": "swin", "filters": "auto"}),
            r"names no network.*--network=unet\|unet_nn\|unet_res",
        ),
        (lambda card: card.update(members=2), "average of 2 networks; give the model of one fold"),
    ],
)
def test_models_that_are_no_single_network_are_refused(
    exported, dataset, tmp_path, capsys, change, message
):
    folder = changed(exported, tmp_path / "model", change)
    options = TrainOptions(str(dataset.root), str(tmp_path / "run"), init_from=str(folder))
    with pytest.raises(InputError, match=f"^--init_from={folder}: .*{message}"):
        workflow.initial_weights(options)
    assert not capsys.readouterr().out, "a refused model needs no warning"


@pytest.mark.slow
def test_truncated_weights_are_refused(exported, dataset, tmp_path):
    folder = changed(exported, tmp_path / "model", lambda card: None)
    [data] = (folder / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[:8])
    options = TrainOptions(str(dataset.root), str(tmp_path / "run"), init_from=str(folder))
    with pytest.raises(InputError, match=f"^--init_from={folder}: .*missing or damaged"):
        workflow.initial_weights(options)


@pytest.mark.slow
def test_devices_can_still_be_chosen_after_the_weights_are_read(exported, dataset, tmp_path):
    """In a process of its own: this one has started TensorFlow long ago."""
    script = (
        "import sys\n"
        "from brats_tfrecord import workflow\n"
        "from brats_tfrecord.training.distribution import devices\n"
        "from brats_tfrecord.training.train_options import TrainOptions\n"
        "data, model, init = sys.argv[1:]\n"
        "assert workflow.initial_weights(TrainOptions(data, model, init_from=init))\n"
        "strategy = devices.make_strategy('none', virtual_devices=2)\n"
        "print('replicas:', strategy.num_replicas_in_sync)\n"
    )
    command = [sys.executable, "-c", script, dataset.root, tmp_path / "run", exported]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert "replicas: 2" in done.stdout, done.stderr


def test_the_average_of_runs_names_the_cases_of_the_model_they_started_from(dataset, tmp_path):
    """These cases are not in the dataset of the runs."""
    results = []
    for fold in (0, 1):
        options = TrainOptions(str(dataset.root), str(tmp_path / f"fold{fold}"))
        (tmp_path / f"fold{fold}").mkdir()
        known = {"train": ["elsewhere"], "select": ["case0"], "identities": {}}
        (tmp_path / f"fold{fold}/initial_model.json").write_text(json.dumps(known))
        results.append(
            types.SimpleNamespace(
                manifest=dataset,
                options=options,
                history=[],
                best_epoch=1,
                modalities=options.modality_names,
                targets="regions",
                piece=Piece((8, 8, 8), 2),
                train_case_ids=dataset.case_ids([1 - fold]),
                select_case_ids=dataset.case_ids([fold]),
                precision="float32",
            )
        )
    card = workflow.ensemble_card(results)
    assert card.train_case_ids == ("case0", "case1", "case3", "case4", "elsewhere")
    assert card.select_case_ids == ()
    assert workflow.model_card(results[1]).select_case_ids == ("case1", "case4")


@pytest.mark.parametrize("text", ["{", "[]", '{"train": []}'])
def test_a_damaged_record_of_the_initial_model_is_named(tmp_path, text):
    (tmp_path / "initial_model.json").write_text(text)
    with pytest.raises(InputError, match="initial_model.json: is damaged"):
        initial_weights.recorded_cases(tmp_path)
