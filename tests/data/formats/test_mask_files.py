"""Label maps in colours, with palettes, and in files of many kinds."""

import struct
import zlib

import numpy as np
import PIL.features
import PIL.Image
import pytest
from mask_folders import binary, open_root, save

from involution.data.errors import DataError

COLOURS = {
    "classes.txt": ("background 0 0 0\nroad 128 64 128\n", ["background", "road"]),
    "labelmap.txt": ("background:0,0,0::\nroad:128,64,128::\n", ["background", "road"]),
    "label_colors.txt": ("0 0 0\tback ground\n128 64 128\troad\n", ["back ground", "road"]),
}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_maps_in_colour(tmp_path, name, mode):
    text, classes = COLOURS[name]
    (tmp_path / name).write_text(text)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = (128, 64, 128)
    for split in ("train", "val"):
        save(tmp_path / split / "a.jpg", pixels)
        if mode == "P":
            places = PIL.Image.fromarray((pixels[..., 0] > 0).astype(np.uint8) + 3)
            places.putpalette([9] * 9 + [0, 0, 0, 128, 64, 128])
            (tmp_path / "labels" / split).mkdir(parents=True)
            places.save(tmp_path / "labels" / split / "a.png")
        else:
            save(tmp_path / "labels" / split / "a.png", pixels, mode)
    data = open_root(tmp_path)
    assert data.classes == classes
    assert (data.train[0][1][:, 4:] == 1).all()
    assert (data.train[0][1][:, :4] == 0).all()
    told = "train: label maps with an alpha channel, which is not read: 1 (a.png)"
    assert (told in data.findings.notes) == (mode == "RGBA")
    pixels[0, 0] = (1, 2, 3)
    save(tmp_path / "labels" / "train" / "a.png", pixels)
    with pytest.raises(DataError, match=r"1 colours are no class's, such as \(1, 2, 3\)"):
        open_root(tmp_path)


def test_a_map_saved_as_jpeg_says_why(tmp_path):
    binary(tmp_path, [0, 1])
    (tmp_path / "labels" / "train" / "a.png").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    file = tmp_path / "labels" / "train" / "a.jpg"
    save(file, noise)
    with pytest.raises(DataError, match="saved as JPEG, which changes values; save it as PNG"):
        open_root(tmp_path)
    image = PIL.Image.fromarray(noise)
    image.save(file, format="MPO", save_all=True, append_images=[image])
    with pytest.raises(DataError, match="saved as JPEG, which changes values; save it as PNG"):
        open_root(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "options", "said"),
    [
        (".tif", {"compression": "jpeg", "quality": 75}, "TIFF with JPEG's compression"),
        (".jp2", {"irreversible": True, "quality_layers": [20]}, "JPEG 2000 with loss"),
        (".webp", {"quality": 80}, "WebP with loss"),
        # behind a profile
        (".webp", {"quality": 80, "icc_profile": bytes(9001)}, "WebP with loss"),
        (".tif", {"compression": "tiff_lzw"}, ""),
        (".jp2", {}, ""),
    ],
)
def test_other_files_that_do_not_keep_values(tmp_path, suffix, options, said):
    if suffix in (".jp2", ".webp") and not PIL.features.check({".jp2": "jpg_2000", ".webp": "webp"}[suffix]):
        pytest.skip(f"the image library has no {suffix}")
    binary(tmp_path, [0, 1])
    (tmp_path / "labels" / "train" / "a.png").unlink()
    stripes = np.resize(np.array([0, 1], np.uint8), (8, 8))
    PIL.Image.fromarray(stripes).save(tmp_path / "labels" / "train" / f"a{suffix}", **options)
    if said:
        with pytest.raises(DataError, match=f"a label map saved as {said}, which changes values; save it as PNG"):
            open_root(tmp_path)
    else:
        assert open_root(tmp_path).train[0][1].tolist() == stripes.tolist()


