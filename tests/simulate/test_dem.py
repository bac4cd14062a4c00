"""Elevation models: tiles that the tests write, and real ones."""

import numpy as np
import pytest
import tifffile
import torch

from heph_vl.errors import HephError
from heph_vl.simulate.dem import MOST_VOIDS, Dem, dem_terrain, read_dem
from heph_vl.simulate.grid import Grid
from heph_vl.simulate.terrain import slope

SIDE = 1201
SAMPLE = np.arange(SIDE)


def plane(south, east, start=500.0):
    """(SIDE, SIDE) int16 [m] that rises by so much a row to the south, a column to the east."""
    return np.rint(start + SAMPLE[:, None] * south + SAMPLE[None, :] * east).astype(np.int16)


def write_hgt(path, elevation):
    path.write_bytes(elevation.astype(">i2").tobytes())
    return path


def write_tiff(path, elevation, scale=0.01, tie=(0, 0, 0, 130.0, 32.0, 0), **options):
    extratags = [(33550, "d", 3, (scale, scale, 0.0)), (33922, "d", 6, tie)]
    for code, kind, value in options.get("tags", ()):
        extratags.append((code, kind, len(value), value))
    tifffile.imwrite(path, elevation, extratags=extratags)
    return path


def test_tile_lies_where_its_name_says(tmp_path):
    dem = read_dem(write_hgt(tmp_path / "S09E115.hgt", plane(1, 0)))
    assert (dem.latitude, dem.longitude) == (-8.0, 115.0)  # the name gives the south-west corner
    assert dem.spacing_deg == pytest.approx(1 / 1200)
    assert dem.filled == 0
    assert dem.elevation[0, 0] == 500  # row 0 is the north
    assert dem.elevation[-1, 7] == 1700
    west = read_dem(write_hgt(tmp_path / "n00w078.hgt", plane(0, 1)))
    assert (west.latitude, west.longitude) == (1.0, -78.0)
    assert west.elevation[5, -1] == 1700


def test_plane_keeps_its_gradient(tmp_path):
    dem = read_dem(write_hgt(tmp_path / "N00E010.hgt", plane(1, 2)))
    grid = Grid(300, 400, latitude_deg=0.5)
    terrain, origin = dem_terrain(dem, grid, torch.Generator(), 0.5, origin=(0.9, 10.25))
    assert origin == (0.9, 10.25)
    # 1 m a sample of 1 / 1200 degree to the south, 2 m to the east; pixels of 0.001 degree.
    rows = torch.arange(300, dtype=torch.float64)[:, None]
    columns = torch.arange(400, dtype=torch.float64)[None, :]
    expected = 500 + 1200 * (0.1 + 0.001 * rows) + 2400 * (0.25 + 0.001 * columns)
    torch.testing.assert_close(terrain.elevation.double(), expected, rtol=0, atol=2e-3)
    steep = slope(terrain, grid)[:-1, :-1]
    known = np.hypot(1.2, 2.4) / grid.dy
    torch.testing.assert_close(steep, torch.full_like(steep, known), rtol=2e-3, atol=0)
    assert not bool(terrain.water.any())


def test_window_is_drawn_with_land_and_the_same_each_time(tmp_path):
    elevation = plane(0, 0, 0)
    elevation[:, 900:] = 300  # a quarter is land, all in the east
    dem = read_dem(write_hgt(tmp_path / "N10E020.hgt", elevation))
    grid = Grid(500, 500, latitude_deg=10.5)
    origins = set()
    for seed in range(8):
        terrain, origin = dem_terrain(dem, grid, torch.Generator().manual_seed(seed))
        again, same = dem_terrain(dem, grid, torch.Generator().manual_seed(seed))
        assert origin == same
        assert torch.equal(terrain.elevation, again.elevation)
        assert torch.equal(terrain.vegetation, again.vegetation)
        assert float((~terrain.water).float().mean()) >= 0.2
        assert 10.499 <= origin[0] <= 11.0
        assert 20.0 + 0.35 - 0.002 <= origin[1] <= 20.501
        assert bool((terrain.elevation[terrain.water] == 0).all())
        assert bool((terrain.vegetation[terrain.water] == 0).all())
        # The coast is where the model has it.
        first = int((~terrain.water[0]).float().argmax())
        assert origin[1] + first * 0.001 == pytest.approx(20 + 899.5 / 1200, abs=0.0015)
        origins.add(origin)
    assert len(origins) > 4


