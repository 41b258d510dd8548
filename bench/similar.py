"""Exact search among a million embeddings: time as a ratio to the one matrix product that it cannot do without, and
memory beside the embeddings themselves"""
import argparse
import torch
from fastattn.features.retrieval import nearest
from common import pairs, peak_mb, write

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--rows', type=int, default=10**6); p.add_argument('--d', type=int, default=256)
    p.add_argument('--n', type=int, default=7)
    a = p.parse_args()
    torch.manual_seed(0)
    x,q = torch.randn(a.rows, a.d),torch.randn(16, a.d)
    mem = peak_mb(lambda: nearest(x, q, 5))
    time = pairs(lambda: nearest(x, q, 5), lambda: (q@x.T).topk(5, dim=1), a.n)
    write('similar', what=f'16 queries, {a.rows} embeddings of {a.d} numbers (float32), 5 neighbours: '
                          'ratio to one product with vectors of length one, and its five largest', time=time,
          extra_mb=round(mem), embeddings_mb=round(x.nbytes/2**20))