@pytest.mark.skipif(not PIL.features.check("avif"), reason="the image library has no AVIF")
def test_what_may_have_changed_is_taken_where_its_colours_tell(tmp_path):
    binary(tmp_path, [0, 1])
    (tmp_path / "labels" / "train" / "a.png").unlink()
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    PIL.Image.fromarray(pixels).save(tmp_path / "labels" / "train" / "a.avif", quality=100, subsampling="4:4:4")
    with pytest.raises(DataError, match="a label map saved as AVIF, which may change values; save it as PNG"):
        open_root(tmp_path)
    save(tmp_path / "labels" / "val" / "a.png", pixels)
    (tmp_path / "classes.txt").write_text("dark 0 0 0\nlight 255 255 255\n")
    assert open_root(tmp_path).train[0][1][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_webp_without_loss_keeps_values(tmp_path):
    (tmp_path / "classes.txt").write_text("background 0 0 0\nroad 128 64 128\n")
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = (128, 64, 128)
    for split in ("train", "val"):
        save(tmp_path / split / "a.jpg", pixels)
        (tmp_path / "labels" / split).mkdir(parents=True)
        PIL.Image.fromarray(pixels).save(tmp_path / "labels" / split / "a.webp", lossless=True)
    assert (open_root(tmp_path).train[0][1][:, 4:] == 1).all()


def test_an_ignored_zero_is_no_hint_for_a_class(tmp_path):
    binary(tmp_path, [0, 1], "background\nlesion\n")
    with pytest.raises(
        DataError, match=r"background occurs nowhere; if everything is correct: --data\.allow_empty true"
    ):
        open_root(tmp_path, ignore_index=0)


def test_maps_of_16_bits(tmp_path):
    binary(tmp_path, [0, 1])
    save(tmp_path / "labels" / "train" / "a.png", np.resize(np.array([0, 1], np.uint16), (8, 8)))
    assert open_root(tmp_path).train[0][1].unique().tolist() == [0, 1]
    save(tmp_path / "labels" / "train" / "a.png", np.resize(np.array([0, 999], np.uint16), (8, 8)))
    with pytest.raises(DataError, match="label 999 found"):
        open_root(tmp_path)


def of_few_bits(path, values, bits):
    """A grey PNG of 2 or 4 bits, as small files of label maps have."""
    rows = np.array(values, np.uint8)
    padded = np.unpackbits(rows[..., None], axis=-1)[..., -bits:].reshape(len(rows), -1)
    packed = b"".join(b"\0" + row.tobytes() for row in np.packbits(padded, axis=-1))
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_maps_of_few_bits_keep_their_values(tmp_path):
    # the library spreads them over 0 to 255, where 255 would not count
    values = np.resize(np.arange(4, dtype=np.uint8), (8, 8))
    binary(tmp_path, [0, 1])
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(200))))
    file = tmp_path / "labels" / "train" / "a.png"
    for bits in (2, 4):
        of_few_bits(file, values, bits)
        assert np.array_equal(open_root(tmp_path).train[0][1], values)
    file.unlink()
    for most in (3, 77, 255):
        file.with_suffix(".pgm").write_bytes(b"P5 8 8 %d\n" % most + values.tobytes())
        assert np.array_equal(open_root(tmp_path).train[0][1], values)
    plain = " ".join(map(str, values.ravel()))
    file.with_suffix(".pgm").write_text(f"P2 8 8 3\n{plain}\n")
    assert np.array_equal(open_root(tmp_path).train[0][1], values)


BLACK, RED, GREEN = [0, 0, 0], [255, 0, 0], [0, 255, 0]


def with_palettes(root, maps):
    """Label maps of the values and colours that are given, beside images."""
    for number, (values, colours) in enumerate(maps):
        split = "val" if number == len(maps) - 1 else "train"
        save(root / split / f"{number}.png", np.zeros((4, 6, 3), np.uint8))
        image = PIL.Image.fromarray(np.resize(np.array(values, np.uint8), (4, 6)))
        image.putpalette([part for colour in colours for part in colour])
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        image.save(root / "labels" / split / f"{number}.png")
    (root / "classes.txt").write_text("sky\nroad\ncar\n")


