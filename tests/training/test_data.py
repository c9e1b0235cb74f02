"""The stream of training scenes: addressed by number alone, mixed by weight, and strict about what it reads."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pd_edge.boxes import points_in_boxes, points_per_box
from pd_edge.config import PointPillarsConfig, parse_config
from pd_edge.errors import ConfigError, DataError
from pd_edge.kitti import Calibration, Label, boxes_to_labels, write_labels, write_object_calibration
from pd_edge.training import data as training_data
from pd_edge.training.data import FolderScenes, SceneDataset, open_object_bank, training_dataset
from pd_edge.training.data_config import AugmentConfig, DataConfig, SourceConfig
from pd_edge.training.object_bank import ObjectBank, build_object_bank
from pd_edge.training.scene import OTHER, Scene

MODEL = PointPillarsConfig(pillar_channels=16, backbone_channels=(16, 32, 64), neck_channels=32)
CALIBRATION = Calibration(
    P2=np.array([[721.5377, 0, 609.5593, 0], [0, 721.5377, 172.854, 0], [0, 0, 1, 0]]),
    R0_rect=np.eye(3),
    Tr_velo_to_cam=np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27]]),
    image_size=(1242, 375),
)
PLAIN = AugmentConfig(sampled_objects=0, beam_dropout=0, intensity_jitter=0, object_shift=0, object_turn=0,
                      flip=0, rotation=0, scaling=0)  # fmt: skip
NAMES = ("Car", "Pedestrian", "Cyclist", "Van")
SIZES = ((3.9, 1.6, 1.5), (0.8, 0.6, 1.7), (1.8, 0.6, 1.7), (5.0, 1.9, 2.1))


def write_folder(root: Path, frames: int, mark: float, split: str = "train") -> Path:
    """A KITTI object folder; the intensity of frame i's first point is ``mark`` + i / 1000, to tell them apart."""
    for name in ("velodyne_reduced", "calib", "label_2"):
        (root / "training" / name).mkdir(parents=True)
    ids = [f"{index:06d}" for index in range(frames)]
    for index, frame_id in enumerate(ids):
        write_frame(root, frame_id, mark + index / 1000, seed=index)
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / f"{split}.txt").write_text("".join(f"{frame_id}\n" for frame_id in ids))
    return root


def write_frame(root: Path, frame_id: str, mark: float, seed: int) -> None:
    """A car with 20 points, a pedestrian with 6, a cyclist with 3, a van with 9, a car with none, and ground."""
    rng = np.random.default_rng(seed)
    boxes, names, points = [], [], [np.array([[25, 0, -2.0, mark]])]
    for place, (kind, count) in enumerate(((0, 20), (1, 6), (2, 3), (3, 9), (0, 0))):
        centre = np.array([12 + 9 * place, rng.uniform(-2, 2), -0.9])
        boxes.append([*centre, *SIZES[kind], 0.0])
        names.append(NAMES[kind])
        inside = centre + rng.uniform(-0.4, 0.4, (count, 3)) * SIZES[kind]
        points.append(np.column_stack([inside, rng.random(count)]))
    ground = np.column_stack([rng.uniform(12, 40, 200), rng.uniform(-2, 2, 200), np.full(200, -2.0), rng.random(200)])
    folder = root / "training"
    np.concatenate([*points, ground]).astype(np.float32).tofile(folder / "velodyne_reduced" / f"{frame_id}.bin")
    write_object_calibration(folder / "calib" / f"{frame_id}.txt", CALIBRATION)
    labels = boxes_to_labels(np.array(boxes), names, CALIBRATION)
    region = Label("DontCare", -1, -1, -10, (1, 2, 3, 4), -1, -1, -1, (-1000, -1000, -1000), -10)
    write_labels(folder / "label_2" / f"{frame_id}.txt", [*labels, region])


