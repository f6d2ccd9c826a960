"""Trials on a cluster. The only place that knows Ray.

Importing this package sets what Ray reads from the environment when it is itself imported.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A task without a GPU sees the GPUs there are, and no warning of it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # they write each result three times over
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C comes to us
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"  # the trial store is what a study is resumed from
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
