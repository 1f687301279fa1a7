#!/bin/sh
# Everything that needs a CUDA GPU, in one command: tests, seconds an epoch, quality, two processes.
#
#     sh benchmarks/gpu.sh DATA [OUT]        DATA holds ml-1m-sasrec.txt.gz and beauty.txt.gz
#
# The package, pytest and its plugins have to be installed, with a CUDA build of PyTorch. OUT gets the figures as JSON.
# On one H100 it takes about five minutes.
set -eu
data=$1 out=${2:-gpu-results} python=${PYTHON:-python}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
$python -c "import torch; assert torch.cuda.is_available(), 'torch sees no CUDA GPU'; print(torch.cuda.get_device_name())"

echo "== tests"
$python -m pytest -q "$here/../tests/corerec/engines/bert4rec/test_cuda_graphs.py"
$python -m pytest -q "$here/../tests/corerec/engines" "$here/../tests/corerec/basic" "$here/../tests/corerec/retrieval" ||
    echo "some tests failed: see above"

echo "== quality and seconds of training, whole trainings by default settings"
for log in ml-1m-sasrec beauty; do
    $python "$here/quality.py" --data "$data/$log.txt.gz" --seeds 3 --look-every 20 --json-out "$out/quality_$log.json"
done

echo "== two processes that share the GPU, by torchrun"
$python -m torch.distributed.run --standalone --nproc-per-node 2 -m corerec fit "$data/ml-1m-sasrec.txt.gz" \
    -o "$out/shared.model" --epochs 2
$python -m corerec info "$out/shared.model"
