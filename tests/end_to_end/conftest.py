"""A browser for each test that asks for one, and the site, built once for all of them."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def browser(tmp_path, request):
    """A Chromium of its own; `@pytest.mark.parametrize("browser", [flags], indirect=True)` gives it other flags."""
    import browser_tools

    with browser_tools.chromium(tmp_path / "profile", getattr(request, "param", browser_tools.WEBGL)) as driver:
        yield driver
        browser_tools.picture(driver, f"end_of_{request.node.originalname}")  # of a failure it often says all


@pytest.fixture(scope="session")
def theatre_built(shared) -> str:
    """Why there is no theatre, or nothing."""
    import browser_tools
    from filelock import FileLock

    with FileLock(shared / "theatre.lock"):
        return browser_tools.build_theatre()


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder that all workers of a test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def site_folder(shared, theatre_built) -> Path:
    """The site, once for all workers."""
    pytest.importorskip("myst_nb", reason="Sphinx builds the site: pip install -e '.[site]'")
    import browser_tools
    from filelock import FileLock

    folder = shared / "site"
    with FileLock(shared / "site.lock"):
        if not folder.exists():
            browser_tools.build_site(folder, shared)
    return folder


@pytest.fixture
def site(site_folder):
    """The address under which the site is served."""
    import browser_tools

    with browser_tools.serve(site_folder) as address:
        yield address
