"""Recommend items without torch, from the files that `corerec export movies.model onnx/` wrote.

pip install onnxruntime && python examples/serve_onnx.py onnx/ '[260, 1196, 1210]'
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder, history = Path(sys.argv[1]), json.loads(sys.argv[2])
graph = onnxruntime.InferenceSession(folder / "model.onnx")
items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
number_of = {item: number for number, item in enumerate(items, 1)}

seen = [number_of[item] for item in history if item in number_of]
scores = graph.run(["log_probabilities"], {"histories": np.array([seen], dtype=np.int64)})[0][0]
scores[seen] = -np.inf
for number in np.argsort(-scores, kind="stable")[:10]:
    if scores[number] > -np.inf:
        print(json.dumps(items[number - 1]), f"{np.exp(scores[number]):.2%}", sep="\t")
