import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svt_zoo.data.list_files import LinkResolver
from svt_zoo.data.list_formats import ListError
from svt_zoo.data.list_official import read_labels
from svt_zoo.data.lists import Row, VideoList, check_overlap, read_list


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        write(root / name, "x")


def names_and_labels(videos: VideoList) -> list[tuple[str, int | None]]:
    return [(row.path.removeprefix(videos.root + "/"), row.label) for row in videos.rows]


# Official lists


@pytest.mark.parametrize(("name", "train", "test"), [("01", 9537, 3783), ("02", 9586, 3734), ("03", 9624, 3696)])
def test_ucf101_splits_have_their_official_sizes_and_share_no_group(
    shared: Path, name: str, train: int, test: int
) -> None:
    folder = shared / "annotations/ucf101"
    ours = [read_list(folder / f"{kind}list{name}.txt") for kind in ("train", "test")]
    assert [len(videos) for videos in ours] == [train, test]
    assert ours[0].classes == ours[1].classes == read_labels(folder / "label_map_mmaction2.txt")
    assert check_overlap(*ours) == []


def test_ucf101_labels_count_from_zero(shared: Path) -> None:
    videos = read_list(shared / "annotations/ucf101/trainlist01.txt", root="/ucf")
    assert videos.rows[0] == Row("/ucf/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", 0, "v_ApplyEyeMakeup_g08")
    assert {row.label for row in videos.rows} == set(range(101))


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_folds_have_their_official_sizes_and_share_no_group(shared: Path, fold: int) -> None:
    folder = shared / "annotations/hmdb51/reconstructed_testTrainMulti_7030_splits"
    train, test = (read_list(folder, where=f"fold={fold},split={split}") for split in ("train", "test"))
    assert (len(train), len(test), train.num_classes) == (3570, 1530, 51)
    assert train.classes == read_labels(shared / "annotations/hmdb51/label_map_mmaction2.txt")
    assert check_overlap(train, test) == []


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_other_forms_of_the_hmdb51_lists_hold_the_same_videos(shared: Path, fold: int) -> None:
    folder = shared / "annotations/hmdb51"
    official = read_list(folder / "reconstructed_testTrainMulti_7030_splits", where=f"fold={fold},split=test")
    frames = read_list(folder / f"hmdb51_val_split_{fold}_rawframes.txt")
    coviar = read_list(folder / f"coviar_hmdb51_split{fold}_test.txt")

    def content(videos: VideoList) -> set[tuple[str, int | None]]:
        return {
            (Path(row.path).stem if row.path.endswith(".avi") else Path(row.path).name, row.label)
            for row in videos.rows
        }

    assert content(frames) == content(official)
    assert {name for name, _ in content(coviar)} == {name for name, _ in content(official)}
    assert set(coviar.classes) == set(official.classes)
    assert all(row.num_frames for row in frames.rows)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_training_lists_of_other_forms_are_read_whole(shared: Path, fold: int) -> None:
    folder = shared / "annotations/hmdb51"
    assert len(read_list(folder / f"hmdb51_train_split_{fold}_rawframes.txt")) == 3570
    assert len(read_list(folder / f"coviar_hmdb51_split{fold}_train.txt")) == 3570


def test_backslashes_in_a_list_become_slashes(shared: Path) -> None:
    videos = read_list(shared / "annotations/hmdb51/hmdb51_val_split_1_rawframes.txt", root="/x")
    assert videos.rows[0].path.startswith("/x/data/hmdb51/rawframes/brush_hair/Aussie")


def test_an_hmdb51_folder_asks_for_fold_and_split(shared: Path) -> None:
    with pytest.raises(ListError, match=r"'fold': \['1', '2', '3'\], 'split': \['test', 'train'\]"):
        read_list(shared / "annotations/hmdb51/reconstructed_testTrainMulti_7030_splits")


def test_one_class_of_an_hmdb51_split_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "wave_test_split1.txt", "a.avi 1\n")
    with pytest.raises(ListError, match="give the folder of all 51"):
        read_list(path)


