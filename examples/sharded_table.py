"""Row-wise sharding of the item table (tensor parallel): each process holds and updates a part of its rows.

    torchrun --standalone --nproc-per-node 2 examples/sharded_table.py ratings.csv --steps 100

Use this if the item table, with its gradients and moments, is too large for one GPU. PyTorch's DTensor does the
sharding: each process looks up the rows that it holds, and an all-reduce adds the results. Every process has a copy of
the transformer blocks and sees the whole batch. So the gradients of the blocks are equal in all processes, without an
exchange. The example shows only the training, with sampled softmax. It has no learning rate schedule and no averaged
weights, and saves no model.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

from corerec import Bert4Rec, read_events
from corerec.engines.bert4rec.batches import epoch_batches
from corerec.engines.bert4rec.model import Bert4RecNetwork
from corerec.engines.bert4rec.plan import TrainPlan
from corerec.engines.bert4rec.training_step import draw_step, step_loss


class ShardedNetwork(Bert4RecNetwork):
    """A network whose item vectors and biases come from a table that is sharded by rows."""

    def __init__(self, config, mesh):
        super().__init__(replace(config, num_items=1))  # its own table is not used
        self.initialise(torch.Generator().manual_seed(0))
        self.config = config
        table = nn.Embedding(config.num_items + 1, config.hidden_dim + 1)  # the last column holds the biases
        nn.init.trunc_normal_(table.weight, std=0.02, a=-0.06, b=0.06, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            table.weight[0] = table.weight[:, -1] = 0
        whole = RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        self.table = parallelize_module(table, mesh, whole)

    def item_vectors(self, items=None):
        assert items is not None, "a sharded table has no product with all items: give num_negatives"
        return self.table(items)[..., :-1] * (items != 0)[..., None]

    def item_biases(self, items=None):
        return self.table(items)[..., -1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="a log of users, items and times")
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: 100)")
    parser.add_argument("--negatives", type=int, default=256, help="items sampled in a step (default: 256)")
    parser.add_argument("--dim", type=int, default=64, help="width of the network (default: 64)")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dist.init_process_group()
    processes = dist.get_world_size()
    mesh = init_device_mesh(device.type, (processes,))
    log = read_events(asked.log).interactions()
    num_rows = len(log.items) + 1
    if -(-num_rows // processes) * (processes - 1) >= num_rows:
        parser.error(f"{processes} processes are too many for {len(log.items):,} items: one would hold no row")
    store = log.sequences
    model = Bert4Rec(hidden_dim=asked.dim, num_heads=2, num_negatives=asked.negatives, bfloat16=False)
    shape, settings = replace(model.model_config, num_items=len(log.items)), model.train_config
    plan = TrainPlan.of(settings, shape, store)
    network = ShardedNetwork(shape, mesh).to(device)
    network.dropout.p = 0.0
    used = [weight for name, weight in network.named_parameters() if name not in ("item_embedding", "item_bias")]
    optimizer = torch.optim.AdamW(used, lr=plan.learning_rate, foreach=False)
    shares = torch.from_numpy(store.item_counts(len(log.items)) / store.num_events).float()
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    if dist.get_rank() == 0:
        held = len(network.table.weight.to_local())
        print(f"{len(log.items):,} items; this process holds {held:,} rows of the table", flush=True)
    step, started = 0, time.perf_counter()
    while step < asked.steps:
        for batch in epoch_batches(store, shape.max_seq_len, plan.num_batches, True, random):
            drawn = draw_step(network, batch, settings, step % 2 == 0, generator, asked.negatives, shares)
            loss = step_loss(network, drawn.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if dist.get_rank() == 0 and (step % 10 == 0 or step == asked.steps):
                print(f"step {step}: loss {loss:.4f}, {time.perf_counter() - started:.1f} s", flush=True)
            if step == asked.steps:
                break
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