def mark_of(scene: Scene) -> float:
    return round(float(scene.points[0, 3]), 3)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    first, second = write_folder(tmp_path / "a", 7, 0.1), write_folder(tmp_path / "b", 3, 0.5)
    return DataConfig(sources=(SourceConfig(root=first, split="train", weight=3), SourceConfig(root=second, weight=1)))


def test_a_folder_gives_its_frames_in_order_as_they_are(data: DataConfig) -> None:
    frames = FolderScenes(data.sources[0], MODEL)
    scenes = [frames[index] for index in range(len(frames))]
    assert [mark_of(scene) for scene in scenes] == [round(0.1 + index / 1000, 3) for index in range(7)]
    scene = scenes[0]
    assert [array.dtype for array in scene] == [np.float32, np.float32, np.int64]
    np.testing.assert_array_equal(scene.labels, [0, 1, 2, OTHER, 0])
    np.testing.assert_array_equal(points_per_box(scene.points, scene.boxes), [20, 6, 3, 9, 0])
    np.testing.assert_allclose(scene.boxes[:, 3:6], np.array([*SIZES, SIZES[0]]), atol=1e-5)
    with pytest.raises(IndexError):
        frames[7]


def test_reduced_clouds_are_what_the_camera_sees(data: DataConfig) -> None:
    folder = data.sources[1].root / "training"
    seen = np.fromfile(folder / "velodyne_reduced" / "000000.bin", dtype=np.float32).reshape(-1, 4)
    around = np.concatenate([seen, np.array([[-10, 0, 0, 0.3], [5, 30, 0, 0.3]], dtype=np.float32)])
    (folder / "velodyne_reduced").rename(folder / "velodyne")
    around.tofile(folder / "velodyne" / "000000.bin")
    np.testing.assert_array_equal(FolderScenes(data.sources[1], MODEL)[0].points, seen)
    np.testing.assert_array_equal(FolderScenes(data.sources[1], MODEL, "full")[0].points, around)


def test_a_changed_cloud_is_told_once(data: DataConfig) -> None:
    for index in range(2):
        cloud = data.sources[1].root / "training" / "velodyne_reduced" / f"00000{index}.bin"
        points = np.fromfile(cloud, dtype=np.float32).reshape(-1, 4)
        (points * np.array([1, 1, 1, 255], dtype=np.float32)).tofile(cloud)
    frames = FolderScenes(data.sources[1], MODEL)
    with pytest.warns(UserWarning, match="frame 000000") as told:
        scenes = [frames[index] for index in range(3)]
    assert len(told) == 1
    assert max(scene.points[:, 3].max() for scene in scenes) <= 1


def test_sources_have_their_share_and_every_frame_its_turn(data: DataConfig) -> None:
    dataset = SceneDataset(data, MODEL, PLAIN, seed=1)
    drawn = [dataset.frame_of(number) for number in range(64 * 7)]
    for block in range(7):
        assert Counter(source for source, _ in drawn[64 * block : 64 * block + 64]) == {0: 48, 1: 16}
    assert len({tuple(source for source, _ in drawn[64 * block : 64 * block + 64]) for block in range(7)}) == 7
    times = Counter(drawn)
    assert {times[0, index] for index in range(7)} == {48}
    assert {times[1, index] for index in range(3)} <= {37, 38}


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), length=st.integers(1, 300))
@settings(deadline=None)
def test_interleaving_counts_every_source_without_gaps(weights: list[float], length: int) -> None:
    splits = training_data._splits(weights)
    counts = [0] * len(weights)
    for number in range(length):
        source, before = training_data._turn(number, splits)
        assert before == counts[source]
        counts[source] += 1
    np.testing.assert_allclose(counts, np.array(weights) / sum(weights) * length, atol=len(weights))