def test_kinetics_validation_has_18375_videos_of_400_classes_in_alphabetical_order(shared: Path) -> None:
    videos = read_list(shared / "annotations/kinetics400/validate.csv", where="split=validate")
    assert len(videos) == 18375
    assert videos.classes == read_labels(shared / "annotations/kinetics400/label_map_k400.txt")
    assert videos.rows[0].path.endswith("/--07WQ2iBlw_000001_000011.mp4")
    assert videos.classes[videos.rows[0].label or 0] == "javelin throw"


@pytest.mark.parametrize("name", ["kinetics_classnames.json", "paddle_Kinetics-400_label_list.txt"])
def test_labels_are_known_by_names_that_differ_in_quotes_or_underscores(shared: Path, name: str) -> None:
    folder = shared / "annotations/kinetics400"
    plain = read_list(folder / "validate.csv", labels=folder / "label_map_k400.txt")
    other = read_list(folder / "validate.csv", labels=folder / name)
    assert [row.label for row in other.rows] == [row.label for row in plain.rows]


def test_kinetics_files_are_found_in_any_folder_and_with_any_suffix(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    path = write(tmp_path / "val.csv", header + "air drumming,-a_b c,1,11,val\nwalking,zz,136,146,val\n")
    touch(tmp_path / "videos", "air drumming/-a_b c_000001_000011.mkv")
    videos = read_list(path, root=tmp_path / "videos")
    assert names_and_labels(videos) == [("air drumming/-a_b c_000001_000011.mkv", 0), ("zz_000136_000146.mp4", 1)]


def test_kinetics_without_labels_is_unlabelled(tmp_path: Path) -> None:
    path = write(tmp_path / "test.csv", "youtube_id,time_start,time_end,split\nabc,1,11,test\n")
    videos = read_list(path)
    assert (videos.rows[0].label, videos.classes) == (None, ())


def test_kinetics_times_that_are_no_seconds_name_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "val.csv", "label,youtube_id,time_start,time_end,split\na,b,1,11,v\na,b,x,11,v\n")
    with pytest.raises(ListError, match=r"val\.csv, line 3: time_start and time_end must be integers"):
        read_list(path)
    with pytest.raises(ListError, match="columns youtube_id, time_start, time_end are needed, the header has file, a"):
        read_list(write(path, "file,a\nb.mp4,1\n"), format="kinetics")


def test_ssv2_json_takes_labels_from_the_file_beside(shared: Path) -> None:
    videos = read_list(shared / "annotations/ssv2/something-something-v2-validation-first400.json", root="/v")
    labels = json.loads((shared / "annotations/ssv2/something-something-v2-labels.json").read_text())
    assert (len(videos), videos.num_classes) == (400, 174)
    assert videos.rows[0].path == "/v/74225.webm"
    assert videos.rows[0].label == int(labels["Spinning something that quickly stops spinning"])


def test_ssv2_json_without_the_file_of_labels_says_which_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", '[{"id": "1", "template": "Closing [something]"}]')
    with pytest.raises(ListError, match=r"something-something-v2-labels\.json, is missing"):
        read_list(path)


def test_ssv2_frame_lists_become_folders_of_frames_with_labels_from_the_jsons(tmp_path: Path) -> None:
    write(tmp_path / "something-something-v2-labels.json", '{"Closing something": "1", "Opening something": "0"}')
    videos = [{"id": "12", "template": "Closing [something]"}, {"id": "7", "template": "Opening [something]"}]
    write(tmp_path / "something-something-v2-train.json", json.dumps(videos))
    lines = [f'{v} 0 {i} {v}/{v}_{i + 1:06d}.jpg ""' for v in (12, 7) for i in range(v)]
    frames = [line.replace(" 0 ", f" {line.split()[0]} ", 1) for line in lines]
    path = write(tmp_path / "train.csv", "original_vido_id video_id frame_id path labels\n" + "\n".join(frames) + "\n")
    read = read_list(path, root="/frames")
    assert read.rows == (Row("/frames/12", 1, num_frames=12), Row("/frames/7", 0, num_frames=7))
    assert read.classes == ("Opening something", "Closing something")


def test_the_cpc_repositorys_csv_names_folders_and_their_class(tmp_path: Path) -> None:
    text = "/data/ucf/frame/Archery/v_Archery_g01_c01/,152\r\n/data/ucf/frame/YoYo/v_YoYo_g02_c03/,29\r\n"
    videos = read_list(write(tmp_path / "train_split01.csv", text), labels=["archery", "yoyo"])
    assert videos.rows == (
        Row("/data/ucf/frame/Archery/v_Archery_g01_c01", 0, "v_Archery_g01", num_frames=152),
        Row("/data/ucf/frame/YoYo/v_YoYo_g02_c03", 1, "v_YoYo_g02", num_frames=29),
    )


