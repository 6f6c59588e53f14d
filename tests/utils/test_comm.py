import pickle

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fcos_core.utils import comm

PROCESSES = 2


def test_single_process():
    assert (comm.get_rank(), comm.get_world_size(), comm.is_main_process()) == (0, 1, True)
    comm.synchronize()
    value = torch.tensor(3.0, requires_grad=True)
    reduced = comm.reduce_dict({"loss": value})
    assert reduced["loss"].item() == 3 and not reduced["loss"].requires_grad
    total = comm.all_reduce_sum(value)
    assert total.item() == 3 and not total.requires_grad
    total += 1
    assert value.item() == 3
    assert comm.gather_tensors(total) is total


# Numbers of rows per process: some in both, only in the last, only in the first, or none.
LENGTHS = [(2, 3), (0, 2), (1, 0), (0, 0)]


def gathered(rank, lengths):
    """Gather rows of [rank, place] that are strided in memory; an empty part has another dtype."""
    own = torch.tensor([[rank, place] for place in range(lengths[rank])], dtype=torch.int32).reshape(-1, 2)
    own = own.repeat_interleave(2, dim=1)[:, ::2] if len(own) else torch.zeros(0, 5)
    tensor = comm.gather_tensors(own)
    return None if tensor is None else (tensor.tolist(), tensor.dtype)


def work(rank, folder):
    results = []
    # The second round initializes torch.distributed again: it must not use the cached group of the first.
    for round_ in range(2):
        dist.init_process_group("gloo", init_method=f"file://{folder}/store{round_}", rank=rank, world_size=PROCESSES)
        # The order of names differs between the processes, which must not mix up the values.
        losses = {"a": torch.tensor(1.0 + rank), "b": torch.tensor(10.0 * rank, requires_grad=True)}
        if rank:
            losses = dict(reversed(losses.items()))
        reduced = {name: value.item() for name, value in comm.reduce_dict(losses).items()}
        added = {name: value.item() for name, value in comm.reduce_dict(losses, average=False).items()}
        own = torch.tensor([1, rank])
        total = comm.all_reduce_sum(own)
        norm = torch.nn.BatchNorm1d(2)
        norm.running_mean.fill_(rank)
        comm.broadcast_buffers(norm)
        comm.synchronize()
        results.append(
            {
                "who": (comm.get_rank(), comm.get_world_size(), comm.is_main_process()),
                "reduced": reduced,
                "added": added,
                "everything": comm.all_gather({"rank": rank}),
                "total": total.tolist(),
                "own": own.tolist(),
                "buffer": norm.running_mean.tolist(),
                "gathered": [gathered(rank, lengths) for lengths in LENGTHS],
                "groups": comm._cpu_group.cache_info().misses,
            }
        )
        dist.destroy_process_group()
    with open(f"{folder}/{rank}.pkl", "wb") as file:
        pickle.dump(results, file)


def test_two_processes(tmp_path):
    mp.start_processes(work, args=(str(tmp_path),), nprocs=PROCESSES, start_method="forkserver")
    rounds = zip(*(pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(PROCESSES)), strict=True)
    for number, (main, other) in enumerate(rounds, start=1):
        assert main["who"] == (0, 2, True) and other["who"] == (1, 2, False)
        assert main["reduced"] == {"a": 1.5, "b": 5.0}
        assert main["added"] == {"a": 3.0, "b": 10.0}
        assert main["everything"] == other["everything"] == [{"rank": 0}, {"rank": 1}]
        assert main["total"] == other["total"] == [2, 1]
        assert main["buffer"] == other["buffer"] == [0, 0]
        assert main["own"] == [1, 0] and other["own"] == [1, 1]
        for lengths, (rows, dtype) in zip(LENGTHS, main["gathered"], strict=True):
            assert rows == [[rank, place] for rank, length in enumerate(lengths) for place in range(length)]
            assert dtype == (torch.int32 if any(lengths) else torch.float32)
        assert other["gathered"] == [None] * len(LENGTHS)
        assert main["groups"] == number
