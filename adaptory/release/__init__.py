"""A release: one folder that holds all a deployer needs, each file named with its digest in the manifest.

Guarantees: a puller activates only bytes that the promoted manifest names, all of them or none, and keeps
what it served before until then; nothing in a release is executed or unpickled.

Importing this package needs neither torch nor prefect, dvc or mlflow.
"""

from adaptory.release.pull import Pulled, fetch_release, pull, resolve, watch

__all__ = ["Pulled", "fetch_release", "pull", "resolve", "watch"]
