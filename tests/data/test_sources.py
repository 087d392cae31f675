"""Records by number: right content, right place, from any process."""

import io
import json
import multiprocessing
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wordregion.data import files
from wordregion.data.images import ImageStore, decode, to_rgb
from wordregion.data.sources import HFDataset, Jsonl, Parquet, Tar


def png(colour: tuple[int, int, int] = (200, 10, 10)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))


def write_shards(folder: Path, pairs: int = 3) -> None:
    for shard in range(2):
        members = {}
        for i in range(pairs):
            key = f"{shard:05d}{i:04d}"
            members |= {
                f"{key}.jpg": png((shard, i, 0)),
                f"{key}.json": json.dumps({"caption": f"json {key}", "url": "u"}).encode(),
                f"{key}.txt": f"text {key}".encode(),
            }
        write_tar(folder / f"{shard:05d}.tar", members)


def read_all(source: Any, queue: Any) -> None:
    queue.put([source[i] for i in reversed(range(len(source)))])


@pytest.mark.parametrize("ending", ["\n", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_jsonl_lines_and_their_numbers(tmp_path: Path, ending: str, newline: str) -> None:
    records = [{"caption": "é" * i} for i in range(5)]
    texts = [json.dumps(r, ensure_ascii=False) for r in records]
    texts[2:2] = ["", "  "]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (newline.join(texts) + ending).encode())
    source = Jsonl(path)
    # a line of blanks only counts as empty if it is no longer than its line end
    numbers = [source.where(i).rpartition(" ")[2] for i in range(len(source))]
    good = [i for i in range(len(source)) if numbers[i] != "4"]
    assert [source[i] for i in good] == records
    assert [numbers[i] for i in good] == ["1", "2", "5", "6", "7"]
    with pytest.raises(IndexError):
        source[len(source)]
    with pytest.raises(IndexError):
        source[-1]


def test_jsonl_lines_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordregion.data.sources._CHUNK", 7)
    records = [{"n": i} for i in range(50)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in records))
    assert list(Jsonl(path)) == records  # type: ignore[call-overload]


def test_parquet_rows_over_groups_and_files(tmp_path: Path) -> None:
    for shard in range(2):
        table = pa.table({"image": [png()] * 7, "caption": [[f"{shard} {i}", "x"] for i in range(7)]})
        pq.write_table(table, tmp_path / f"train-{shard}.parquet", row_group_size=3)
    source = Parquet(f"{tmp_path}/train-*.parquet")
    assert len(source) == 14
    assert source.columns == ("image", "caption")
    order = np.random.default_rng(0).permutation(14).tolist()
    assert {i: source[i]["caption"][0] for i in order} == {i: f"{i // 7} {i % 7}" for i in range(14)}
    assert len(source._cache) <= 2
    assert source.where(8) == f"{tmp_path}/train-1.parquet, row 2"


def test_hugging_face_leaves_pictures_undecoded(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = {"image": [{"bytes": png(), "path": None}] * 2, "caption": ["a", "b"]}
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"val": data}).save_to_disk(tmp_path / "saved")
    for source in (HFDataset(data), HFDataset(tmp_path / "saved", "val")):
        assert source.columns == ("image", "caption")
        assert source[1]["caption"] == "b"
        assert source[1]["image"]["bytes"] == png()
    assert source.where(1) == f"{tmp_path}/saved#val, row 2"


def test_tar_shards_in_img2dataset_layout(tmp_path: Path) -> None:
    write_shards(tmp_path)
    source = Tar(f"{tmp_path}/*.tar")
    assert len(source) == 6
    record = source[4]
    assert record["__key__"] == "000010001"
    assert (record["txt"], record["caption"], record["url"]) == ("text 000010001", "json 000010001", "u")
    assert record["jpg"] == png((1, 1, 0))
    assert source.where(4) == f"{tmp_path}/00001.tar, key 000010001"


@pytest.mark.parametrize("how", ["ustar", "gnu", "pax", "stream", "appended", "gnu tar", "no files", "folders alone"])
def test_sound_tars_have_no_damage(tmp_path: Path, how: str) -> None:
    path, folder = tmp_path / "a.tar", tmp_path / "in"
    folder.mkdir()
    if how != "no files":
        (folder / "sub").mkdir()
    if how not in ("no files", "folders alone"):
        (folder / "a.txt").write_bytes(b"a" * 1024)
        (folder / "sub" / ("é" * 90 if how != "ustar" else "b")).write_bytes(b"b")
        os.link(folder / "a.txt", folder / "sub" / "link.txt")
        (folder / "symbolic").symlink_to("a.txt")
    if how == "gnu tar":
        subprocess.run(["tar", "-cf", str(path), "in"], cwd=tmp_path, check=True)
    else:
        form = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT}.get(how, tarfile.PAX_FORMAT)
        with tarfile.open(path, "w|" if how == "stream" else "w", format=form) as tar:
            tar.add(folder, "" if how == "no files" else "in", recursive=how != "no files")
    if how == "appended":
        with tarfile.open(path, "a") as tar:
            tar.add(folder / "a.txt", "z.txt")
    index = files.index_tar(path)
    assert index.damage == ""
    assert len(index.names) == {"no files": 0, "folders alone": 0, "appended": 3}.get(how, 2)


