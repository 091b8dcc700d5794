"""A folder of pictures: levels, classes, sizes, and every picture that is refused by its name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.data.loading import load

Image = pytest.importorskip("PIL.Image")

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (12, 6, 5), dtype=np.uint8)
COLOUR = RANDOM.randint(0, 256, (12, 6, 5, 3), dtype=np.uint8)


def write(folder, images, suffix=".png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:02d}{suffix}", **options)


def whole(splits):
    """All data of three splits, in the order in which they were before."""
    order = np.random.RandomState(0).permutation(sum(map(len, (splits.train, splits.valid, splits.test))))
    stored = torch.cat([part.values for part in (splits.train, splits.valid, splits.test)]).numpy()
    return stored[np.argsort(order)]


class TestPictures:
    def test_grey_png_files_come_back_to_the_bit(self, tmp_path):
        write(tmp_path / "faces", GREY)
        (tmp_path / "faces" / ".hidden.png").write_bytes(b"")
        (tmp_path / "faces" / "README.txt").write_text("twelve faces")
        splits = load(tmp_path / "faces")
        np.testing.assert_array_equal(whole(splits), GREY)
        assert (splits.name, splits.classes, splits.train.labels) == ("faces", None, None)
        assert (splits.train.levels, splits.train.binarize) == (255, None)
        assert torch.equal(splits.train[0], splits.train.values[0] / 255)
        assert torch.equal(load(str(tmp_path / "faces"), binarize="threshold").test[:], (splits.test[:] > 0.5).float())

    def test_colours_are_channels_first_and_a_grey_picture_among_them_has_three_alike(self, tmp_path):
        write(tmp_path, COLOUR)
        Image.fromarray(GREY[3]).save(tmp_path / "03.png")
        expected = COLOUR.copy()
        expected[3] = GREY[3][..., None]
        np.testing.assert_array_equal(whole(load(tmp_path)), expected.transpose(0, 3, 1, 2))

    def test_a_palette_of_greys_is_grey(self, tmp_path):
        places = GREY % 7  # of a palette of 7 greys and a red that no picture has but one
        greys = np.array([250, 3, 77, 130, 0, 255, 40], dtype=np.uint8)
        for folder, last in (("grey", 6), ("red", 7)):
            (tmp_path / folder).mkdir()
            for index, image in enumerate(places):
                picture = Image.fromarray(np.where(index == 5, image.clip(last, last), image).astype(np.uint8))
                picture.putpalette([*np.repeat(greys, 3).tolist(), 255, 0, 0])
                picture.save(tmp_path / folder / f"{index:02d}.png")
            with Image.open(tmp_path / folder / "00.png") as picture:
                assert picture.mode == "P"
        expected = greys[places]
        expected[5] = 40
        np.testing.assert_array_equal(whole(load(tmp_path / "grey")), expected)
        assert load(tmp_path / "red").data_shape == (3, 6, 5)

    def test_jpeg(self, tmp_path):
        smooth = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None] * 4, (12, 48, 64))
        write(tmp_path, smooth, ".JPG", quality=95)
        assert np.abs(whole(load(tmp_path)).astype(int) - smooth).max() <= 4  # JPEG rounds

    def test_they_are_turned_as_the_camera_was_held(self, tmp_path):
        write(tmp_path, GREY)
        exif = Image.Exif()
        exif[0x0112] = 6  # the picture is to be turned by 90 degrees to the right
        Image.fromarray(np.rot90(GREY[2])).save(tmp_path / "02.png", exif=exif)
        np.testing.assert_array_equal(whole(load(tmp_path)), GREY)

    def test_subfolders_are_classes_in_the_order_of_their_names(self, tmp_path):
        write(tmp_path / "dog", GREY[:5])
        write(tmp_path / "cat" / "indoors", GREY[5:])
        splits = load(tmp_path)
        assert splits.classes == ("cat", "dog")
        np.testing.assert_array_equal(whole(splits), np.concatenate([GREY[5:], GREY[:5]]))
        for part in (splits.train, splits.valid, splits.test):
            for image, label in zip(part.values.numpy(), part.labels, strict=True):
                assert any(np.array_equal(image, each) for each in (GREY[5:], GREY[:5])[label])

    def test_a_seed_gives_the_same_split(self, tmp_path):
        write(tmp_path, GREY)
        assert torch.equal(load(tmp_path, seed=4).train.values, load(tmp_path, seed=4).train.values)
        assert not torch.equal(load(tmp_path, seed=4).train.values, load(tmp_path).train.values)

    @pytest.mark.parametrize(("size", "shape"), [((3, 4), (3, 4)), (4, (4, 4)), ([4], None), ((6, 5), (6, 5))])
    def test_they_are_resized(self, size, shape, tmp_path):
        write(tmp_path, COLOUR)
        if shape is None:
            with pytest.raises(ValueError, match=r"^size: found \[4\], expected a height and a width, or one number"):
                load(tmp_path, size=size)
            return
        found = whole(load(tmp_path, size=size))
        for image, expected in zip(found, COLOUR, strict=True):
            resized = Image.fromarray(expected).resize(shape[::-1], Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image, np.asarray(resized).transpose(2, 0, 1))

    def test_a_program_trains_on_them(self, tmp_path):
        write(tmp_path, GREY)
        vae = pyro_vae.VAE((6, 5), 2, (4,), "gaussian")
        history = pyro_vae.fit(vae.model, vae.guide, load(tmp_path), num_epochs=1, batch_size=5, progress=False)
        assert len(history.records) == 1


class TestRefused:
    def test_several_sizes_are_named_and_may_be_resized(self, tmp_path):
        write(tmp_path, GREY)
        Image.fromarray(GREY[0, :4]).save(tmp_path / "07.png")
        message = rf"^{tmp_path}: found pictures of 2 sizes, height x width 6 x 5 \(11, such as 00.png\), 4 x 5 \(1, "
        with pytest.raises(ValueError, match=message + r"such as 07.png\), expected one; size=\(height, width\)"):
            load(tmp_path)
        assert load(tmp_path, size=(6, 5)).data_shape == (6, 5)

    def test_a_picture_that_cannot_be_read(self, tmp_path):
        write(tmp_path, GREY)
        for content in (b"no picture", (tmp_path / "01.png").read_bytes()[:60], b"\x89PNG\r\n\x1a\n" + bytes(99)):
            (tmp_path / "05.png").write_bytes(content)
            with pytest.raises(
                ValueError, match=r"05.png: found a picture that cannot be read \(.*\), expected a whole"
            ):
                load(tmp_path)

    def test_transparent_pixels_unless_they_are_opaque(self, tmp_path):
        opaque = np.concatenate([COLOUR, np.full((12, 6, 5, 1), 255, np.uint8)], -1)
        write(tmp_path, opaque)
        np.testing.assert_array_equal(whole(load(tmp_path)), COLOUR.transpose(0, 3, 1, 2))
        opaque[4, 0, 0, 3] = 9
        write(tmp_path, opaque)
        with pytest.raises(ValueError, match=r"04.png: found a picture with transparent pixels, expected none; paste"):
            load(tmp_path)

    def test_more_than_eight_bits(self, tmp_path):
        write(tmp_path, GREY.astype(np.uint16))
        with pytest.raises(ValueError, match=r"00.png: found a picture of more than 8 bits \(mode I"):
            load(tmp_path)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ((), r"found a folder without a picture \(no file\), expected pictures .png, .jpg, .jpeg$"),
            (("a.txt", "b"), r"found a folder without a picture \(.txt, no suffix\), expected pictures"),
            (("a.png", "b.tif", "c.bmp"), "found pictures .bmp, .tif, expected pictures .png, .jpg, .jpeg: convert"),
            (("a.png", "cat/b.png"), "found pictures beside the subfolders cat, expected all in one folder, or each"),
            (("test/a.png", "train/b.png"), "found the subfolders test, train, expected one of each class: load each"),
        ],
    )
    def test_what_holds_no_pictures_of_one_data_set(self, files, message, tmp_path):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=rf"^{tmp_path}: {message}"):
            load(tmp_path)

    def test_options_of_other_data(self, tmp_path):
        write(tmp_path, GREY)
        with pytest.raises(
            ValueError, match="^labels: found some for the folder .*, expected pictures in the subfolder"
        ):
            load(tmp_path, labels=np.arange(12))
        for option in ({"key": "x"}, {"channels": "last"}):
            (name,) = option
            with pytest.raises(ValueError, match=rf"^{name}: found '.*' for a folder, expected none, since"):
                load(tmp_path, **option)
        with pytest.raises(ValueError, match=r"^size: found \(4, 4\) for an array, expected none, since it"):
            load(GREY, size=4)

    def test_too_few(self, tmp_path):
        write(tmp_path, GREY[:9])
        with pytest.raises(ValueError, match="^data: found 9 of them, expected at least 10 for a split"):
            load(tmp_path)
