"""Errors: what they say, and that they survive the way between processes."""

import pickle

import pytest

from pd_edge import errors
from pd_edge.errors import MissingExtraError, PdEdgeError


def test_missing_extra_names_the_command_to_run() -> None:
    assert "pip install 'pd-edge[train]'" in str(MissingExtraError("open3d", "train"))


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if isinstance(each, type)])
def test_errors_can_be_sent_to_another_process(kind: type[PdEdgeError]) -> None:
    error = kind("open3d", "train") if kind is MissingExtraError else kind("a.bin: cut short")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made above
    assert type(again) is kind
    assert str(again) == str(error)