def test_sea_is_cleaned():
    elevation = np.full((400, 400), 50.0, np.float32)
    elevation[:, :150] = 0  # the sea
    elevation[200:202, 60:62] = 5  # a rock of 0.05 km2
    elevation[100:120, 50:70] = 30  # an island
    elevation[300:306, 300:306] = 0  # a pond of 0.4 km2
    elevation[50:100, 250:300] = -60  # a dry depression
    dem = Dem(elevation, 20.0, 30.0, 0.001, 0.0)
    terrain, _ = dem_terrain(dem, Grid(400, 400, 20.0), torch.Generator(), origin=(20.0, 30.0))
    expected = torch.zeros(400, 400, dtype=torch.bool)
    expected[:, :150] = True
    expected[100:120, 50:70] = False
    assert torch.equal(terrain.water, expected)
    assert float(terrain.elevation[75, 275]) == -60


def test_volcanoes_are_prominent_summits():
    rows, columns = np.arange(500)[:, None], np.arange(500)[None, :]
    elevation = np.full((500, 500), 100.0)
    for row, column, top in ((100, 120, 1500), (350, 300, 900), (250, 60, 90)):
        distance = np.hypot(rows - row, columns - column)
        elevation += top * np.clip(1 - distance / 60, 0, 1)
    dem = Dem(elevation.astype(np.float32), 1.0, 1.0, 0.001, 0.0)
    terrain, _ = dem_terrain(dem, Grid(500, 500, 0.5), torch.Generator(), origin=(1.0, 1.0))
    found = sorted((v.row, v.column) for v in terrain.volcanoes)
    assert len(found) == 2  # the third is a hill of 90 m
    assert found[0] == pytest.approx((100, 120), abs=3)
    assert found[1] == pytest.approx((350, 300), abs=3)
    flat = Dem(np.full((500, 500), 10.0, np.float32), 1.0, 1.0, 0.001, 0.0)
    terrain, _ = dem_terrain(flat, Grid(500, 500), torch.Generator(), origin=(1.0, 1.0))
    assert len(terrain.volcanoes) == 1


def test_voids_are_filled_linearly_and_told(tmp_path):
    elevation = plane(1, 2)
    elevation[100:160, 200:300] = -32768
    elevation[0, 600:700] = -32768  # at the edge there is nothing to interpolate from outside
    dem = read_dem(write_hgt(tmp_path / "N31E130.hgt", elevation))
    assert dem.filled == pytest.approx((60 * 100 + 100) / SIDE**2)
    inner = np.s_[100:160, 200:300]
    np.testing.assert_allclose(dem.elevation[inner], plane(1, 2)[inner], atol=0.01)
    assert np.abs(dem.elevation[0] - plane(1, 2)[0]).max() <= 3


def test_many_voids_are_refused(tmp_path):
    elevation = plane(1, 2)
    elevation[:, : int(SIDE * 0.2)] = -32768
    with pytest.raises(HephError, match=r"N31E130.hgt: 20.0% of it is voids, at most 5%"):
        read_dem(write_hgt(tmp_path / "N31E130.hgt", elevation))
    assert MOST_VOIDS == 0.05


def test_neighbours_are_joined(tmp_path):
    # One plane across both: the second begins with the column that the first ends with.
    write_hgt(tmp_path / "N10E020.hgt", plane(0, 1))
    write_hgt(tmp_path / "N10E021.hgt", plane(0, 1, 1700))
    (tmp_path / ".hidden.hgt").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("from the archive")
    dem = read_dem(tmp_path)
    assert dem.elevation.shape == (1201, 2401)
    assert (dem.latitude, dem.longitude) == (11.0, 20.0)
    np.testing.assert_array_equal(dem.elevation[3], 500 + np.arange(2401))
    grid = Grid(900, 1800, latitude_deg=10.5)
    terrain, _ = dem_terrain(dem, grid, torch.Generator(), origin=(11.0, 20.1))
    expected = 620 + 1.2 * torch.arange(1800.0)
    torch.testing.assert_close(terrain.elevation[899], expected, rtol=0, atol=5e-3)