# Folders


def test_a_folder_of_class_folders_gives_classes_in_alphabetical_order(tmp_path: Path) -> None:
    touch(tmp_path, "walk/b c.mp4", "jump/a.AVI", "jump/notes.txt", "jump/.hidden.mp4", "list.csv")
    videos = read_list(tmp_path)
    assert videos.classes == ("jump", "walk")
    assert names_and_labels(videos) == [("jump/a.AVI", 0), ("walk/b c.mp4", 1)]


def test_a_folder_of_videos_at_any_depth_is_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "x/b.mp4", "x/y/c.webm")
    videos = read_list(tmp_path)
    assert names_and_labels(videos) == [("a.mp4", None), ("x/b.mp4", None), ("x/y/c.webm", None)]


def test_folders_of_frames_count_as_videos(tmp_path: Path) -> None:
    touch(tmp_path, "jump/v1/img_1.jpg", "jump/v1/img_2.jpg", "walk/v2/img_1.jpg", "walk/v3.mp4", "walk/cover.jpg")
    assert names_and_labels(read_list(tmp_path)) == [("jump/v1", 0), ("walk/v2", 1), ("walk/v3.mp4", 1)]


def test_a_link_in_a_circle_does_not_repeat_videos(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.mp4")
    (tmp_path / "x/loop").symlink_to(tmp_path)
    assert len(read_list(tmp_path)) == 1


def test_a_folder_without_videos_says_so(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="no videos"):
        read_list(tmp_path)


def test_a_missing_list_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such list, folder or video"):
        read_list(tmp_path / "nowhere.csv")


def test_one_video_is_a_list_of_one(tmp_path: Path) -> None:
    video = write(tmp_path / "v.WebM", "\x1aE\0")
    assert read_list(video, root="elsewhere") == VideoList((Row(str(video)),), root=str(tmp_path), format="video")
    assert [row.path for row in read_list("https://host/a/v.mp4?key=b/c").rows] == ["https://host/a/v.mp4?key=b/c"]


def test_a_video_with_a_foreign_suffix_is_read_if_the_format_is_stated(tmp_path: Path) -> None:
    video = write(tmp_path / "video.bin", "\x1aE\0")
    with pytest.raises(ListError, match=r"line 1: contains a NUL character.*; format=video reads a video"):
        read_list(video)
    assert [row.path for row in read_list(video, format="video").rows] == [str(video)]


def test_what_is_no_list_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ListError, match=r"pipe\.csv: a pipe or a device, .* copy it to a file"):
        read_list(tmp_path / "pipe.csv")
    with pytest.raises(ListError, match="/dev/zero: a pipe or a device"):
        read_list("/dev/zero")
    with pytest.raises(ListError, match=r"l\.csv: the list is empty"):
        read_list(write(tmp_path / "l.csv", "\n\n"))
    with pytest.raises(ListError, match=r"l\.parquet: not a complete Parquet file"):
        read_list(write(tmp_path / "l.parquet", "PAR1"))


# Tables


def test_the_list_of_the_local_action_clips_can_be_filtered(shared: Path) -> None:
    path = shared / "actions/list.csv"
    train, test = (read_list(path, where=f"split={split},set=ucf101") for split in ("train", "test"))
    assert (len(train), len(test), len(read_list(path))) == (63, 27, 678)
    assert {train.classes[row.label or 0] for row in train.rows} == {
        "ucf101_BabyCrawling",
        "ucf101_Punch",
        "ucf101_PushUps",
    }
    assert all(Path(row.path).is_file() for row in train.rows)
    assert check_overlap(train, test) == []


def test_a_table_may_name_parts_of_videos_and_groups(tmp_path: Path) -> None:
    text = "video,class,group,start_sec,end_sec\n a b.mp4 ,run,g1,1.5,4\nc.mp4,jump,,,\n"
    videos = read_list(write(tmp_path / "list.csv", text), root="/r")
    assert videos.rows == (Row("/r/a b.mp4", 1, "g1", 1.5, 4.0), Row("/r/c.mp4", 0))


