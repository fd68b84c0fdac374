"""CPU seconds of the kNN evaluation's search, beside its plain operations in PyTorch and beside faiss.

    python benchmarks/knn.py

1,024 queries in a bank of 60,000 random features of width 768, one thread; the ways alternate, the best of three runs
each. "Plain" is: normalize both, product, top-k, against the bank in one piece. Needs faiss-cpu.
"""

import argparse
import time

import torch
from torch.nn.functional import normalize

from svt_zoo.evaluation.knn import nearest


def plain(queries: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    return (normalize(queries) @ normalize(bank).T).topk(k, dim=1).indices


def by_faiss(queries: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(normalize(bank).numpy())
    return torch.from_numpy(index.search(normalize(queries).numpy(), k)[1])


def ours(queries: torch.Tensor, bank: torch.Tensor, k: int) -> torch.Tensor:
    return nearest(queries, bank, k).rows


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # there are no options
    import faiss  # after --help, which needs no extra package

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    bank, queries = torch.randn(60_000, 768), torch.randn(1024, 768)
    for k in (20, 200):
        seconds: dict[str, float] = {}
        for _ in range(3):
            for way in (ours, plain, by_faiss):
                start = time.process_time()
                way(queries, bank, k)
                seconds[way.__name__] = min(time.process_time() - start, seconds.get(way.__name__, float("inf")))
        ratios = ", ".join(f"{seconds['ours'] / seconds[name]:.2f} of {name}" for name in ("plain", "by_faiss"))
        print(f"k = {k}: {seconds['ours']:.2f} s; {ratios}")


if __name__ == "__main__":
    main()
