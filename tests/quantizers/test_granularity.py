import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_rand.quantizers import PerGroup

pytestmark = pytest.mark.usefixtures("device")

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@given(shapes, st.sampled_from(reference.GRANULARITIES))
def test_groups_are_the_weights_that_share_a_scale(shape, granularity):
    weight = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)
    matrix = granularity.split(weight)
    expected = reference.groups(shape, granularity)
    found = [[int(x) - 1 for x in row if x] for row in matrix]
    assert found == expected
    assert granularity.groups(weight) == len(expected)
    members = torch.as_tensor(granularity.members(weight)).expand(len(expected), 1)
    assert members.flatten().tolist() == [len(group) for group in expected]


@given(shapes, st.sampled_from(reference.GRANULARITIES))
def test_join_undoes_split(shape, granularity):
    weight = torch.rand(shape)
    assert torch.equal(granularity.join(granularity.split(weight), weight.shape), weight)


def test_weights_that_are_not_contiguous():
    weight = torch.arange(24.0).reshape(4, 6).T
    granularity = PerGroup(3)
    assert granularity.split(weight)[0].tolist() == [0, 6, 12]
    assert torch.equal(granularity.join(granularity.split(weight), weight.shape), weight)


@pytest.mark.parametrize("granularity", reference.GRANULARITIES, ids=str)
def test_gradients_pass_through(granularity):
    weight = torch.rand(3, 7, requires_grad=True)
    (granularity.join(granularity.split(weight) * 2, weight.shape)).sum().backward()
    assert torch.equal(weight.grad, torch.full((3, 7), 2.0))
