"""What is stored is what was filmed: numbered frames, containers, cuts, damage, files that change."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from counted import FRAMES, grids, numbers_of, picture, trim, write
from PIL import Image

from extract.check_sources import sources_in
from extract.config import CHANGED, ExtractConfig
from extract.decode import FrameOptions, Video
from extract.demux import says_damage
from extract.events import Broken, Decoded
from extract.pool import DecoderPool
from extract.run import extract
from extract.survey import survey
from store.check import CHECKS, verify
from store.errors import DecodeError, StoreError
from store.read import FeatureStore

OPTIONS = FrameOptions(resize=96, crop=96)
KEEPING = dataclasses.replace(OPTIONS, keep_damaged=True)
SMALL = dict(backbone="mobilenet_v3_small", weights="random:0", device="cpu", precision="float32")
ALL = range(FRAMES)
MOST_UNLIKE = 2
"""MPEG-4 part 2 leaves the rounding of its inverse transform open: FFmpeg's releases, and its routines for
other processors, differ by up to 2 of 255 in about one of 100,000 values (measured)."""


def images_of(
    path: Path, options: FrameOptions = OPTIONS, **more
) -> tuple[list[np.ndarray], Video]:
    """The whole frames of a video before they are resized."""
    video = Video(path, options, **more)
    return [np.asarray(image) for image in video._reader.images()], video


def by_plain_pyav(path: Path) -> list[np.ndarray]:
    """PyAV's own loop over the first video stream."""
    with av.open(str(path), metadata_errors="ignore") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


