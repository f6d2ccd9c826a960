"""Trials on a Ray cluster. The only package that imports Ray.

Importing it sets the environment variables that Ray reads when it is imported.
"""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tasks without a GPU request still see the GPUs, and Ray does not warn about it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "10")  # at a wrong address; Ray's default is 30
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # its default loggers write each result three times
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # tune.py handles Ctrl-C
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"  # studies resume from the trial store
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