def test_a_class_of_a_filtered_list_keeps_the_label_it_has_in_the_whole_list(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "file,class,split\na.mp4,run,train\nb.mp4,jump,test\n")
    assert read_list(path, where={"split": "train"}).rows[0].label == 1


def test_the_classes_of_a_filtered_list_are_those_of_its_data_set(tmp_path: Path) -> None:
    rows = "file,label,split,set\na.mp4,run,train,x\nb.mp4,dive,test,x\nc.mp4,serve,train,y\n"
    path = write(tmp_path / "list.csv", rows)
    assert read_list(path, where="set=x,split=train").classes == ("dive", "run")  # both splits have the same labels
    assert read_list(path, where="set=y").classes == ("serve",)


def test_a_filter_by_an_unknown_column_names_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "file,split\na.mp4,train\n")
    with pytest.raises(ListError, match=r"'fold'; the columns are file, split"):
        read_list(path, where="fold=1")


def test_a_filter_that_keeps_nothing_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "file,split\na.mp4,train\n")
    with pytest.raises(ListError, match="no videos with split=val"):
        read_list(path, where="split=val")


def test_a_time_that_is_no_number_names_line_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "file,start_sec\na.mp4,1\nb.mp4,soon\n")
    with pytest.raises(ListError, match=r"list\.csv, line 3: start_sec must be a number >= 0 or empty, got 'soon'"):
        read_list(path)


def test_a_number_with_two_names_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "file,label,class\na.mp4,0,run\nb.mp4,0,jump\n")
    with pytest.raises(ListError, match="line 3: label 0 is 'jump' here and 'run' before"):
        read_list(path)


def test_a_saved_list_reads_back_equal(tmp_path: Path) -> None:
    rows = (Row("/a b.mp4", 1, "g", 0.5, 2.0), Row('/c,"d".mp4', 0), Row("/frames/e", 0, num_frames=9))
    videos = VideoList(rows, ("run", "jump, high"))
    videos.save(tmp_path / "list.csv")
    again = read_list(tmp_path / "list.csv")
    assert (again.rows, again.classes) == (rows, videos.classes)


def test_a_list_saved_in_another_folder_names_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "videos", "a.mp4", "b/c.mp4")
    videos = read_list("videos")
    videos.save("runs/kept.csv")
    assert [row.path for row in read_list("runs/kept.csv").rows] == [
        f"{tmp_path}/videos/{n}" for n in ("a.mp4", "b/c.mp4")
    ]


def test_a_list_saved_beside_its_files_can_move_with_them(tmp_path: Path) -> None:
    names = [" a.mp4", "b\\c.mp4", "d/e.mp4"]
    touch(tmp_path / "old", *names)
    read_list(tmp_path / "old").save(tmp_path / "old/list.csv")
    (tmp_path / "old").rename(tmp_path / "new")
    assert [row.path for row in read_list(tmp_path / "new/list.csv").rows if not Path(row.path).exists()] == []


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ListError, match=r"pip install pyarrow"):
        read_list(write(tmp_path / "list.parquet", ""))


@pytest.mark.network
def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"file": ["a b.mp4", "c.mp4"], "label": [1, 0], "start_sec": [0.5, None]})
    pyarrow.parquet.write_table(table, tmp_path / "list.parquet")
    assert read_list(tmp_path / "list.parquet", root="/r").rows == (Row("/r/a b.mp4", 1, None, 0.5), Row("/r/c.mp4", 0))


# Lines of path and label


def test_paths_keep_their_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "my videos/clip 1.mp4 3\n/abs/take.2 b.mp4 0\n")
    videos = read_list(path, root="/r")
    assert videos.rows == (Row("/r/my videos/clip 1.mp4", 3), Row("/abs/take.2 b.mp4", 0))
    assert videos.num_classes == 4