def test_maps_with_palettes_of_their_own_are_refused_where_colours_change_their_value(tmp_path):
    with_palettes(tmp_path, [((0, 1, 2), (BLACK, RED, GREEN)), ((0, 1), (BLACK, GREEN)), ((0, 1), (BLACK, RED))])
    with pytest.raises(DataError, match=r"the value 1 is \(255, 0, 0\) in 0\.png and \(0, 255, 0\) in 1\.png, and one"):
        open_root(tmp_path)
    notes = open_root(tmp_path, allow_empty=True).findings.notes
    assert any(note.endswith("their values are taken, not their colours") for note in notes)


def test_a_colour_that_moved_is_known_in_another_shade(tmp_path):
    shades = [[253, 2, 0], [3, 250, 4]]
    with_palettes(tmp_path, [((0, 1, 2), (BLACK, RED, GREEN)), ((0, 1, 2), (BLACK, shades[1], shades[0]))])
    with pytest.raises(DataError, match=r"palettes of label maps differ.*one colour has several values"):
        open_root(tmp_path)
    assert any("palettes" in note for note in open_root(tmp_path, allow_empty=True).findings.notes)
    with_palettes(tmp_path, [((0, 1, 2), (BLACK, RED, [230, 9, 0])), ((0, 1, 2), (BLACK, shades[0], [231, 9, 0]))])
    assert any("palettes" in note for note in open_root(tmp_path).findings.notes)


def test_palettes_that_differ_in_a_shade_are_told(tmp_path):
    with_palettes(tmp_path, [((0, 1, 2), (BLACK, RED, GREEN)), ((0, 1, 2), (BLACK, [254, 0, 0], GREEN))])
    (note,) = (note for note in open_root(tmp_path).findings.notes if "palettes" in note)
    assert "the value 1 is (255, 0, 0) in 0.png and (254, 0, 0) in 1.png; their values are taken" in note


def test_a_map_saved_as_jpeg_is_refused_where_its_values_are_classes_too(tmp_path):
    binary(tmp_path, [0, 1])
    (tmp_path / "labels" / "train" / "a.png").unlink()
    save(tmp_path / "labels" / "train" / "a.jpg", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg: a label map saved as JPEG, which changes values; save it as PNG"):
        open_root(tmp_path)


def test_values_beside_colours_are_told(tmp_path):
    with_palettes(tmp_path, [((0, 1), (BLACK, RED)), ((0, 1), (BLACK, RED))])
    (tmp_path / "classes.txt").write_text("sky 0 0 0\nroad 255 0 0\n")
    said = "data.values and data.ignore_index do not apply: the list of classes has their colours"
    assert said not in open_root(tmp_path).findings.notes
    assert said in open_root(tmp_path, values={0: "sky", 1: "road"}).findings.notes
    assert said in open_root(tmp_path, ignore_index=0).findings.notes


@pytest.mark.parametrize(("values", "greys"), [((0, 1), (0, 2)), ((0, 1), (2, 0)), ((0, 1), (255, 0))])
def test_greys_that_a_palette_moved_are_refused(tmp_path, values, greys):
    with_palettes(tmp_path, [(values, [[grey] * 3 for grey in greys])] * 2)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    with pytest.raises(DataError, match=r"palettes of the label maps draw the value \d as the grey"):
        open_root(tmp_path)
    assert open_root(tmp_path, allow_empty=True).findings.used == {"train": 1, "val": 1}


def test_black_and_white_of_a_palette_are_its_values(tmp_path):
    with_palettes(tmp_path, [((0, 1), ([0] * 3, [255] * 3))] * 2)
    assert open_root(tmp_path).findings.used == {"train": 1, "val": 1}
