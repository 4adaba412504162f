import torch
from PIL import Image

from realgen.data.image_files import find_images
from realgen.data.probe_images import prepare
from realgen.functional.images import jpeg_round_trip
from realgen.functional.network_input import NetworkInput, to_network_input

WANTED = NetworkInput((16, 16), (0.5,) * 3, (0.5,) * 3)


def test_images_of_many_sizes_make_one_batch_and_broken_files_are_named(tmp_path):
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((16, 16), (20, 40))]
    for name, image in zip("ac", images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    files = find_images([tmp_path], argument="--real")
    rows, pixels, broken = prepare(WANTED, {files[2].path: 60}, [(row, file.path) for row, file in enumerate(files)])
    assert rows == [0, 2]
    first, last = images[0][None] / 255, jpeg_round_trip(images[1][None] / 255, 60)
    torch.testing.assert_close(pixels, torch.cat([to_network_input(part, WANTED) for part in (first, last)]))
    assert len(broken) == 1
    assert broken[0].startswith(f"{tmp_path / 'b.png'}: the image cannot be decoded")


def test_nothing_readable(tmp_path):
    (tmp_path / "b.png").write_text("no image")
    rows, pixels, broken = prepare(WANTED, {}, [(0, tmp_path / "b.png")])
    assert (rows, pixels, len(broken)) == ([], None, 1)
