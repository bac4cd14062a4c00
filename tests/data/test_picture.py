"""LiCSAR folders: phase, coherence, place, look vector and height; and what is wrong with them."""

import numpy as np
import pytest
import tifffile

from heph_vl.data.archive import load_pair, scan_archive
from heph_vl.data.geotiff import Georeference, geotiff_tags, read_geotiff
from heph_vl.data.picture import find_images, read_layers, read_picture
from heph_vl.errors import HephError
from tests import licsar


@pytest.fixture
def frame(tmp_path):
    folder = tmp_path / licsar.FRAME
    licsar.write_pair(folder, "20180101_20180113", licsar.bowl(4))
    licsar.write_frame_files(folder)
    return folder


def only(folder):
    (path,) = find_images([folder])
    return path


def test_a_geotiff_keeps_its_place(tmp_path):
    path = licsar.write_tiff(tmp_path / "a.tif", np.ones((4, 6), np.float32))
    band = read_geotiff(path, 100)
    assert band.no_data == 0
    assert (band.place.west, band.place.north) == pytest.approx((licsar.WEST, licsar.NORTH))
    assert band.place.lonlat(2, 3) == pytest.approx((licsar.WEST + 0.002, licsar.NORTH - 0.003))
    assert band.place.pixel(*band.place.lonlat(2.5, 1.25)) == pytest.approx((2.5, 1.25))
    assert band.place.shifted(2, 1).pixel(*band.place.lonlat(2, 1)) == pytest.approx((0, 0))
    with pytest.raises(HephError, match="6 x 4 px, the limit is"):
        read_geotiff(path, 23)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        # Keys: model type 1 is projected; the last names UTM zone 33 N.
        ((34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True), "projection"),
        ((34264, "d", 16, (0.1,) * 16, True), "rotated"),
        ((33550, "d", 3, (0.001, 0.002, 0.0), True), "make them square"),
        ((33550, "d", 3, (30.0, 30.0, 0.0), True), "not in degrees"),
        ((42113, "s", 0, "none", True), "no-data tag"),
    ],
)
def test_other_grids_are_refused(tmp_path, tags, message):
    both = [t for t in geotiff_tags(Georeference(15, 38, 0.001)) if t[0] != tags[0]]
    if tags[0] == 34264:
        both = []
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.float32), extratags=[*both, tags])
    with pytest.raises(HephError, match=message):
        read_geotiff(tmp_path / "a.tif", 100)


def test_phase_and_coherence_come_at_one_scale_with_their_place(frame):
    picture = read_picture(only(frame))
    assert picture.measured
    assert picture.size == (320, 320)
    assert picture.channels.shape == (3, 96, 96)
    assert picture.place.spacing_deg == pytest.approx(1 / 300)
    assert picture.place.lonlat(0, 0) == pytest.approx((licsar.WEST, licsar.NORTH))
    assert picture.scale == pytest.approx((10 / 3, 10 / 3))
    assert not picture.valid[:, :6].any()
    assert picture.valid[:, 6:].all()
    assert picture.channels[2][:, 7:] == pytest.approx(0.8, abs=0.005)
    middle = licsar.bowl(4)[158:162, 158:162].mean()
    error = np.angle(np.exp(1j * (picture.wrapped_phase[47:49, 47:49] - middle)))
    assert np.abs(error).max() < 0.2


def test_layers_lie_on_the_picture(frame):
    picture = read_picture(only(frame))
    layers = read_layers(picture)
    assert layers.look_vector[:, 10, 20] == pytest.approx(licsar.LOOK, abs=1e-6)
    row, column = np.unravel_index(np.argmax(layers.height), layers.height.shape)
    assert (row, column) == (27, 66)  # of (90, 220) fine pixels
    east = picture.place.lonlat(column + 0.5, 0)[0]
    assert east == pytest.approx(licsar.WEST + 0.220, abs=0.003)


@pytest.mark.parametrize("side", [320, 321, 322, 323, 324, 325, 326, 327, 328, 329])
def test_layers_lie_on_pictures_of_any_size(tmp_path, side):
    """A last pixel of 1/300 degree may be cut by the edge, or reach over it."""
    frame = tmp_path / licsar.FRAME
    folder = frame / "interferograms" / "20180101_20180113"
    shape = (side, 640 - side)
    licsar.write_tiff(folder / f"{folder.name}.geo.diff_pha.tif", np.ones(shape, np.float32))
    height = np.add.outer(np.arange(shape[0]), np.zeros(shape[1])).astype(np.float32)
    licsar.write_tiff(frame / "metadata" / f"{frame.name}.geo.hgt.tif", height, no_data=-9999)
    picture = read_picture(only(frame))
    layers = read_layers(picture)
    assert layers.height.shape == picture.valid.shape
    # The mean of each pixel's rows.
    expected = (np.arange(picture.valid.shape[0]) + 0.5) * 10 / 3 - 0.5
    assert layers.height[:-1, 3] == pytest.approx(expected[:-1], abs=0.51)
    for top in (0.0, 0.0101, 0.0333):
        box = (licsar.WEST + 0.05, licsar.NORTH - 0.5, licsar.WEST + 0.5, licsar.NORTH - top)
        cut = read_picture(only(frame), box)
        assert read_layers(cut).height.shape == cut.valid.shape


