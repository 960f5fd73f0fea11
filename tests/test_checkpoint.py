"""What is saved comes back, whole or in part, and nothing else is taken for a checkpoint."""

import gc
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax.checkpoint import Checkpoints, DamagedCheckpoint, _checksum
from ssd_jax.training import TrainState

DESCRIPTION = {"model": {"width": 0.5}, "class_names": ["a", "b"]}


def state_of(seed, *, kernel=(3, 4), optimizer=None):
    random = np.random.default_rng(seed)
    params = {
        "loc0": {"conv": {"kernel": jnp.asarray(random.normal(size=kernel), jnp.float32), "bias": jnp.zeros(4)}}
    }
    optimizer = optimizer or tiny.sgd()
    stats = {"mean": jnp.asarray(random.normal(size=2), jnp.float32)}
    return TrainState(
        step=jnp.asarray(seed),
        params=params,
        batch_stats=stats,
        opt_state=optimizer.init(params),
        skipped=jnp.zeros((), jnp.int32),
    )


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), DESCRIPTION)
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def test_the_newest_are_kept_and_come_back_exactly(saved):
    assert saved.latest() == 3
    assert_equal(saved.restore(3, state_of(0)), state_of(3))
    assert_equal(saved.restore(2, state_of(0)), state_of(2))
    assert saved.description(3) == DESCRIPTION
    assert not (saved.directory / "1").exists()


def test_variables_come_without_the_optimiser(saved):
    variables = saved.restore_variables(3)
    assert_equal(variables, {"params": state_of(3).params, "batch_stats": state_of(3).batch_stats})


def test_a_step_already_there_is_left_as_it_is(saved):
    saved.save(3, state_of(7), DESCRIPTION)
    saved.wait()
    assert_equal(saved.restore(3, state_of(0)), state_of(3))


def test_a_save_cut_short_is_not_a_checkpoint(saved):
    (saved.directory / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    again = Checkpoints(saved.directory)
    assert again.latest() == 3
    again.close()


def test_another_shape_is_one_line_that_names_it(saved):
    with pytest.raises(ValueError) as error:
        saved.restore(3, state_of(0, kernel=(3, 5)))
    assert "another model or optimiser" in str(error.value)
    assert "loc0/conv/kernel has shape (3, 4) in it and shape (3, 5) in this run" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_optimiser_is_one_line(saved):
    with pytest.raises(ValueError, match=r"opt_state/\S+ has nothing in it and shape \(\) in this run"):
        saved.restore(3, state_of(0, optimizer=tiny.adamw()))


@pytest.mark.parametrize("method", ["save", "wait_until_finished", "close"])
def test_a_full_disk_is_one_line_and_leaves_what_is_there(saved, method, monkeypatch):
    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

    ours = {"save": lambda: saved.save(4, state_of(4), DESCRIPTION), "close": saved.close}.get(method, saved.wait)
    with monkeypatch.context() as patched:
        patched.setattr(saved._manager, method, fail)
        with pytest.raises(OSError, match=r"^cannot save a checkpoint in .*, those .*: No space left on device$"):
            ours()
    assert_equal(saved.restore(3, state_of(0)), state_of(3))


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1; got 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoints: there is no folder .*nowhere"):
        Checkpoints(tmp_path / "nowhere", create=False)


def test_the_best_stays_beside_the_newest_and_is_known_when_opened_again(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.9, 6: 0.1, 7: float("nan"), 8: None}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best() is None
        for step, score in scores.items():
            checkpoints.save(step, state_of(step), DESCRIPTION)
            if score is not None:
                checkpoints.rate(step, score)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (8, 5)  # 5 is newer than 2, which is as good
        assert (checkpoints.score(5), checkpoints.score(8)) == (0.9, None)
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == [5, 7, 8]
        assert_equal(checkpoints.restore(5, state_of(0)), state_of(5))
        assert checkpoints.description(5) == DESCRIPTION
        checkpoints.rate(8, 0.95)
        checkpoints.save(9, state_of(9), DESCRIPTION)
        checkpoints.wait()
        assert checkpoints.best() == 8
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == [8, 9]


def test_a_step_is_found_by_number_or_as_newest_or_best(saved):
    assert (saved.find(), saved.find(2)) == (3, 2)
    with pytest.raises(FileNotFoundError, match=r"no step 9 in .*, which has 2, 3$"):
        saved.find(9)
    with pytest.raises(FileNotFoundError, match=r"no evaluated checkpoint in .*, which has 2, 3$"):
        saved.find("best")


def test_averaged_variables_are_what_inference_gets(tmp_path):
    averaged = {"params": state_of(8).params, "batch_stats": state_of(8).batch_stats}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1).replace(ema=averaged), DESCRIPTION)
        checkpoints.wait()
        assert_equal(checkpoints.restore_variables(1), averaged)