def test_tar_keys_with_folders_dots_and_odd_names(tmp_path: Path) -> None:
    members = {"a.b/x.jpg": b"1", "a.b/x.seg.png": b"2", "c/x.jpg": b"3", "é" * 120 + ".JPG": b"4"}
    write_tar(tmp_path / "a.tar", members)
    source = Tar(tmp_path / "a.tar")
    assert [source[i]["__key__"] for i in range(3)] == ["a.b/x", "c/x", "é" * 120]
    assert source[0]["seg.png"] == b"2"
    assert source[2]["jpg"] == b"4"


def test_tar_index_is_kept_until_the_tar_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SLOW_SECONDS", -1.0)
    write_tar(tmp_path / "a.tar", {"x.txt": b"one"})
    first = files.index_tar(tmp_path / "a.tar")
    (kept,) = (tmp_path / "cache").rglob("*.npz")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_scan_tar", None)
        again = files.index_tar(tmp_path / "a.tar")
    assert again.name(0) == first.name(0) == "x.txt"
    assert again.read(0) == b"one"
    kept.write_bytes(b"broken")
    assert files.index_tar(tmp_path / "a.tar").read(0) == b"one"
    write_tar(tmp_path / "a.tar", {"y.txt": b"other", "z.txt": b"more" * 5000})
    assert files.index_tar(tmp_path / "a.tar").name(1) == "z.txt"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sources_work_in_workers(tmp_path: Path, method: str) -> None:
    write_shards(tmp_path)
    pq.write_table(pa.table({"caption": [str(i) for i in range(9)]}), tmp_path / "a.parquet", row_group_size=2)
    (tmp_path / "a.jsonl").write_text("".join(f'{{"n": {i}}}\n' for i in range(9)))
    sources: list[Any] = [Tar(f"{tmp_path}/*.tar"), Parquet(tmp_path / "a.parquet"), Jsonl(tmp_path / "a.jsonl")]
    context = multiprocessing.get_context(method)
    for source in sources if method == "fork" else sources[:1]:
        expected = [source[i] for i in reversed(range(len(source)))]
        queue = context.Queue()
        workers = [context.Process(target=read_all, args=(source, queue)) for _ in range(2)]
        for worker in workers:
            worker.start()
        assert [queue.get(timeout=60) for _ in workers] == [expected, expected]
        for worker in workers:
            worker.join()


def test_image_store_folder_and_tar_are_alike(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "val"
    folder.mkdir(parents=True)
    members = {}
    for i, name in enumerate(["a.png", "b.png", "c.png"]):
        (folder / name).write_bytes(png((i, 0, 0)))
        members[f"./val/{name}"] = png((i, 0, 0))
    write_tar(tmp_path / "photos.tar", members)
    write_tar(tmp_path / "flat.tar", {name.rpartition("/")[2]: data for name, data in members.items()})
    stores = [(folder, ""), (folder.parent, "val/"), (tmp_path / "photos.tar", ""), (tmp_path / "photos.tar", "val/")]
    for root, prefix in [*stores, (tmp_path / "flat.tar", "")]:
        image = ImageStore(root).open(f"{prefix}b.png", "here")
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (6, 4), (1, 0, 0))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_orientation_is_respected_where_asked() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste((0, 0, 0), (0, 0, 4, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be upright
    data = encoded(image, "JPEG", exif=exif, quality=95)
    upright, raw = decode(data, "here"), decode(data, "here", upright=False)
    assert (upright.size, raw.size) == ((10, 20), (20, 10))
    assert upright.getpixel((5, 1))[0] < 50 < 200 < upright.getpixel((5, 18))[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = np.full((4, 4), 200, np.uint8)
    if mode.startswith("I"):
        image = Image.fromarray((grey.astype(np.uint16) * 257).astype("<u2"))
        image = image if mode == "I;16" else Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "1":
        image = Image.new("1", (4, 4), 1)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode, palette=Image.Palette.ADAPTIVE)
    assert image.mode == mode
    out = decode(encoded(image, "TIFF" if mode in ("CMYK", "I") else "PNG"), "here")
    assert out.mode == "RGB"
    expected = 255 if mode == "1" else 200
    assert all(abs(value - expected) <= 2 for value in out.getpixel((1, 1)))


def test_transparent_becomes_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    data = encoded(palette, "PNG", transparency=0)
    assert decode(data, "here").getpixel((0, 0)) == (255, 255, 255)
