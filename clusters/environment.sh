# What every shell on a node of an on-premises cluster needs; ~/.bashrc reads it (onpremises.yaml sees to that).
export PATH="$HOME/crystalframer-environment/bin:$PATH"
export RAY_AUTH_MODE=token  # the token itself is in ~/.ray/auth_token
export RAY_USAGE_STATS_ENABLED=0
export RAY_ADDRESS=auto  # what is typed on a node runs on the cluster
export CRYSTALFRAMER_RUNS=/shared/runs
export CRYSTALFRAMER_DATA=/shared/data
export CRYSTALFRAMER_TRACKING_PORT=5000  # of the MLflow server on the head
