"""What the node tells of itself."""

from pd_edge_ros.health import ERROR, OK, WARN, Frame, Health

FRAME = Frame((1.0, 2.0, 30.0, 4.0, 5.0), 0.05, 100, 80, 7, "intensity", 3)


class Steps:
    """A clock that is told the time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_rates_and_counts() -> None:
    clock = Steps()
    health = Health(clock)
    for _ in range(10):
        health.count("received")
    for _ in range(8):
        health.detected(FRAME)
    health.count("dropped")
    health.refused("empty", "nothing there")
    clock.now = 2.0
    report = health.report()
    assert report.level == WARN
    assert report.message == "clouds refused: 1 empty; last: nothing there"
    values = report.values
    assert (values["rate [Hz]"], values["received"], values["detected"], values["dropped"]) == ("4.00", "10", "8", "1")
    assert (values["refused: empty"], values["refused: stale"]) == ("1", "0")
    assert (values["age of input [s]"], values["points"], values["points in range"]) == ("0.050", "100", "80")
    assert (values["points removed"], values["intensity from"], values["boxes"]) == ("7", "intensity", "3")
    clock.now = 3.0
    later = health.report()
    assert (later.level, later.message, later.values["rate [Hz]"]) == (WARN, "no cloud received", "0.00")
    assert later.values["received"] == "10"


def test_percentiles_of_stages() -> None:
    health = Health()
    for number in range(101):
        health.detected(FRAME._replace(stages=(float(number), 0.0, 1.0, 0.0, 2.0)))
    values = health.report().values
    found = [values[f"p95 {stage} [ms]"] for stage in ("convert", "encoder", "network", "decode", "publish", "total")]
    assert found == ["95.00", "0.00", "1.00", "0.00", "2.00", "98.00"]


def test_levels() -> None:
    health = Health()
    health.count("received")
    health.detected(FRAME)
    assert health.report()[:2] == (OK, "detecting")
    health.count("received")
    health.refused("malformed", "no x")
    assert health.report()[:2] == (ERROR, "clouds refused: 1 malformed; last: no x")
    for _ in range(3):
        health.count("received")
    health.count("dropped")
    assert health.report()[:2] == (WARN, "1 of 3 clouds dropped: they come faster than they are done")
    health.count("received")
    health.count("unheard")
    assert health.report()[:2] == (OK, "nobody listens: nothing is detected")
    health.count("received")
    health.detected(FRAME._replace(intensity=None))
    assert health.report()[:2] == (WARN, "clouds have no intensity; zeros stand for it")
