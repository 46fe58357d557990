"""What is told of a data set: copies between splits, equal images, classes of unequal sizes."""

import pytest
import torch

from runner.data import Source, Split, digits, image_folder, split_source
from runner.data.remarks import KEY, find_remarks
from tests.faults.images import make_folder, picture, write

SIDE = 20  # pixels: three channels of it are more than are hashed at first


def random(count, seed):
    generator = torch.Generator().manual_seed(seed)
    assert 3 * SIDE**2 > KEY
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=generator).to(torch.uint8)


def remarks(train, test, **others):
    splits = {
        name: Split(images, torch.arange(len(images)) % 2)
        for name, images in {"train": train, "test": test, **others}.items()
    }
    return [*find_remarks(splits.pop("train"), splits, ("cat", "dog"), ())]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_copies_of_training_images_are_counted_in_each_split(dtype):
    train, test, validation = (random(n, n) for n in (30, 20, 10))

    def found():
        return remarks(train.to(dtype), test.to(dtype), validation=validation.to(dtype))

    assert found() == []
    test[[3, 7, 8]], validation[9] = train[[1, 20, 20]], train[0]
    assert found() == [
        "3 of the 20 test images are copies of training images, which raises the test accuracy",
        "1 of the 10 validation images is a copy of a training image, which raises the validation "
        "accuracy",
    ]


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 10, 10), (2, -1, -1)])
def test_one_level_of_one_pixel_anywhere_is_a_difference(place):
    train, test = random(30, 0), random(20, 1)
    test[5] = train[5]
    test[5][place] ^= 1
    assert remarks(train, test) == []


def test_copies_in_files_are_named_two_of_them(tmp_path):
    root = make_folder(tmp_path / "images")
    for n, seed in enumerate((2, 1, 2)):  # pictures of training images
        write(root, f"test/dog/copy{n}.png", picture(seed))
    data = split_source(image_folder(root=str(root), cache=str(tmp_path)), 0, seed=0)
    assert data.notes == (
        "3 of the 5 test images are copies of training images, which raises the test accuracy: "
        "test/dog/copy0.png is train/dog/a.png, test/dog/copy1.png is train/cat/b.png",
    )


def test_training_images_that_are_all_equal_are_told():
    train = random(1, 0).repeat(30, 1, 1, 1)
    told = "all 30 training images are equal, so nothing can be learnt from them"
    assert remarks(train, random(5, 1)) == [told]
    train[7, 0, 0, 0] ^= 1
    assert remarks(train, random(5, 1)) == []


def test_classes_of_unequal_sizes_are_told_from_ten_to_one_on():
    def notes(small):
        labels = torch.tensor([0] * 40 + [1] * small)
        train = Split(random(len(labels), 0), labels)
        test = Split(random(8, 1), torch.tensor([0, 0, 0, 1, 0, 0, 0, 0]))
        return split_source(Source(train, test, ("cat", "dog")), 0, seed=0).notes

    assert notes(5) == ()
    assert notes(4) == (
        "the classes are unequal: 40 training images of cat, 4 of dog. Guessing cat every time "
        "gets 87.5 % of the test images right. metrics=[balanced_accuracy] counts the classes "
        "alike; loss.class_weights=balanced or data.sampling=balanced trains on them alike",
    )


def test_there_is_nothing_to_say_of_the_digits():
    assert split_source(digits(), 0.1, seed=0).notes == ()
