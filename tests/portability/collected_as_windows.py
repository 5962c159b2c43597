"""A plug-in of pytest: ditkit and its tests import what Windows has. The worker processes of tests are as usual."""

import as_windows  # noqa: F401
