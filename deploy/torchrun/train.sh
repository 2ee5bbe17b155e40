#!/usr/bin/env bash
# A training run with torchrun alone: this command on each node, with the same variables and the
# same checkout, and data/ and runs/ on a file system that all nodes see. The arguments are those of
# `eca-lightning fit`:
#
#   NNODES=2 RUN_ID=first RDZV_ENDPOINT=node0:29400 bash deploy/torchrun/train.sh \
#     --config configs/imagenet/resnet50_paper.yaml --model.backbone.attention eca --config configs/trainer/gpu8.yaml --data.batch_size 16
#
#   NNODES          nodes: 1
#   NPROC_PER_NODE  GPUs of each: 8
#   RUN_ID          name of the run and of its folder, which has no default
#   RDZV_ENDPOINT   host and port of one of the nodes, within reach of the others: localhost:29400
#   MAX_RESTARTS    how often all ranks are started again after one has died: 3
#
# Ranks that are started again resume from the newest whole checkpoint, and so does another call with
# the same RUN_ID. The number of nodes is fixed (no --nnodes 1:4): the batches and the learning rate
# of a run follow from it, and a run that lost a node would end with other weights.
set -euo pipefail

nodes=${NNODES:-1} ranks=${NPROC_PER_NODE:-8}
: "${RUN_ID:?give the run a name: RUN_ID=first}"

# Else torchrun and its ranks share a store, and a node that joins again does not learn where it is.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

exec torchrun --nnodes "$nodes" --nproc-per-node "$ranks" --max-restarts "${MAX_RESTARTS:-3}" \
  --rdzv-backend c10d --rdzv-id "$RUN_ID" --rdzv-endpoint "${RDZV_ENDPOINT:-localhost:29400}" \
  -m eca_lightning fit --ckpt_path auto "$@" \
  --trainer.num_nodes "$nodes" \
  --trainer.devices "$ranks" \
  --trainer.logger.init_args.version "$RUN_ID"
