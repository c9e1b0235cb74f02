"""Why a cloud is not used. The node drops such a cloud, counts it by reason and says so."""

from typing import Literal, get_args

from pd_edge.errors import PdEdgeError

Reason = Literal["malformed", "empty", "intensity", "stale", "no_transform", "failed"]
REASONS: tuple[Reason, ...] = get_args(Reason)
MEANINGS: dict[Reason, str] = {
    "malformed": "fields, sizes or bytes that are no PointCloud2 with x, y and z",
    "empty": "no point, or none but NaN and missing returns",
    "intensity": "intensities that fit no known range, or exceed the sensor's",
    "stale": "older than max_age",
    "no_transform": "target_frame could not be reached through tf2",
    "failed": "the network put out NaN or infinity",
}


class RefusedError(PdEdgeError):
    """A cloud that is not used."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