def test_labels_may_be_names_with_spaces(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", "a.mp4 riding a bike\nb 1.mp4 archery\n")
    videos = read_list(path)
    assert videos.classes == ("archery", "riding a bike")
    assert names_and_labels(videos) == [("a.mp4", 1), ("b 1.mp4", 0)]


def test_commas_may_separate_path_and_label(tmp_path: Path) -> None:
    assert read_list(write(tmp_path / "l.csv", "a b.mp4,2\n"), root="/r").rows == (Row("/r/a b.mp4", 2),)


def test_lines_without_label_are_unlabelled(tmp_path: Path) -> None:
    videos = read_list(write(tmp_path / "l.txt", "a b.mp4\nc.mp4\n"))
    assert names_and_labels(videos) == [("a b.mp4", None), ("c.mp4", None)]


def test_a_line_that_lacks_the_label_of_the_others_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "a.mp4 1\nb.mp4\n")
    with pytest.raises(ListError, match=r"l\.txt, line 2: 'b\.mp4': either every line has a label or none"):
        read_list(path)


def test_a_label_outside_the_label_list_names_line_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "a.mp4 0\n\nb.mp4 2\n")
    with pytest.raises(ListError, match=r"l\.txt, line 3: label '2' is none of the 2 classes \(run, jump\)"):
        read_list(path, labels=["run", "jump"])


def test_a_name_outside_the_label_list_names_line_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "a.mp4 run\nb.mp4 swim\n")
    with pytest.raises(ListError, match=r"line 2: label 'swim' is none of the 2 classes"):
        read_list(path, labels=["run", "jump"])


def test_a_list_of_an_unknown_form_names_its_first_line_and_what_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "# Videos\nthat we like\n")
    with pytest.raises(ListError, match=r"l\.txt: its first line, '# Videos', .* accepted are a CSV"):
        read_list(path)


def test_an_unknown_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format must be auto, class_folders, .*got 'ucf'"):
        read_list(tmp_path, format="ucf")


def test_a_binary_file_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00\x81 a.mp4")
    with pytest.raises(ListError, match="not text in UTF-8"):
        read_list(tmp_path / "l.txt")


WORD = st.text(st.sampled_from("abz09_-.()é' "), min_size=1, max_size=12).map(lambda word: word.strip() or "a")
FILE = st.builds(
    lambda parts, suffix: "/".join(parts) + suffix,
    st.lists(WORD, min_size=1, max_size=3),
    st.sampled_from([".mp4", ".avi", ".MKV"]),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(FILE, st.integers(0, 400)), min_size=1, max_size=5, unique_by=lambda row: row[0]),
    separator=st.sampled_from([" ", "\t", ","]),
)
def test_any_path_and_label_survive_a_list(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], separator: str
) -> None:
    text = "".join(f"{file}{separator}{label}\n" for file, label in rows)
    path = write(tmp_path_factory.mktemp("lists") / "l.txt", text)
    assert read_list(path, root="/r").rows == tuple(Row(f"/r/{file}", label) for file, label in rows)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_gives_a_list_or_a_list_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("lists") / "l.csv"
    path.write_text(text, encoding="utf-8")
    try:
        outcome = str(read_list(path).rows[0])
    except ListError as error:
        outcome = str(error)
    assert str(path.parent) in outcome


# The complete list

MANY = VideoList(tuple(Row(f"/r/{i}.mp4", i % 3) for i in range(50)), ("a", "b", "c"), "/r")


def test_a_subset_is_the_same_for_the_same_seed_and_in_the_order_of_the_list() -> None:
    assert MANY.subset(10, seed=1).rows == MANY.subset(10, seed=1).rows
    assert MANY.subset(10, seed=1).rows != MANY.subset(10, seed=2).rows
    assert sorted(MANY.subset(10).rows, key=MANY.rows.index) == list(MANY.subset(10).rows)
    assert len(set(MANY.subset(10).rows)) == 10


def test_a_subset_larger_than_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="a subset of 51 videos was requested, the list has 50"):
        MANY.subset(51)


def test_the_hash_does_not_depend_on_the_root_but_on_every_row() -> None:
    moved = VideoList(tuple(Row(f"/elsewhere/{i}.mp4", i % 3) for i in range(50)), ("a", "b", "c"), "/elsewhere")
    assert moved.sha256 == MANY.sha256
    assert MANY.subset(49).sha256 != MANY.sha256
    assert VideoList(MANY.rows, ("a", "b", "d"), "/r").sha256 != MANY.sha256