def test_windows_keep_off_missing_tiles(tmp_path):
    for name in ("N10E020", "N10E021", "N09E020"):  # none in the south-east
        write_hgt(tmp_path / f"{name}.hgt", plane(0, 0))
    dem = read_dem(tmp_path)
    grid = Grid(600, 600, latitude_deg=10.0)
    for seed in range(6):
        terrain, origin = dem_terrain(dem, grid, torch.Generator().manual_seed(seed))
        assert bool((terrain.elevation == 500).all())
        assert origin[0] >= 10.59 or origin[1] <= 20.41
    with pytest.raises(HephError, match=r"of the window at .* has no tile; move it"):
        dem_terrain(dem, grid, torch.Generator(), origin=(10.3, 20.9))


@pytest.mark.parametrize("point", [False, True])
def test_geotiff_is_georeferenced(tmp_path, point):
    elevation = (np.arange(60.0)[:, None] * 10 + np.arange(80.0)).astype(np.float32) + 1
    elevation[5, 5] = -9999
    # Version 1.1.0, two keys: geographic, and pixels are areas or points.
    keys = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 2 if point else 1)
    tags = [(34735, "H", keys), (42113, "s", "-9999\0")]
    dem = read_dem(write_tiff(tmp_path / "dem.tif", elevation, tags=tags))
    half = 0.0 if point else 0.005
    assert dem.latitude == pytest.approx(32.0 - half)
    assert dem.longitude == pytest.approx(130.0 + half)
    assert dem.spacing_deg == pytest.approx(0.01)
    assert dem.filled == pytest.approx(1 / 4800)
    assert dem.elevation[5, 5] == pytest.approx(56, abs=0.01)
    (tmp_path / "folder").mkdir()
    (tmp_path / "dem.tif").rename(tmp_path / "folder" / "dem.tif")
    assert read_dem(tmp_path / "folder").latitude == dem.latitude