def test_a_sample_depends_on_seed_and_number_alone(data: DataConfig, tmp_path: Path) -> None:
    augment = AugmentConfig(sampled_objects=3)
    whole = training_dataset(data, MODEL, augment, 5, tmp_path / "cache")
    forward = [whole.scene(number) for number in range(12)]
    fresh = training_dataset(data, MODEL, augment, 5, tmp_path / "cache")
    for number in (11, 3, 7):
        for one, two in zip(fresh[number], forward[number], strict=True):
            np.testing.assert_array_equal(one, two)
    other = training_dataset(data, MODEL, augment, 6, tmp_path / "cache").scene(3)
    assert not np.array_equal(other.points, forward[3].points)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_stream(data: DataConfig, tmp_path: Path, workers: int) -> None:
    dataset = training_dataset(data, MODEL, AugmentConfig(sampled_objects=2), 3, tmp_path / "cache")
    loader = DataLoader(
        dataset, batch_size=None, sampler=range(70, 82), num_workers=workers, collate_fn=lambda item: item
    )
    for number, loaded in zip(range(70, 82), loader, strict=True):
        for one, two in zip(loaded, dataset.scene(number), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_frame_is_changed_anew_in_every_pass(data: DataConfig) -> None:
    dataset = SceneDataset(data, MODEL, PLAIN.model_copy(update={"rotation": 0.5}), seed=0)
    first = dataset.frame_of(0)
    again = next(number for number in range(1, 500) if dataset.frame_of(number) == first)
    assert not np.array_equal(dataset.scene(0).points, dataset.scene(again).points)


@pytest.mark.parametrize(("min_points", "expected"), [(0, [0, 0, 1, 2]), (1, [0, 1, 2]), (4, [0, 1]), (7, [0])])
def test_boxes_with_few_points_and_other_classes_are_no_targets(
    data: DataConfig, min_points: int, expected: list[int]
) -> None:
    dataset = SceneDataset(data.model_copy(update={"min_points": min_points}), MODEL, PLAIN, seed=0)
    assert sorted(dataset.scene(0).labels.tolist()) == expected


def test_without_augmentation_the_stream_shows_the_frames_as_they_are(data: DataConfig) -> None:
    dataset = SceneDataset(data, MODEL, PLAIN, seed=2)
    assert len(dataset) == 10
    for number in range(5):
        source, index = dataset.frame_of(number)
        recorded = dataset.sources[source][index]
        np.testing.assert_array_equal(dataset.scene(number).points, recorded.points)


def test_sampling_without_a_bank_is_an_error(data: DataConfig) -> None:
    with pytest.raises(ConfigError, match="sampled_objects is 15"):
        SceneDataset(data, MODEL, AugmentConfig(), seed=0)


@pytest.mark.parametrize("sources", [[{"root": "x", "weight": 0}], [{"root": "x", "weights": 1}], [{"weight": 1}]])
def test_wrong_sources_are_refused(sources: list[dict[str, object]]) -> None:
    with pytest.raises(ConfigError, match="sources"):
        parse_config({"sources": sources}, DataConfig, "train.yaml")


def test_a_missing_folder_or_split_names_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        FolderScenes(SourceConfig(root=tmp_path / "nowhere"), MODEL)
    root = write_folder(tmp_path / "a", 1, 0.1)
    with pytest.raises(DataError, match="evening"):
        FolderScenes(SourceConfig(root=root, split="evening"), MODEL)
    (root / "ImageSets" / "none.txt").write_text("")
    with pytest.raises(DataError, match=r"none"):
        FolderScenes(SourceConfig(root=root, split="none"), MODEL)


def test_a_frame_without_labels_or_with_a_flat_box_names_itself(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", 2, 0.1)
    labels = root / "training" / "label_2"
    line = "Car 0.00 0 0.00 1.00 2.00 3.00 4.00 1.50 0.00 3.90 0.00 1.70 10.00 0.00\n"
    (labels / "000000.txt").write_text(line)
    (labels / "000001.txt").unlink()
    frames = FolderScenes(SourceConfig(root=root), MODEL)
    for index in range(2):
        with pytest.raises(DataError, match=f"00000{index}"):
            frames[index]


def test_the_bank_holds_the_objects_with_enough_points(data: DataConfig, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    bank = open_object_bank(
        data, MODEL, AugmentConfig(), tmp_path / "cache", lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 10) for done in range(1, 11)]
    np.testing.assert_array_equal(bank.group_sizes, [[7, 3], [7, 3], [0, 0]])
    assert bank.class_count == 3
    for index, (box, label) in enumerate(zip(bank.boxes, bank.labels, strict=True)):
        points = bank.points_of(index)
        assert len(points) == (20, 6)[label]
        assert (points_in_boxes(points, box[None]) == 0).all()


def test_the_bank_is_built_once_per_data_and_settings(data: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def files_after(data: DataConfig, augment: AugmentConfig) -> int:
        open_object_bank(data, MODEL, augment, cache)
        return len(list(cache.iterdir()))

    assert files_after(data, AugmentConfig()) == 1
    stamp = next(cache.iterdir()).stat().st_mtime_ns
    assert files_after(data, AugmentConfig(flip=0)) == 1
    assert next(cache.iterdir()).stat().st_mtime_ns == stamp
    assert files_after(data, AugmentConfig(bank_min_points=2)) == 2
    assert files_after(DataConfig(sources=data.sources[:1]), AugmentConfig()) == 3
    write_labels(data.sources[0].root / "training" / "label_2" / "000000.txt", [])
    assert files_after(data, AugmentConfig()) == 4


def test_a_damaged_bank_says_what_to_do(data: DataConfig, tmp_path: Path) -> None:
    open_object_bank(data, MODEL, AugmentConfig(), tmp_path / "cache")
    path = next((tmp_path / "cache").iterdir())
    with pytest.raises(DataError, match="3 are configured"):
        ObjectBank.load(path, [1, 1, 1])
    whole = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04 no archive", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="delete it"):
            ObjectBank.load(path, [3, 1])


def test_a_bank_survives_its_file(data: DataConfig, tmp_path: Path) -> None:
    scenes = [FolderScenes(source, MODEL) for source in data.sources]
    bank = build_object_bank(scenes, [3, 1], 3, min_points=1, max_objects=4)
    np.testing.assert_array_equal(bank.group_sizes, [[4, 3], [4, 3], [4, 3]])
    bank.save(tmp_path / "bank.npz")
    again = ObjectBank.load(tmp_path / "bank.npz", [3, 1])
    for name in ("points", "point_starts", "boxes", "labels", "group_sizes", "weights"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))
    assert list(tmp_path.glob("bank*")) == [tmp_path / "bank.npz"]


def test_draws_follow_the_weights_and_stay_in_their_class(data: DataConfig) -> None:
    scenes = [FolderScenes(source, MODEL) for source in data.sources]
    bank = build_object_bank(scenes, [3, 1], 3, min_points=5, max_objects=100)
    drawn: npt.NDArray[np.int64] = bank.draw(1, 4000, np.random.default_rng(0))
    assert (bank.labels[drawn] == 1).all()
    assert np.unique(drawn).tolist() == list(range(10, 20))
    assert np.mean(drawn < 17) == pytest.approx(0.75, abs=0.03)
    assert len(bank.draw(2, 5, np.random.default_rng(0))) == 0
    assert len(bank.draw(0, 0, np.random.default_rng(0))) == 0


def test_real_frames_make_sound_scenes(kitti_root: Path, tmp_path: Path) -> None:
    data = DataConfig(sources=(SourceConfig(root=kitti_root / "object", split="train"),))
    dataset = training_dataset(data, MODEL, AugmentConfig(translation=0.1), 0, tmp_path)
    assert len(dataset) == 104
    grid = MODEL.grid
    for number in range(30):
        scene = dataset.scene(number)
        assert np.isfinite(scene.points).all()
        assert scene.points[:, 3].min() >= 0
        assert scene.points[:, 3].max() <= 1
        assert len(scene.boxes) > 0
        assert set(scene.labels.tolist()) <= {0, 1, 2}
        assert points_per_box(scene.points, scene.boxes).min() >= 1
        assert (scene.boxes[:, 0] >= grid.x_min).all()