def test_lists_that_share_a_file_are_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    train = VideoList((Row(f"{tmp_path}/a.mp4"), Row(f"{tmp_path}/b.mp4")))
    evaluation = VideoList((Row(f"{tmp_path}/x/../link.mp4"),))
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=r"share 1 files or groups: .*/a\.mp4; use disjoint splits"):
        check_overlap(train, evaluation)


def test_links_are_resolved_as_the_system_does(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4", "real/b.mp4")
    (tmp_path / "real" / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "folder").symlink_to("real")
    names = [
        "real/a.mp4",
        "folder/a.mp4",
        "folder/link.mp4",
        "real/../folder/b.mp4",
        "none/c.mp4",
        "folder/",
        "real/..",
    ]
    resolve = LinkResolver()
    for path in [f"{tmp_path}/{name}" for name in names] * 2 + ["a.mp4", "/"]:
        assert resolve(path) == os.path.realpath(path), path


def test_lists_that_share_a_group_are_refused_unless_allowed() -> None:
    train, evaluation = VideoList((Row("/a.mp4", group="g7"),)), VideoList((Row("/b.mp4", group="g7"),))
    with pytest.raises(ValueError, match="group g7"):
        check_overlap(train, evaluation)
    assert check_overlap(train, evaluation, allow=True) == ["group g7"]


def test_folds_keep_groups_together_and_hold_each_class_alike() -> None:
    rows = tuple(Row(f"{c}{g}{i}", label=c, group=f"group{c}{g}") for c in range(2) for g in range(5) for i in range(3))
    videos = VideoList(rows)
    parts = [videos.fold(k, 5) for k in range(5)]
    for train, test in parts:
        assert len(train) + len(test) == len(videos)
        assert not {row.group for row in train.rows} & {row.group for row in test.rows}
        assert sorted(row.label for row in test.rows) == [0] * 3 + [1] * 3
    assert sorted(row.path for _, test in parts for row in test.rows) == sorted(row.path for row in rows)
    with pytest.raises(ListError, match="10 groups of videos cannot be divided into 11 folds"):
        videos.fold(0, 11)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "run\njump high\n"),
        ("l.txt", "1 run\r\n2 jump high\r\n"),
        ("l.csv", "1,jump high\n0,run\n"),
        ("l.json", '["run", "jump high"]'),
        ("l.json", '{"\\"jump high\\"": 1, "run": 0}'),
    ],
)
def test_label_lists_are_read_in_all_forms(tmp_path: Path, name: str, text: str) -> None:
    assert read_labels(write(tmp_path / name, text)) == ("run", "jump high")


def test_labels_with_a_gap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ListError, match=r"must count from 0 or 1, got \[0, 2\]"):
        read_labels(write(tmp_path / "l.txt", "0 run\n2 jump\n"))


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ListError, match="'run' occurs twice"):
        read_labels(write(tmp_path / "l.txt", "run\njump\nrun\n"))


@pytest.mark.parametrize("text", ["{", "3", "[]", '{"run": "one"}'])
def test_json_of_another_kind_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ListError, match=r"l\.json.* (is not json|json list of class names)"):
        read_labels(write(tmp_path / "l.json", text))


# Lists that would be misread


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "list_unquoted_comma.csv",
            r", line 2: the row has 3 cells, the header has 2 columns: .*; put quotes",
        ),
        ("list_open_quote.csv", r", line 2: a cell has wrong quotes"),
        ("unclosed_quote.csv", r", line 2: a cell has wrong quotes"),
        ("list_frames_and_label.txt", r", line 1: one label expected .* read by format=rawframes"),
        ("list_multilabel.txt", r", line 1: one label expected after the path, got '1 5 9'"),
        ("list_extra_columns.csv", r", line 1: one label expected after the path, got 'run,4,0'.* with a header"),
    ],
)
def test_a_reported_list_is_refused_by_file_and_line(shared: Path, name: str, message: str) -> None:
    with pytest.raises(ListError, match=name + message):
        read_list(shared / "reported" / name)


def test_minus_one_is_no_label(shared: Path) -> None:
    videos = read_list(shared / "reported" / "list_minus_one.txt")
    assert ([row.label for row in videos.rows], videos.num_classes) == ([None, None], 0)


