#!/bin/bash
# Train on one machine or several, and go on after a process or a machine has died. The same command on each machine:
#
#     bash train.sh
#     NODES=2 HOST=first-machine RUN=rednet50 bash train.sh --epochs 90
#
# NODES  machines; 2:4 for two to four of them, which may come and go
# GPUS   processes on each of them
# HOST   the machine where they meet, reachable from all
# PORT   a free port there
# RUN    a name that the machines of this run have in common, and no other run has
#
# When a process dies, torchrun ends the others and starts all anew, up to --max-restarts times; --resume auto goes on
# from the last checkpoint, so --trainer.checkpoint_every says how much is done again. SIGTERM and Ctrl-C are passed on:
# the step is finished and saved within --shutdown-timeout seconds.

# without it, processes that are started again on several machines would wait for those that died (PyTorch issue 135712)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-8}" --max-restarts 3 --shutdown-timeout 100 \
    --rdzv-backend c10d --rdzv-endpoint "${HOST:-localhost}:${PORT:-29500}" --rdzv-id "${RUN:-rednet50}" \
    -m involution classify train --recipe imagenet --name rednet50 --output /shared/runs \
    --data imagenet:/data/imagenet --resume auto --trainer.checkpoint_every 10m "$@"