MADE = {
    "plain.mp4": ("decord", {}),
    "bframes.mp4": ("decord", {"bf": 3}),
    "fragmented.mp4": ("decord", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "plain.mkv": ("decord", {}),
    "plain.mov": ("decord", {}),
    "plain.flv": ("decord", {}),
    "h264.avi": ("decord", {"bf": 0}),
    "xvid.avi": ("decord", {"codec": "mpeg4"}),
    "vp8.webm": (None, {"codec": "libvpx"}),
    "vp9.webm": ("decord", {"codec": "libvpx-vp9"}),
    "hevc.mp4": ("decord", {"codec": "libx265", "x265_params": "log-level=none:bframes=3"}),
    "open_gop.mp4": ("decord", {"x264_params": "open-gop=1:keyint=12:bframes=3"}),
    "ten_bits.mp4": ("pyav", {"pixels": "yuv420p10le"}),
    "colour444.mp4": ("pyav", {"pixels": "yuv444p"}),
    "transport.ts": ("pyav", {"kind": "mpegts"}),
    "avchd.m2ts": ("pyav", {"kind": "mpegts", "container": {"mpegts_m2ts_mode": "1"}}),
    "one_gop.ts": ("pyav", {"kind": "mpegts", "gop": 250}),
    "mpeg2.ts": ("pyav", {"codec": "mpeg2video", "kind": "mpegts"}),
    "program.mpg": ("pyav", {"codec": "mpeg2video", "kind": "mpeg"}),
    "disc.vob": ("pyav", {"codec": "mpeg2video", "kind": "vob"}),
    "raw.h264": ("pyav", {"kind": "h264"}),
    "pictures.mkv": ("pyav", {"codec": "ffv1"}),
    "animation.gif": ("pyav", {"codec": "gif", "pixels": "rgb8"}),
    "narrow.mp4": ("pyav", {"width": 6, "height": 200}),
    "wide72.mp4": ("pyav", {"width": 72, "height": 48}),
}


@pytest.mark.parametrize("name", MADE)
def test_every_frame_once_and_in_order(name: str, tmp_path: Path) -> None:
    decoder, options = MADE[name]
    path = write(tmp_path / name, **options)
    images, video = images_of(path)
    if name != "animation.gif" and video.facts.width > 6:  # a palette of 256, or cells of 2 pixels
        assert numbers_of(images) == list(ALL)
    assert len(images) == FRAMES and video.facts.expected_frames == FRAMES
    assert decoder in (None, video.facts.decoder)
    most = MOST_UNLIKE if name == "xvid.avi" else 0
    for image, expected in zip(images, by_plain_pyav(path)):
        np.testing.assert_allclose(image.astype(int), expected.astype(int), rtol=0, atol=most)
    video = Video(path, OPTIONS)
    assert sum(1 for _ in video.frames()) == FRAMES
    assert video.source().bytes == path.stat().st_size


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("frames", [5, 20, 24])
def test_frames_before_an_edit_are_not_shown(tmp_path: Path, suffix: str, frames: int) -> None:
    path = trim(write(tmp_path / "whole.mp4", bf=0), tmp_path / f"trim.{suffix}", frames)
    images, video = images_of(path)
    assert numbers_of(images) == list(range(frames, FRAMES))
    assert video.facts.decoder == "pyav" or frames == 24  # 24 is a key frame: nothing is hidden


def test_titles_that_are_not_utf8(tmp_path: Path) -> None:
    for suffix, codec in (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4")):
        path = write(tmp_path / f"title.{suffix}", codec, title="caf??")
        path.write_bytes(path.read_bytes().replace(b"caf??", b"caf\xe9\xe9"))
        assert numbers_of(images_of(path)[0]) == list(ALL)


def test_a_frame_size_that_changes(tmp_path: Path) -> None:
    """Two sizes in one WebM, as video calls write them: each frame is scaled by its own size."""
    path = tmp_path / "sizes.webm"
    parts = [
        write(tmp_path / "wide.webm", "libvpx"),
        write(tmp_path / "slim.webm", "libvpx", width=64),
    ]
    with av.open(str(path), "w") as out, av.open(str(parts[0])) as first:
        stream = out.add_stream_from_template(first.streams.video[0])
        for number, part in enumerate(parts):
            with av.open(str(part)) as container:
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.pts + 3000 * number
                        packet.stream = stream
                        out.mux(packet)
    images, video = images_of(path)
    assert video.facts.decoder == "pyav" and "frame size changes" in survey(path).why_not_decord
    assert [image.shape[1] for image in images] == [128] * FRAMES + [64] * FRAMES
    assert numbers_of(images) == [*ALL, *ALL]


def test_the_default_stream_of_several(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        for at, grid in enumerate(grids()):
            for stream, shown in zip(streams, (255 - picture(grid), picture(grid))):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
                frame.pts = at
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    images, video = images_of(path)
    assert numbers_of(images) == list(ALL) and video.facts.decoder == "pyav"


DAMAGED = {
    "h264.mp4": {},
    "h264.mkv": {"bf": 3},
    "hevc.mp4": {"codec": "libx265", "x265_params": "log-level=none"},
    "xvid.avi": {"codec": "mpeg4"},
    "h264.avi": {"bf": 0},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "flash.flv": {"codec": "flv"},
    "windows.wmv": {"codec": "wmv2"},
    "transport.ts": {"kind": "mpegts"},
    "program.mpg": {"codec": "mpeg2video", "kind": "mpeg"},
}


HARM = ("cut", "half", "zeros", "noise")


def harmed(data: bytes, harm: str) -> bytes:
    """The first 60 %; the second half zeros; or 5 % in the middle zeros or random."""
    size, middle = len(data), len(data) * 45 // 100
    if harm == "cut":
        return data[: size * 6 // 10]
    if harm == "half":
        return data[: size // 2] + bytes(size - size // 2)
    length = size // 20
    put = bytes(length) if harm == "zeros" else random.Random(1).randbytes(length)
    return data[:middle] + put + data[middle + length :]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("damaged")
    files = {}
    for name, options in DAMAGED.items():
        whole = write(root / name, noise=40, **options)
        for harm in HARM:
            files[name, harm] = root / f"{harm}_{name}"
            files[name, harm].write_bytes(harmed(whole.read_bytes(), harm))
    return files


@pytest.fixture(scope="module")
def refused(damaged: dict[tuple[str, str], Path]) -> dict[str, str]:
    """What the decoding processes say: file name -> the reason why it is refused."""
    reasons = {}
    work = [(path.name, path) for path in damaged.values()]
    with DecoderPool(work, OPTIONS, workers=2) as pool:
        for event in pool:
            if isinstance(event, Broken):
                reasons[event.attempt.video] = event.reason
    return reasons


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_noticed_and_only_true_frames_are_kept(damaged, refused, name, harm) -> None:
    path = damaged[name, harm]
    reason = refused[path.name]
    if "moov" in reason:
        assert name.endswith("mp4") and "Get a whole copy" in reason
        return
    assert "missing or broken" in reason and "--keep-damaged" in reason
    whole = {image.tobytes() for image in by_plain_pyav(path.with_name(name))}
    kept, video = images_of(path, KEEPING, decoder="pyav")
    images = [image.tobytes() for image in kept]
    assert 0 < len(images) < FRAMES and video.facts.missing_frames > 0
    false = sum(image not in whole for image in images)
    assert false == 0, f"{false} of {len(images)} kept frames are not those of the whole file"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pictures.gif", {"codec": "gif", "pixels": "rgb8"}),
        ("pictures.mjpg", {"codec": "mjpeg", "kind": "mjpeg", "pixels": "yuvj420p"}),
        ("fragments.mp4", {"container": {"movflags": "frag_every_frame+empty_moov"}}),
    ],
)
def test_a_cut_anywhere_leaves_no_false_frame(tmp_path: Path, name: str, options: dict) -> None:
    """The decoder fills the last picture of such a file with what was there before, without a word."""
    path = write(tmp_path / name, noise=40, **options)
    whole = path.read_bytes()
    images, video = images_of(path)
    assert len(images) == FRAMES and not video.facts.damage
    true = {image.tobytes() for image in images}
    path.write_bytes(whole + bytes(100))  # what some programs append
    assert len(images_of(path)[0]) == FRAMES
    for share in (0.3, 0.45, 0.6, 0.75, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DecodeError, match="cut off"):
            Video(path, OPTIONS)
        shown = [image.tobytes() for image in images_of(path, KEEPING)[0]]
        assert 0 < len(shown) < FRAMES and set(shown) <= true


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small.ts", {"kind": "mpegts"}),
        ("hevc.ts", {"kind": "mpegts", "codec": "libx265", "x265_params": "log-level=none"}),
        ("camera.m2ts", {"kind": "mpegts", "container": {"mpegts_m2ts_mode": "1"}}),
        ("recorded.mkv", {"container": {"live": "1"}, "bf": 3}),
        ("browser.webm", {"codec": "libvpx", "container": {"live": "1"}}),
        ("free.ogv", {"codec": "libvpx"}),
        ("pictures.y4m", {"codec": "wrapped_avframe"}),
        ("tape.dv", {"codec": "dvvideo", "width": 720, "height": 576, "count": 12}),
        ("studio.mxf", {"codec": "mpeg2video", "pixels": "yuv422p"}),
        ("small.ivf", {"codec": "libvpx"}),
    ],
)
def test_a_cut_within_a_packet_is_noticed_though_no_length_is_declared(
    tmp_path: Path, name: str, options: dict
) -> None:
    path = write(tmp_path / name, **options)
    whole = path.read_bytes()
    images, video = images_of(path, decoder="pyav")
    count = options.get("count", FRAMES)
    assert (len(images), video.facts.damage, video.facts.fps) == (count, "", 25)
    true = {image.tobytes() for image in images}
    for share in (0.4, 0.55, 0.7, 0.85, 0.95):
        path.write_bytes(whole[: int(len(whole) * share) | 1])
        found = survey(path)
        assert found.cut.startswith("cut off") or "incomplete" in found.broken, share
        shown = [image.tobytes() for image in images_of(path, KEEPING)[0]]
        assert 0 < len(shown) < count and set(shown) <= true


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small.ts", {"kind": "mpegts"}),
        ("camera.m2ts", {"kind": "mpegts", "container": {"mpegts_m2ts_mode": "1"}}),
        ("free.ogv", {"codec": "libvpx"}),
    ],
)
def test_what_another_program_appended_is_no_cut(tmp_path: Path, name: str, options: dict) -> None:
    path = write(tmp_path / name, **options)
    path.write_bytes(path.read_bytes() + bytes(100))
    images, video = images_of(path)
    assert numbers_of(images) == list(ALL) and not video.facts.damage