# ---------------------------------------------------------------------------------------- damaged checkpoints


def cut(data):
    return data[: len(data) // 2]


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :] if data else data


DAMAGE = {"missing": None, "empty": lambda data: b"", "cut": cut, "flipped": flip, "zeros": lambda d: bytes(len(d))}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints with arrays of 256 kB, whose values are stored in files of their own."""
    directory = tmp_path_factory.mktemp("two")
    with Checkpoints(directory) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step, kernel=(256, 256)), DESCRIPTION)
    return directory


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_one_line_or_does_not_matter(two, tmp_path, damage, capfd, caplog):
    files = [path.relative_to(two) for path in sorted((two / "2").rglob("*")) if path.is_file()]
    want = state_of(2, kernel=(256, 256))
    refused = set()
    for number, file in enumerate(files):
        directory = shutil.copytree(two, tmp_path / str(number))
        if damage == "missing":
            (directory / file).unlink()
        else:
            (directory / file).write_bytes(DAMAGE[damage]((directory / file).read_bytes()))
        with Checkpoints(directory, create=False) as checkpoints:
            for read, wanted in (
                (lambda c: c.description(2), DESCRIPTION),
                (lambda c: c.restore_variables(2), {"params": want.params, "batch_stats": want.batch_stats}),
                (lambda c: c.restore(2, want), want),
            ):
                try:
                    assert_equal(read(checkpoints), wanted)
                except DamagedCheckpoint as error:
                    assert str(error).startswith(f"{directory / '2'}: ") and "\n" not in str(error)
                    refused.add(file.parts[1])
            assert_equal(checkpoints.restore(1, want), state_of(1, kernel=(256, 256)))
    # What does not matter are Orbax's marks of completeness and its copies of indices.
    assert refused == {"description", "checksums", "state"}
    gc.collect()  # asyncio reports what nobody asked for when it is collected
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_flipped_bit_of_an_array_is_found(two, tmp_path):
    directory = shutil.copytree(two, tmp_path / "checkpoints")
    largest = max((directory / "2" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(flip(largest.read_bytes()))  # one that compression does not notice
    message = r"/2: a checkpoint must be whole; got .*loc0"
    with Checkpoints(directory, create=False) as checkpoints, pytest.raises(DamagedCheckpoint, match=message):
        checkpoints.restore_variables(2)


@pytest.mark.parametrize("values", [np.zeros(3000), -np.zeros(3000), np.arange(3000) * np.nan, np.zeros(0)])
def test_every_bit_and_place_of_an_array_counts(values):
    data = np.asarray(values, np.float32)
    checksum = _checksum(data)
    assert _checksum(data.copy()) == checksum
    raw = data.view(np.uint8)
    for bit in {0, 7, 8 * 4095 + 7, 8 * 4096, 8 * raw.size - 1} if raw.size else ():
        raw[bit // 8] ^= 1 << bit % 8
        assert _checksum(data) != checksum, bit
        raw[bit // 8] ^= 1 << bit % 8
    assert _checksum(data) == checksum
    if raw.size:
        blocks = np.random.default_rng(0).integers(0, 256, (3, 4096), dtype=np.uint8)
        assert _checksum(blocks) != _checksum(blocks[::-1])


def test_bits_that_compare_equal_come_back(tmp_path):
    special = np.array([0.0, -0.0, np.nan, -np.nan, 1e-45, np.inf], np.float32)
    trees = [{"a": special, "b": -np.zeros(4, np.float32), "c": jnp.ones(3, jnp.bfloat16)}, {"a": np.int32(7)}]
    with Checkpoints(tmp_path) as checkpoints:
        for step, tree in enumerate(trees):
            checkpoints.save(step, tree, DESCRIPTION)
        checkpoints.wait()
        for step, tree in enumerate(trees):
            restored = checkpoints.restore(step, tree)
            for name, array in tree.items():
                assert np.asarray(restored[name]).tobytes() == np.asarray(array).tobytes()


def test_a_checkpoint_without_checksums_is_read(two, tmp_path):
    directory = shutil.copytree(two, tmp_path / "checkpoints")
    shutil.rmtree(directory / "2" / "checksums")
    want = state_of(2, kernel=(256, 256))
    with Checkpoints(directory, create=False) as checkpoints:
        assert checkpoints.latest() == 2
        assert_equal(checkpoints.restore(2, want), want)
        assert_equal(checkpoints.restore_variables(2)["params"], want.params)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_for_inference(tmp_path, value):
    state = state_of(1)
    state.params["loc0"]["conv"]["bias"] = jnp.array([0, value, 0, 0])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, DESCRIPTION)
        checkpoints.wait()
        message = r"/1: weights must be finite; got NaN or infinity in params/loc0/conv/bias$"
        with pytest.raises(ValueError, match=message):
            checkpoints.restore_variables(1)


def test_large_finite_weights_are_not_refused(tmp_path):
    state = state_of(1)
    state.params["loc0"]["conv"]["bias"] = jnp.full(4, 3e38)  # whose sum overflows
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, DESCRIPTION)
        checkpoints.wait()
        assert_equal(checkpoints.restore_variables(1)["params"], state.params)


@pytest.mark.parametrize("inside", [(), ("state",), ("description", "score.json")])
def test_a_folder_that_holds_no_whole_checkpoint_is_none(saved, inside):
    for name in inside:
        (saved.directory / "9" / name).mkdir(parents=True)
    (saved.directory / "9").mkdir(exist_ok=True)
    with Checkpoints(saved.directory, create=False) as again:
        assert (again.steps(), again.latest(), again.best(), again.find()) == ([2, 3], 3, None, 3)
        with pytest.raises(FileNotFoundError, match=r"no step 9 in .*, which has 2, 3$"):
            again.find(9)


def test_checkpoints_are_set_aside_and_their_steps_saved_again(saved):
    (saved.directory / "9").mkdir()
    for attempt, suffix in ((1, ""), (2, "-1")):
        with Checkpoints(saved.directory) as again:
            wanted = {
                step: saved.directory / f"{step}.damaged{suffix}" for step in (3, 9) if attempt == 1 or step == 3
            }
            assert again.set_aside(keep=[2]) == wanted
            assert again.steps() == [2]
            again.save(3, state_of(7), DESCRIPTION)
            again.wait()
            assert again.steps() == [2, 3]
            assert_equal(again.restore(3, state_of(0)), state_of(7))
    with Checkpoints(saved.directory) as again:
        assert again.steps() == [2, 3]


@pytest.mark.parametrize("text", ["", "{", "nothing", '"0.9"', "[0.9]", "\x00\x00"])
def test_a_score_that_is_no_number_counts_as_none_and_is_named(saved, text, caplog):
    saved.rate(2, 0.5)
    (saved.directory / "3" / "score.json").write_text(text)
    assert saved.score(3) is None
    assert f"{saved.directory / '3' / 'score.json'}: " in caplog.text
    assert saved.best() == 2


def test_thresholds_are_stored_with_a_checkpoint(saved):
    assert saved.thresholds(2) is None
    saved.rate(2, 0.5, thresholds={"cat": 0.25, "dog": float("nan")})
    assert saved.thresholds(2) == pytest.approx({"cat": 0.25, "dog": float("nan")}, nan_ok=True)
    assert saved.thresholds(3) is None and saved.score(2) == 0.5


@pytest.mark.parametrize("text", ["", "{", "[0.9]", '{"cat": "0.9"}'])
def test_thresholds_that_are_none_count_as_missing_and_are_named(saved, text, caplog):
    file = saved.directory / "3" / "thresholds.json"
    file.write_text(text)
    assert saved.thresholds(3) is None
    assert f"{file}: " in caplog.text and "the checkpoint counts as one without thresholds" in caplog.text


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"class_names": []}', '{"model": [], "class_names": []}', "{"])
def test_a_description_that_is_none_is_one_line(saved, text):
    (saved.directory / "3" / "description" / "metadata").write_text(text)
    message = r"/3: [^\n]+; got [^\n]+$"
    with Checkpoints(saved.directory, create=False) as again, pytest.raises(DamagedCheckpoint, match=message):
        again.description(3)


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket", "gs:/bucket/run", ""])
def test_an_address_is_no_folder(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a workdir must be a folder of the file system; got '"):
        Checkpoints(address)
    assert list(tmp_path.iterdir()) == []
