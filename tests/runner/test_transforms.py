"""Transforms by name: what may be named, what each image draws, and what else does not move."""

import sys

import pytest
import torch

from runner import allowed
from runner.data import Augmentation, Batches, Split
from runner.data.augmentation import transform
from runner.errors import UserError
from runner.transforms import MODULE, OFFERED, build_transforms, check_transforms
from tests.conftest import biscuits, few, settings

PLAIN = (torch.zeros(3), torch.full((3,), 1 / 255))  # under these, the inputs are the pixels
NEEDED = {
    "RandomRotation": {"degrees": 10},
    "RandomAffine": {"degrees": 10},
    "RandomPosterize": {"bits": 3},
    "RandomSolarize": {"threshold": 100},
    "RandomAdjustSharpness": {"sharpness_factor": 2},
    "GaussianBlur": {"kernel_size": 3},
    "RandomApply": {"transforms": ["RandAugment"]},
    "RandomChoice": {"transforms": ["RandomCrop", {"ColorJitter": {"hue": 0.1}}]},
    "RandomOrder": {"transforms": ["RandomInvert", "AugMix"]},
}
JITTER = {"ColorJitter": {"brightness": 0.5, "hue": 0.3}}


class Brighter:
    """Add a number to all pixels."""

    def __init__(self, by: int, most: int = 0):
        self.by, self.most = by, most

    def __call__(self, image):
        return image + self.by + (torch.randint(self.most, ()) if self.most else 0)


def halved(image, by: int = 2):
    return image // by


def in_place(image):
    return image.add_(torch.randint(9, (), dtype=torch.uint8))


def cropped(image):
    return image[:, 1:]


def real(image):
    return image / 255


def sometimes(image):
    return image[:, 1:] if torch.rand(1) < 0.001 else image


def nothing(_):
    return None


def foreign(image):
    return image + len(TOLD.append(0) or TOLD) % 7  # another number at each call


TOLD = []


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    names = ("Brighter", "halved", "in_place", "cropped", "real", "nothing", "foreign")
    monkeypatch.setattr(allowed, "USERS", {f"{__name__}.{name}" for name in names})


def mine(name, **keywords):
    return {f"{__name__}.{name}": keywords or None}


def photographs(count=40, shape=(3, 32, 32), dtype=torch.uint8):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, *shape), generator=generator).to(dtype)
    return Split(images, torch.arange(count))


def batches(*transforms, size=8, seed=5, **more):
    split = more.pop("split", None) or photographs()
    built = build_transforms(transforms, split.images[0])
    return Batches(split, size, *PLAIN, seed=seed, shuffle=True, transforms=built, **more)


def pictures(made, epoch=0, start=0):
    return torch.cat([batch.inputs for batch in made.epoch(epoch, start)])


@pytest.mark.parametrize("name", OFFERED)
def test_each_that_is_offered_takes_photographs(name):
    entry = {name: NEEDED.get(name)}
    check_transforms({"transforms": [entry]})
    (built,) = build_transforms([entry], photographs().images[0])
    assert type(built).__module__.startswith(MODULE)


def test_each_image_has_draws_of_its_own_in_each_epoch():
    image = photographs(1)
    split = Split(image.images.expand(32, -1, -1, -1), torch.zeros(32, dtype=torch.int64))
    made = batches(JITTER, "RandomResizedCrop", size=32, split=split)
    one, other = pictures(made), pictures(made, epoch=1)
    assert len(torch.cat([one, other]).unique(dim=0)) == 64
    assert not torch.equal(one, pictures(batches(JITTER, size=32, split=split, seed=6)))