def test_times_that_jump_are_no_damage() -> None:
    assert says_damage((24, "mpegts", "Packet corrupt (stream = 0, dts = 7)."))
    assert not says_damage((24, "mov", "DTS discontinuity in stream 1: packet 4 with DTS 3009"))


ONE = 1 << 16
UPRIGHT = picture(grids()[0])
SHOWN = {
    "mirrored": ((-ONE, 0, 0, ONE), UPRIGHT[:, ::-1]),
    "upside down in a mirror": ((ONE, 0, 0, -ONE), UPRIGHT[::-1]),
    "lying, mirrored": ((0, ONE, ONE, 0), UPRIGHT.swapaxes(0, 1)),
    "half a turn": ((-ONE, 0, 0, -ONE), UPRIGHT[::-1, ::-1]),
    "a quarter": ((0, ONE, -ONE, 0), np.rot90(UPRIGHT, -1)),
    "three quarters": ((0, -ONE, ONE, 0), np.rot90(UPRIGHT)),
}


@pytest.mark.parametrize("how", SHOWN)
def test_pictures_are_turned_and_mirrored_as_the_file_asks(tmp_path: Path, how: str) -> None:
    (a, b, c, d), expected = SHOWN[how]
    path = write(tmp_path / "telephone.mp4", count=3, bf=0)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    for decoder in ("auto", "pyav"):
        images, video = images_of(path, decoder=decoder)
        assert (video.facts.height, video.facts.width) == expected.shape[:2]
        assert np.abs(images[0].astype(int) - expected).mean() < 10


