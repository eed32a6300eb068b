"""The tests of a room that compute on a device. Each is a line of results as soon as it ends."""

from importlib.util import find_spec
from typing import Any

from results import NotInstalled, Results


class _Recorder:
    """A plugin of pytest: takes the tests of a device that have not passed, and writes down what becomes of them."""

    def __init__(self, results: Results, device: str):
        self._results, self._device = results, device
        self.found = 0
        self.failed = False

    def pytest_collection_modifyitems(self, items: list) -> None:
        of_device = [item for item in items if _device_of(item) == self._device]
        self.found = len(of_device)
        known = self._results.of("tests")
        items[:] = [item for item in of_device if known.get(item.nodeid, {"error": "unknown"})["error"]]

    def pytest_collectreport(self, report: Any) -> None:
        self.failed |= report.failed
        if report.failed or self._results.of("rooms").get(report.nodeid):  # or did not load before
            self._results.add("rooms", report.nodeid, report.longreprtext if report.failed else "")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.failed |= report.failed
            error = report.longreprtext if report.failed else ""
            self._results.add("tests", report.nodeid, error, outcome=report.outcome, seconds=report.duration)


def _device_of(item: Any) -> Any:
    return item.callspec.params.get("device") if hasattr(item, "callspec") else None


def run(results: Results, device: str, path: str) -> bool:
    """Run the tests of a path; return whether all passed, now or before."""
    with results.keeping_errors("rooms", path):
        if missing := [name for name in ("pytest", "hypothesis") if find_spec(name) is None]:
            raise NotInstalled(f"{missing[0]} is not installed. Fix: pip install pytest hypothesis")
        import pytest

        recorder = _Recorder(results, device)
        pytest.main(
            [path, "-q", "--tb=short", "--continue-on-collection-errors", "-p", "no:cacheprovider"], plugins=[recorder]
        )
        if not recorder.found:
            raise RuntimeError(f"{path} has no test of {device}: see log.txt")
        results.add("rooms", path)
        return not recorder.failed
    return False
