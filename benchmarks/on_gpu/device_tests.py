"""The tests of a room that compute on a device. Each is a line of results as soon as it ends."""

from typing import Any, List

from results import NotInstalled, Results


class _Recorder:
    """A plugin of pytest: takes the tests of a device that have not passed, and writes down what becomes of them."""

    def __init__(self, results: Results, device: str):
        self._results, self._device = results, device
        self.found = 0
        self.failed = False

    def pytest_collection_modifyitems(self, items: List[Any]) -> None:
        of_device = [item for item in items if _device_of(item) == self._device]
        self.found = len(of_device)
        known = self._results.of("tests")
        items[:] = [item for item in of_device if known.get(item.nodeid, {"error": "unknown"})["error"]]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._add(report, 0.0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self._add(report, report.duration)

    def _add(self, report: Any, seconds: float) -> None:
        self.failed |= report.failed
        error = report.longreprtext if report.failed else ""
        self._results.add("tests", report.nodeid, error, outcome=report.outcome, seconds=seconds)


def _device_of(item: Any) -> Any:
    return item.callspec.params.get("device") if hasattr(item, "callspec") else None


def run(results: Results, device: str, path: str) -> bool:
    """Run the tests of a path; return whether all passed, now or before."""
    with results.keeping_errors("tests", path):
        try:
            import hypothesis  # noqa: F401
            import pytest
        except ImportError as e:
            raise NotInstalled(f"{e.name} is not installed. Fix: pip install pytest hypothesis") from None
        recorder = _Recorder(results, device)
        pytest.main([path, "-q", "--tb=short", "-p", "no:cacheprovider"], plugins=[recorder])
        if not recorder.found:
            raise RuntimeError(f"{path} has no test of {device}: see log.txt")
        return not recorder.failed
    return False