def test_a_header_that_claims_too_much_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "long.avi", "mpeg4")
    data = bytearray(path.read_bytes())
    for claimed in (int.from_bytes(data[4:8], "little") + 64, 0xFFFFFFFF):
        data[4:8] = claimed.to_bytes(4, "little")
        path.write_bytes(data)
        images, video = images_of(path)
        assert numbers_of(images) == list(ALL) and not video.facts.damage


@pytest.mark.parametrize("how", ["replaced", "overwritten", "grown", "cut"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "video.mp4")
    other = write(tmp_path / "other.mp4", noise=3)
    video = Video(path, OPTIONS)
    images = video.frames()
    next(images)
    data = path.read_bytes()
    if how == "replaced":
        shutil.copy(path, tmp_path / "same.mp4")
        os.replace(tmp_path / "same.mp4", path)
    elif how == "overwritten":
        path.write_bytes(other.read_bytes()[: len(data)].ljust(len(data), b"\0"))
    else:
        path.write_bytes(data + b"more" if how == "grown" else data[:-4])
    with pytest.raises(DecodeError, match="changed while it was read; run again"):
        list(images)
        video.source()


def test_the_same_name_with_new_content(tmp_path: Path, cli) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in "abc":
        write(videos / f"{name}.mp4", gop=10 + ord(name))
    arguments = {"dataset": "toy", "videos": dict.fromkeys("abc"), "video_roots": [videos]}
    arguments |= {"features": tmp_path / "f", "options": ExtractConfig(**SMALL)}
    first = extract(**arguments)
    with FeatureStore(first.folder) as store:
        before = {video: store.read(video).copy() for video in "abc"}
    shutil.copy(videos / "c.mp4", videos / "c2.mp4")
    os.replace(videos / "c2.mp4", videos / "c.mp4")  # another time, the same bytes
    write(videos / "b.mp4", count=30, gop=30)
    again = extract(**arguments)
    assert again.changed == ["b"] and again.new_videos == 0
    redone = extract(**arguments, redo=[CHANGED])
    assert not redone.changed and redone.new_videos == 1 and redone.index["complete"]
    with FeatureStore(redone.folder) as store:
        assert len(store.read("b")) == 30
        for video in "ac":
            np.testing.assert_array_equal(store.read(video), before[video])
    assert list(verify(redone.folder, [*CHECKS, sources_in([videos])])) == []
    named = extract(**arguments, redo=["a"])
    assert named.new_videos == 1
    with pytest.raises(StoreError, match=r"1 of 1 video to extract again is not in .*first: zz"):
        extract(**arguments, redo=["zz"])


def test_what_is_no_video_is_refused_and_opens_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(random.Random(0).randbytes(9999))
    (tmp_path / "playlist.mp4").write_text(
        "#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    )
    for name in ("text", "playlist"):
        with pytest.raises(
            DecodeError, match=r"not a video that can be read: Invalid data.*ffmpeg -i"
        ):
            Video(tmp_path / f"{name}.mp4", OPTIONS)


def test_paths_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    write(tmp_path / "walk.mp4").rename(folder / "walk.mp4")
    report = extract(
        dataset="toy",
        videos={"walk": None},
        video_roots=[tmp_path],
        features=tmp_path / "f",
        options=ExtractConfig(**SMALL),
    )
    assert report.index["complete"] and report.records["walk"].source == "caf\\xe9/walk.mp4"
    assert list(verify(report.folder, [*CHECKS, sources_in([tmp_path])])) == []


@pytest.mark.slow
def test_few_frames_of_a_long_video_do_not_run_into_the_deadline(tmp_path: Path) -> None:
    path = write(tmp_path / "long.mkv", "ffv1", count=3000, width=320, height=240, noise=60)
    options = FrameOptions(resize=32, crop=32, frames_per_video=2)
    with DecoderPool([("long", path)], options, workers=1, deadline=1) as pool:
        events = list(pool)
    assert not [event for event in events if isinstance(event, Broken)]
    assert isinstance(events[-1], Decoded) and events[-1].attempt.decoded_frames == 3000


def save(folder: Path, name: str, image: Image.Image, **more) -> None:
    folder.mkdir(exist_ok=True)
    image.save(folder / name, **more)


def test_images_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    grey = (np.arange(64 * 96) * 10).astype(np.uint16).reshape(64, 96)
    save(tmp_path / "deep", "1.png", Image.fromarray(grey))
    save(tmp_path / "deep", "2.tif", Image.fromarray(grey))
    (tmp_path / "deep" / "3.pgm").write_bytes(b"P5 96 64 65535\n" + grey.astype(">u2").tobytes())
    for image in images_of(tmp_path / "deep")[0]:
        np.testing.assert_array_equal(image, np.repeat((grey >> 8)[..., None], 3, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upright = picture(grids()[0])
    save(tmp_path / "turned", "1.png", Image.fromarray(np.rot90(upright).copy()), exif=exif)
    images, video = images_of(tmp_path / "turned")
    np.testing.assert_array_equal(images[0], upright)
    assert (video.facts.width, video.facts.height) == (128, 96)


def test_images_that_are_refused(tmp_path: Path) -> None:
    plain = Image.fromarray(picture(grids()[0]))
    save(tmp_path / "float", "1.tif", Image.fromarray(np.zeros((9, 9), np.float32)))
    save(tmp_path / "int", "1.tif", Image.fromarray(np.zeros((9, 9), np.int32)))
    save(tmp_path / "pages", "1.tif", plain, save_all=True, append_images=[plain])
    for name in ("img_00001.jpg", "img_00002.jpg", "flow_x_00001.jpg", "flow_x_00002.jpg"):
        save(tmp_path / "flow", name, plain)
    for name in ("0001.jpg", "0001.png"):
        save(tmp_path / "mask", name, plain)
    for name in ("img_2.jpg", "img_3.jpg", "img_03.jpg", "img_10.jpg"):
        save(tmp_path / "twice", name, plain)
    for name in ("0.1.jpg", "0.10.jpg", "0.2.jpg"):
        save(tmp_path / "times", name, plain)
    for folder, reason in {
        "twice": "img_03.jpg and img_3.jpg have one number, so that a frame is there twice",
        "times": "0.1.jpg and 0.10.jpg have one number",
        "float": "1.tif has mode F, whose range is not known. Convert it to 8 or 16 bits",
        "int": "1.tif has mode I, whose range is not known",
        "pages": "1.tif has 2 pages. A frame is one image",
        "flow": r"2 series of images, not one video: flow_x_#.jpg \(2\), img_#.jpg \(2\)",
        "mask": r"2 series of images, not one video: #.jpg \(1\), #.png \(1\)",
    }.items():
        with pytest.raises(DecodeError, match=reason):
            Video(tmp_path / folder, OPTIONS)


@pytest.mark.parametrize(
    "names",
    [
        ["0.1.png", "0.15.png", "0.2.png", "1.05.png", "10.png"],
        ["frame9.png", "frame10.png", "frame0011.png"],
        ["intro_1.png", "intro_2.png", "main_3.png", "main_10.png"],
    ],
)
def test_the_order_of_images(tmp_path: Path, names: list[str]) -> None:
    for number in random.Random(0).sample(range(len(names)), len(names)):
        save(tmp_path / "video", names[number], Image.fromarray(picture(grids()[number])))
    assert numbers_of(images_of(tmp_path / "video")[0]) == list(range(len(names)))


@pytest.mark.slow
def test_all_clips_have_the_frames_that_pyav_decodes(clips: Path) -> None:
    """Every frame of every clip that is read, against PyAV's own loop (turned as the file asks)."""
    suffixes = (".avi", ".flv", ".gif", ".mkv", ".mov", ".mp4", ".ts", ".webm", ".3gp")
    paths = sorted(path for path in clips.rglob("*") if path.suffix in suffixes)
    unread, unlike = [], []
    for path in paths:
        try:
            images, video = images_of(path)
        except DecodeError:
            unread.append(path)
            continue
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = container.streams.best("video")
            frames = list(container.decode(stream))
            codec = stream.codec_context.name
        assert len(images) == len(frames), path
        for image, frame in zip(images, frames):
            expected = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            difference = np.abs(image.astype(np.int16) - expected)
            if difference.any():
                assert codec == "mpeg4" and video.facts.decoder == "decord", path
                assert difference.max() <= MOST_UNLIKE and np.mean(difference > 0) < 1e-3, path
                unlike.append(path)
    assert len(unread) == 23 and all(path.parent.name == "odd" for path in unread)
    assert len(set(unlike)) < len(paths) / 4
