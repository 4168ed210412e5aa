import torch

from involution.data.registry import Options, open_data


def sizes(data):
    return [len(part) for part in data.parts.values()]


def test_digits_are_split_for_good_and_in_proportion():
    data = open_data("classify", "digits")
    assert sizes(data) == [1077, 360, 360]
    image, label = data.train[0]
    assert image.shape == (1, 8, 8)
    assert image.dtype == torch.uint8
    assert isinstance(label, int)
    assert max(int(image.max()) for image, _ in data.test) == 255
    for part in (data.train, data.val, data.test):
        counts = torch.bincount(part.labels, minlength=10)
        assert int(counts.max() - counts.min()) <= len(part) // 90 + 1
    # the parts hold each of the 1,797 digits once
    rows = torch.cat([part.images.flatten(1) for part in (data.train, data.val, data.test)]).sort(0).values
    everything = open_data("classify", "digits", Options(split_seed=1))
    other = torch.cat([p.images.flatten(1) for p in (everything.train, everything.val, everything.test)])
    assert torch.equal(rows, other.sort(0).values)
    assert not torch.equal(data.test.images, everything.test.images)
    assert torch.equal(data.test.images, open_data("classify", "digits").test.images)