def test_geotiffs_that_are_no_model_are_refused(tmp_path):
    ground = np.ones((20, 20), np.float32)
    tifffile.imwrite(tmp_path / "bare.tif", ground)
    with pytest.raises(HephError, match=r"bare.tif: no ModelPixelScale and ModelTiepoint tags"):
        read_dem(tmp_path / "bare.tif")
    write_tiff(tmp_path / "utm.tif", ground, scale=30.0)
    with pytest.raises(HephError, match=r"pixels of 30: not in degrees"):
        read_dem(tmp_path / "utm.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", np.ones((20, 20, 3), np.uint8), photometric="rgb")
    with pytest.raises(HephError, match=r"array of shape \(20, 20, 3\)"):
        read_dem(tmp_path / "rgb.tif")
    cut = write_tiff(tmp_path / "cut.tif", np.ones((200, 200), np.float32)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(HephError, match=r"cut.tif: not a readable TIFF"):
        read_dem(tmp_path / "cut.tif")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("kirishima.hgt", 1201**2 * 2, "kirishima.hgt: a name without coordinates; name it like"),
        ("N31E130.hgt", 1000, r"1,000 bytes, not 2,884,802 or 25,934,402; get the tile again"),
        ("N31E130.asc", 10, "a .asc file is no elevation model"),
        ("missing.hgt", None, "no such file or folder"),
    ],
)
def test_files_that_are_no_tile_are_refused(tmp_path, name, size, message):
    if size is not None:
        (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(HephError, match=message) as caught:
        read_dem(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_folders_without_one_model_are_refused(tmp_path):
    with pytest.raises(HephError, match=r"0 GeoTIFFs and no .hgt tile in it"):
        read_dem(tmp_path)
    write_hgt(tmp_path / "N10E020.hgt", plane(0, 0))
    write_hgt(tmp_path / "N11E021.hgt", plane(0, 0))  # touches it at a corner
    with pytest.raises(HephError, match=r"tiles that do not adjoin: N10E020.hgt, N11E021.hgt"):
        read_dem(tmp_path)
    (tmp_path / "N11E021.hgt").rename(tmp_path / "N40E080.hgt")
    write_hgt(tmp_path / "N25E050.hgt", plane(0, 0))
    with pytest.raises(HephError, match=r"do not adjoin: N10E020.hgt, N25E050.hgt, N40E080.hgt"):
        read_dem(tmp_path)
    (tmp_path / "N40E080.hgt").unlink()
    (tmp_path / "N25E050.hgt").unlink()
    (tmp_path / "N11E020.hgt").write_bytes(bytes(3601 * 3601 * 2))
    with pytest.raises(HephError, match=r"N11E020.hgt is not spaced like N10E020.hgt"):
        read_dem(tmp_path)
    write_tiff(tmp_path / "dem.tif", np.ones((20, 20), np.float32))
    with pytest.raises(HephError, match=r"both .hgt and .tif files"):
        read_dem(tmp_path)


def test_model_smaller_than_the_image_is_refused(tmp_path):
    dem = read_dem(write_hgt(tmp_path / "N10E020.hgt", plane(0, 0)))
    terrain, origin = dem_terrain(dem, Grid(1001, 1001, 10.5), torch.Generator())  # just fits
    assert origin == (11.0, 20.0)
    assert bool((terrain.elevation == 500).all())
    with pytest.raises(HephError, match=r"covers 1 x 1 degrees .* the image needs 0.999 x 1.2;"):
        dem_terrain(dem, Grid(1000, 1201, 10.5), torch.Generator())
    with pytest.raises(HephError, match=r"begins 0.8 degrees south .* it can begin 0 to 0.501"):
        dem_terrain(dem, Grid(500, 500, 10.5), torch.Generator(), origin=(10.2, 20.0))


def test_models_of_the_sea_are_refused(tmp_path):
    dem = read_dem(write_hgt(tmp_path / "N10E020.hgt", plane(0, 0, 0)))
    with pytest.raises(HephError, match=r"no window in it has data and 20% land"):
        dem_terrain(dem, Grid(500, 500, 10.5), torch.Generator())
    with pytest.raises(HephError, match=r"is 100% water; take one with at least 20% land"):
        dem_terrain(dem, Grid(500, 500, 10.5), torch.Generator(), origin=(11.0, 20.0))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "peak", "height"),
    [  # Sakurajima, Vesuvius, Agung: latitude, longitude [deg], elevation [m]
        ("N31E130.hgt", (31.585, 130.657), 1117),
        ("N40E014.hgt", (40.821, 14.426), 1281),
        ("S09E115.hgt", (-8.343, 115.508), 3031),
    ],
)
def test_real_tiles(shared, name, peak, height):
    path = shared / "data" / "srtm" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    dem = read_dem(path)
    assert dem.filled < 0.01
    north = round(peak[0] + 0.2, 3), round(peak[1] - 0.2, 3)
    north = (
        min(max(north[0], dem.latitude - 0.6), dem.latitude),
        min(max(north[1], dem.longitude), dem.longitude + 0.6),
    )
    grid = Grid(400, 400, latitude_deg=peak[0])
    terrain, origin = dem_terrain(dem, grid, torch.Generator().manual_seed(0), origin=north)
    row, column = round((origin[0] - peak[0]) / 0.001), round((peak[1] - origin[1]) / 0.001)
    around = terrain.elevation[row - 8 : row + 9, column - 8 : column + 9]
    # SRTM cuts sharp summits by some tens of metres.
    assert height - 90 < float(around.max()) < height + 20
    nearest = min(np.hypot(v.row - row, v.column - column) for v in terrain.volcanoes)
    assert nearest < 15
