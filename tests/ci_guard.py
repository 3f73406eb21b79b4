"""A pytest plugin (`-p tests.ci_guard`): with CI=true, a skip is a failure, save for tests marked gpu."""

import os

import pytest


def _refuse_skip(report):
    report.outcome = "failed"
    report.longrepr = f"with CI=true only tests marked gpu may skip; this one did: {report.longrepr}"


def _must_run():
    return os.environ.get("CI") == "true"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if _must_run() and report.skipped and not expected_failure and not item.get_closest_marker("gpu"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    report = yield
    if _must_run() and report.skipped:
        _refuse_skip(report)
    return report