def test_frames_and_label_are_read_by_the_format_that_is_named(shared: Path) -> None:
    videos = read_list(shared / "reported" / "list_frames_and_label.txt", format="rawframes")
    assert [(row.num_frames, row.label) for row in videos.rows] == [(120, 0), (98, 0), (120, 1)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "file,label\na.mp4\n", "line 2: the row has 1 cells, the header has 2 columns: file, label$"),
        ("l.csv", "file,label,label\na.mp4,1,2\n", "line 1: two columns have the same name"),
        ("l.csv", 'file,label\na.mp4,x\n"b.mp4,x\nc.mp4,"x"\n', "line 3: a cell has wrong quotes"),
        ("l.csv", "file,start_sec,end_sec\na.mp4,5,3\n", "line 2: end_sec must be > start_sec, got 5 to 3"),
        ("l.csv", "file,start_sec\na.mp4,nan\n", "line 2: start_sec must be a number >= 0 or empty, got 'nan'"),
        ("l.csv", "file,num_frames\na.mp4,inf\n", "line 2: num_frames must be a number >= 0 or empty, got 'inf'"),
        ("l.csv", "file,label\na\0.mp4,x\n", "line 2: .* NUL character"),
        ("l.txt", "a.mp4 1\nb\0.mp4 1\n", "line 2: .* NUL character"),
        ("l.txt", "a.mp4 3000000000\n", "line 1: a label must be >= 0 .* and < 1000000, got 3000000000"),
        ("l.txt", "a.mp4 -2\n", r"line 1: a label must be >= 0 \(or -1 for none\)"),
        ("l.txt", "a.mp4 0\nb.mp4 1\na.mp4 1\n", "line 3: .*a.mp4 has the label 1 here, 0 in line 1"),
        ("l.txt", "a.mp4 1,5\n", "line 1: one label expected after the path, got '1,5'"),
    ],
)
def test_a_list_that_could_be_misread_names_line_and_value(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ListError, match=message):
        read_list(write(tmp_path / name, text))


@pytest.mark.parametrize(
    "text", ["a.mp4 0.0\nb.mp4 2.0\nc.mp4 10.0\n", "file,label\na.mp4,0.0\nb.mp4,2.0\nc.mp4,10.\n"]
)
def test_labels_written_as_floats_are_numbers(tmp_path: Path, text: str) -> None:
    assert [row.label for row in read_list(write(tmp_path / "l.csv", text)).rows] == [0, 2, 10]


@pytest.mark.parametrize("where", ["Split=train", {"SPLIT": "train"}])
def test_a_filter_takes_the_header_as_it_is_written_and_ignores_spaces_around_cells(
    where: str | dict[str, str], tmp_path: Path
) -> None:
    path = write(tmp_path / "list.csv", "file, Split \na.mp4, train \nb.mp4, test \n")
    assert [Path(row.path).name for row in read_list(path, where=where).rows] == ["a.mp4"]


def test_spaces_may_precede_quotes(tmp_path: Path) -> None:
    videos = read_list(write(tmp_path / "l.csv", 'file, label\n"a, b.mp4", "run, fast"\n'))
    assert (Path(videos.rows[0].path).name, videos.classes) == ("a, b.mp4", ("run, fast",))


def test_file_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    touch(tmp_path / "videos", "a.mp4", name)
    videos = read_list(tmp_path / "videos")
    videos.save(tmp_path / "list.csv")
    assert b"caf\xe9.mp4" in (tmp_path / "list.csv").read_bytes()
    assert read_list(tmp_path / "list.csv").rows == videos.rows
    assert len(videos.sha256) == 64
    (tmp_path / "labels.csv").write_bytes(b"file,label\na.mp4,caf\xe9\n")
    with pytest.raises(ListError, match=r"line 2: the label .* is not text in UTF-8"):
        read_list(tmp_path / "labels.csv")


def test_a_stray_video_beside_class_folders_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "run/a.mp4", "run/b.mp4", "walk/c.mp4", "intro.mp4")
    assert {row.label for row in read_list(tmp_path).rows} == {None}
    assert "is read without labels: 1 of 4 videos, such as intro.mp4, are not in CLASS/VIDEO" in caplog.text
    assert [row.label for row in read_list(tmp_path, format="class_folders").rows] == [0, 0, 1]


def test_the_group_of_a_clip_does_not_depend_on_the_case_of_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "v_Punch_g01_c02.AVI")
    assert read_list(tmp_path).rows[0].group == "v_Punch_g01"
