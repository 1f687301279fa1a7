#!/bin/sh
# Train one model with several processes on this machine, then show what the model holds.
#
#     sh examples/torchrun.sh LOG MODEL [PROCESSES] [corerec fit options]
#
# torchrun starts the processes and tells each its rank; `corerec fit` shares each batch among them. They use the CPU's
# cores (gloo), or one CUDA GPU each (nccl). Only rank 0 prints, and writes MODEL. --standalone means that all processes
# run on this machine.
set -eu
log=$1 model=$2 processes=${3:-2}
if [ $# -gt 3 ]; then shift 3; else shift $#; fi
python -m torch.distributed.run --standalone --nproc-per-node "$processes" -m corerec fit "$log" -o "$model" \
    --checkpoint "$model.training" "$@"
python -m corerec info "$model"
