"""Why a cloud is not used. The node drops such a cloud, counts it by reason and says so."""

from typing import Literal, get_args

from pd_edge.errors import PdEdgeError

Reason = Literal["malformed", "empty", "intensity", "stale", "no_transform", "failed"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class RefusedError(PdEdgeError):
    """A cloud that is not used."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