def test_a_batch_depends_on_seed_epoch_and_place_alone_also_in_mid_epoch():
    before = torch.get_rng_state()
    whole = pictures(batches(JITTER, "RandomResizedCrop"), epoch=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(whole[16:], pictures(batches(JITTER, "RandomResizedCrop"), 3, start=2))
    other = batches(JITTER, "RandomResizedCrop", size=20)  # nor on what else is in the batch
    assert torch.equal(whole, pictures(other, epoch=3))


def test_neither_the_order_nor_the_other_draws_move():
    augmented = Augmentation(crop=4, flip=True)
    plain = Batches(photographs(), 8, *PLAIN, augmented, 5, shuffle=True)
    made = batches(mine("Brighter", by=3, most=2), augmentation=augmented)
    for one, other in zip(plain.epoch(1), made.epoch(1), strict=True):
        assert torch.equal(one.targets, other.targets)
        added = (other.inputs - one.inputs).round() % 256
        assert set(added.unique().tolist()) == {3, 4}  # in the black border too: after the crop
        assert (added == added[:, :1, :1, :1]).all()  # one draw an image


def test_they_are_applied_in_their_order_before_the_cutout():
    split = Split(torch.full((40, 3, 6, 6), 100, dtype=torch.uint8), torch.arange(40))
    chain = (mine("Brighter", by=10), mine("halved"), mine("halved", by=5))
    made = batches(*chain, split=split, augmentation=Augmentation(cutout=2))
    assert set(pictures(made).round().unique().tolist()) == {0, 11}  # (100 + 10) // 2 // 5


def test_the_images_of_the_split_stay_as_they_are():
    split = photographs()
    kept = split.images.clone()

    def blacken(image):
        return image.zero_()

    assert not transform(split.images_of(torch.arange(4)), (blacken,), range(4)).any()
    assert torch.equal(split.images, kept)


def test_one_that_works_in_place_is_taken():
    split = photographs()
    assert torch.equal(pictures(batches(mine("in_place"))), pictures(batches(mine("in_place"))))
    build_transforms([mine("in_place")], image := split.images[0].clone())
    assert torch.equal(image, split.images[0])


NEEDS = ["data.augment.transforms[0]: RandomRotation needs degrees", "degrees: VALUE}}."]
MISTAKES = {
    "{RandomRotatoin: {degrees: 10}}": ["[0]: RandomRotatoin is none of", "Did you mean RandomRot"],
    "RandomZoomOut": ["[0]: RandomZoomOut is none of torchvision's transforms that keep size"],
    "{ColorJitter: {brightnes: 1}}": ["[0].brightnes is not a parameter of ColorJitter. Did you"],
    "RandomInvert, {RandomResizedCrop: {size: 3}}": ["[1].size is not a parameter of RandomResize"],
    "RandomRotation": NEEDS,
    "{RandomApply: {transforms: [RandomRotation]}}": ["[0].transforms[0]: RandomRotation needs"],
    "{RandomApply: {transforms: RandomCrop}}": ["[0].transforms must be a list of one or"],
    "{A: {}, B: {}}": ["[0] must be a transform, as RandomResizedCrop or {RandomRotation: {"],
    "3": ["transforms[0] must be a transform, as", "got 3."],
    "{RandomCrop: [1]}": ["[0] must be a transform, as"],
    "{}": ["[0] must be a transform, as"],
    "os.system": ["transforms[0] must be of torchvision.transforms.v2, got os.system. "],
    f"{{{MODULE}.ToTensor: null}}": ["[0] names ToTensor, which torchvision.transforms.v2 does"],
    f"{{{__name__}.Brighter: {{bye: 1}}}}": [".bye is not a parameter of tests.runner.test_trans"],
    f"{{{__name__}.halved: {{image: 1}}}}": [".image is not a parameter of tests.runner.test_tran"],
}


QUICK = (
    *("{RandomRotatoin: {degrees: 10}}", "RandomInvert, {RandomResizedCrop: {size: 3}}"),
    *("{RandomApply: {transforms: [RandomRotation]}}", "{A: {}, B: {}}", "{RandomCrop: [1]}"),
    f"{{{__name__}.Brighter: {{bye: 1}}}}",
)


@pytest.mark.parametrize("entry", few(MISTAKES, QUICK))
def test_a_mistake_in_a_name_or_a_keyword_is_a_line_when_the_config_is_read(entry):
    with pytest.raises(UserError) as refusal:
        settings(f"data.augment.transforms=[{entry}]")
    for part in MISTAKES[entry]:
        assert part in str(refusal.value)


UNFIT = {
    "a parameter": (
        {"ColorJitter": {"hue": 3}},
        photographs(),
        "[0]: ColorJitter: hue values",
    ),
    "a word": (
        {"AutoAugment": {"policy": "x"}},
        photographs(),
        "'x' is not a valid AutoAugment",
    ),
    "growing": (
        {"RandomRotation": {"degrees": [9, 10], "expand": True}},
        photographs(),
        "[0]: RandomRotation must give back an image as it gets it, uint8 [3, 32, 32], got uint8",
    ),
    "smaller": (mine("cropped"), photographs(), "cropped must give back an image as it gets it"),
    "real": (mine("real"), photographs(), "uint8 [3, 32, 32], got float32 [3, 32, 32]."),
    "nothing": (mine("nothing"), photographs(), "got NoneType."),
    "foreign": (mine("foreign"), photographs(), "gives other images for the same seed."),
    "bands": (
        "RandAugment",
        photographs(shape=(13, 32, 32)),
        "[0]: RandAugment does not take the images, uint8 [13, 32, 32]: Input image tensor",
    ),
    "16 bits": (
        {"RandomSolarize": {"threshold": 9, "p": 0.3}},
        photographs(dtype=torch.uint16),
        "[0]: RandomSolarize does not take the images, uint16 [3, 32, 32]: ",
    ),
    "small": (
        "ElasticTransform",
        photographs(shape=(3, 8, 8)),
        "does not take the images, uint8",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_the_images_is_refused_before_the_run(what):
    entry, split, told = UNFIT[what]
    with pytest.raises(UserError) as refusal:
        build_transforms([entry], split.images[0])
    assert told in str(refusal.value)


def test_bands_and_16_bits_pass_where_the_transform_takes_them():
    wide = photographs(shape=(13, 32, 32))
    assert build_transforms([{"RandomRotation": {"degrees": 9}}], wide.images[0])
    deep = photographs(dtype=torch.uint16)
    assert build_transforms(["RandomHorizontalFlip", "RandomResizedCrop"], deep.images[0])


def test_one_that_changes_the_shape_now_and_then_ends_with_its_name():
    with pytest.raises(UserError, match=r"^sometimes must give back an image as it gets it, uint8"):
        transform(torch.zeros(5000, 1, 2, 2, dtype=torch.uint8), (sometimes,), range(5000))


@pytest.mark.slow  # a process of its own, for what it has imported
def test_torchvision_is_imported_where_a_transform_is_named_and_not_before(tmp_path):
    code = (
        "import sys; from runner.__main__ import main\n"
        "sys.argv = ['biscuits', *{arguments}]; main()\n"
        "assert ('torchvision' in sys.modules) == {expected}"
    )
    for arguments, expected in (
        (("threads=1", "epochs=1", "name=off"), False),
        (("threads=1", "epochs=1", "data.augment.transforms=[RandomInvert]"), True),
    ):
        (tmp_path / "command.py").write_text(code.format(arguments=arguments, expected=expected))
        code_, _, complaint = biscuits(tmp_path, module="command", PYTHONPATH=":".join(sys.path))
        assert code_ == 0, complaint