def test_a_box_cuts_all_of_it(frame):
    whole = read_picture(only(frame))
    box = (licsar.WEST + 0.1, licsar.NORTH - 0.25, licsar.WEST + 0.22, licsar.NORTH - 0.1)
    cut = read_picture(only(frame), box)
    assert cut.corner == (100, 100)
    assert cut.size == (120, 150)
    assert cut.channels.shape == (3, 45, 36)
    assert cut.place.lonlat(0, 0) == pytest.approx((box[0], box[3]))
    same = whole.wrapped_phase[30:75, 30:66]
    assert np.angle(np.exp(1j * (cut.wrapped_phase - same))) == pytest.approx(0 * same, abs=1e-4)
    expected = read_layers(whole).height[30:75, 30:66]
    assert read_layers(cut).height == pytest.approx(expected, abs=0.05)
    with pytest.raises(HephError, match=r"outside the box: 14\.840 to 15\.160 east"):
        read_picture(only(frame), (0.0, 0.0, 1.0, 1.0))
    plain = frame / "phase.npy"
    np.save(plain, np.ones((30, 30), np.float32))
    with pytest.raises(HephError, match="--bbox needs GeoTIFFs"):
        read_picture(plain, box)


def test_each_pair_is_taken_once_and_a_frames_own_files_are_no_pairs(frame):
    pair = only(frame).parent
    others = ("unw.tif", "diff_unfiltered_pha.tif", "diff_unfiltered.png", "bovldiff.tif")
    for name in ("diff.png", "cc.png", *others, "azi.tif", "mag_cc.png"):
        (pair / f"{pair.name}.geo.{name}").write_bytes(b"")
    for name in ("metadata/network.png", "epochs/20180101/20180101.geo.mli.tif", ".diff.png"):
        (frame / name).parent.mkdir(parents=True, exist_ok=True)
        (frame / name).write_bytes(b"")
    assert [path.name for path in find_images([frame])] == [f"{pair.name}.geo.diff_pha.tif"]
    (frame / "interferograms" / "again").symlink_to(frame / "interferograms")  # round and round
    (frame.parent / "linked").symlink_to(frame)
    assert len(find_images([frame.parent])) == 1
    assert len(find_images([frame.parent / "linked"])) == 1
    only(frame).unlink()
    assert [path.name for path in find_images([frame])] == [f"{pair.name}.geo.diff.png"]


def test_an_archive_without_previews_is_read_from_its_geotiffs(frame):
    archive = scan_archive(frame.parent)
    (pair,) = archive.pairs
    assert pair.image.name.endswith(".geo.diff_pha.tif")
    native = load_pair(pair)
    assert native.size == (96, 96)
    assert native.pixel_spacing_deg == pytest.approx(0.001)
    assert native.coherence[50, 50] == pytest.approx(0.8, abs=0.005)
    assert native.mask.sum() == 0
    from heph_vl.data.phase import decode_image

    shown = decode_image(native.image)
    whole = read_picture(pair.image)
    assert np.array_equal(shown.valid, whole.valid)
    error = np.angle(np.exp(1j * (shown.wrapped_phase - whole.wrapped_phase)))[whole.valid]
    assert np.abs(error).max() < 0.05


def test_what_is_wrong_is_named(frame):
    path = only(frame)
    coherence = path.with_name(path.name.replace("diff_pha", "cc"))
    licsar.write_tiff(coherence, np.full((10, 10), 200, np.uint8))
    with pytest.raises(HephError, match="10 x 10 px, the phase has 320 x 320"):
        read_picture(path)
    licsar.write_tiff(coherence, np.full((320, 320), 40.0, np.float32))
    with pytest.raises(HephError, match="coherence is 0 to 1"):
        read_picture(path)
    part = np.full((320, 320), 0.4, np.float32)
    part[:160] = -9999
    licsar.write_tiff(coherence, part, no_data=-9999)
    assert read_picture(path).channels[2][60, 60] == pytest.approx(0.4, abs=0.01)
    assert read_picture(path).channels[2][20, 60] == 0
    coherence.unlink()
    assert not read_picture(path).measured
    (frame / "metadata" / f"{frame.name}.geo.N.tif").unlink()
    with pytest.raises(HephError, match=r"no \.geo\.N\.tif beside it"):
        read_layers(read_picture(path))
    licsar.write_frame_files(frame, np.ones((100, 100), np.float32))
    with pytest.raises(HephError, match="does not reach over the picture"):
        read_layers(read_picture(path))
    licsar.write_tiff(path, np.ones((40, 40), np.float32), spacing=0.01)
    with pytest.raises(HephError, match=r"pixels of 0\.01 degrees"):
        read_picture(path)
    licsar.write_pair(frame, path.parent.name, licsar.bowl(1))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(HephError, match="not a readable TIFF"):
        read_picture(path)


def test_nan_is_no_data(frame):
    path = only(frame)
    phase = tifffile.imread(path)
    phase[100:200] = np.nan
    licsar.write_tiff(path, phase)
    picture = read_picture(path)
    assert not picture.valid[31:59].any()
    assert np.isfinite(picture.channels).all()
