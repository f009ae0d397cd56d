#!/usr/bin/env bash
# Trains a preset on every host of a Cloud TPU slice. Run it where `gcloud` is logged in; run it again to go on after a pre-emption.
#   TPU=my-slice ZONE=us-east5-b DATA=/mnt/data/potsdam RUN=/mnt/runs/potsdam experiments/cluster/tpu_vm.sh experiments/potsdam_pvt_v2_b2.py
# DATA is a folder that every host sees (Filestore, Lustre, or a bucket that is mounted). RUN is one too, or a folder of each host's own if the run is kept
# in a bucket: give --storage gs://BUCKET/RUN after the preset. The project lies in ~/sgma_jax on each host.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?its zone}" "${DATA:?folder of the converted set}" "${RUN:?folder of the run}"
preset="${1:?preset, such as experiments/potsdam_pvt_v2_b2.py}"
shift

gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "
    set -e
    cd ~/sgma_jax
    test -x .venv/bin/sgma || { python3 -m venv .venv && .venv/bin/pip install --quiet -e '.[cloud]' 'jax[tpu]'; }
    # Flags after the preset are handed on; one process a host, which JAX finds by the slice's metadata.
    exec .venv/bin/sgma train $preset --data.path $DATA --workdir $RUN --distributed $*
"
