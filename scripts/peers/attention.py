#!/usr/bin/env python3
"""Attention beside its peers in one run: what a PyTorch user would take instead.

Optional: needs Python 3.9, `torch` and `performer-pytorch` (pip install torch performer-pytorch),
and a built `performer`. Every row is a length and a way of working; each figure is the median
of several calls after a warm-up, on the same number of threads; the `performer` program runs
between the peers' calls, so that whatever else the machine does meets all alike.

    python3 scripts/peers/attention.py --performer build/release/bin/performer --threads 2

Peers: performer-pytorch's FastAttention, full and causal (its path without CUDA); a causal form
in chunks of plain PyTorch matrix products (the best chunk of three); PyTorch's own exact
attention (scaled_dot_product_attention).
"""
import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    import performer_pytorch
    from performer_pytorch.performer_pytorch import FastAttention, softmax_kernel
except ImportError as missing:
    sys.exit(f"attention.py: {missing}; pip install torch performer-pytorch")

CHUNKS = (64, 128, 256)
LONG = 30.0  # seconds after which a peer's repetitions are enough


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--performer", default="build/release/bin/performer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", default="2048,4096,16384")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="peers whose name holds this text")
    return parser.parse_args()


# ---- Performer itself ----


def run_performer(options, length, causal, threads):
    """(forward, forward + backward) in milliseconds, and the BLAS that it names."""
    command = [options.performer, "bench", "attention", "--json", "--which", "favor",
               "--length", str(length), "--heads", str(options.heads),
               "--head-dim", str(options.head_dim), "--features", str(options.features),
               "--threads", str(threads), "--repeats", str(options.repeats)]
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS")}
    result = subprocess.run(command + (["--causal"] if causal else []), env=environment,
                            stdout=subprocess.PIPE, check=True)
    record = json.loads(result.stdout.splitlines()[-1])
    return record["forward_ms"], record["forward_backward_ms"], record["blas"]


# ---- peers ----


def chunked_causal(q, k, v, projection, chunk):
    """Causal linear attention in chunks, (B, H, L, d): features, states by cumsum, and the
    triangle inside a chunk. The peers' usual stabiliser, without a decay."""
    fq = softmax_kernel(q, projection_matrix=projection, is_query=True)
    fk = softmax_kernel(k, projection_matrix=projection, is_query=False)
    batch, heads, length, features = fq.shape
    shape = (batch, heads, length // chunk, chunk)
    fq, fk = fq.view(*shape, features), fk.view(*shape, features)
    v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1).view(*shape, v.shape[-1] + 1)
    states = fk.transpose(-1, -2) @ v
    before = states.cumsum(dim=2) - states
    inside = (fq @ fk.transpose(-1, -2)).tril() @ v
    out = (inside + fq @ before).view(batch, heads, length, -1)
    return out[..., :-1] / out[..., -1:]


def make_peers(options, causal):
    """Name -> function of q, k, v."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has no CUDA extension
        fast = FastAttention(options.head_dim, options.features, causal=causal)
    peers = {"performer-pytorch": fast}
    if causal:
        for chunk in CHUNKS:
            peers[f"PyTorch chunks of {chunk}"] = (
                lambda q, k, v, c=chunk: chunked_causal(q, k, v, fast.projection_matrix, c))
    peers["PyTorch exact"] = lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, is_causal=causal)
    return peers


def needs_too_much(name, options, length, causal, backward):
    """performer-pytorch's causal path keeps r x d numbers a position for the backward."""
    if name != "performer-pytorch" or not causal or not backward:
        return False
    needed = 3 * 4 * options.heads * length * options.features * options.head_dim
    return needed > 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def median_ms(call, repeats):
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        if sum(times) > LONG:
            break
    return 1e3 * statistics.median(times)


def time_peer(peer, options, length, backward):
    shape = (1, options.heads, length, options.head_dim)
    q, k, v = (torch.randn(shape, requires_grad=backward) for _ in range(3))
    seed = torch.randn(shape)

    def forward():
        with torch.no_grad():
            peer(q, k, v)

    def both():
        q.grad = k.grad = v.grad = None
        peer(q, k, v).backward(seed)

    return median_ms(both if backward else forward, options.repeats)


# ---- the table ----


def compare(options, length, causal):
    """One row a peer: its times, ours measured just before and after it, and the ratios."""
    kind = "causal" if causal else "full"
    for name, peer in make_peers(options, causal).items():
        if options.only not in name:
            continue
        before = run_performer(options, length, causal, options.threads)
        theirs = [None if needs_too_much(name, options, length, causal, backward)
                  else time_peer(peer, options, length, backward) for backward in (False, True)]
        after = run_performer(options, length, causal, options.threads)
        cells = []
        for i in range(2):
            ours = (before[i] + after[i]) / 2
            cells.append(f"{ours:10.2f}" + ("         -       -" if theirs[i] is None else
                                            f"{theirs[i]:10.2f} {theirs[i] / ours:6.2f}x"))
        print(f"{length:7d}  {kind:6s}  {name:22s}" + "  ".join(cells), flush=True)


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    blas = run_performer(options, 256, False, options.threads)[2]
    version = subprocess.run([options.performer, "--version"], stdout=subprocess.PIPE, check=True,
                             text=True).stdout.strip()
    print(f"{version} ({blas}), torch {torch.__version__}, performer-pytorch "
          f"{getattr(performer_pytorch, '__version__', None) or package_version()}, "
          f"Python {platform.python_version()}, {options.threads} thread(s)")
    print(f"B 1, H {options.heads}, d {options.head_dim}, m {options.features}; milliseconds; "
          "x: how many times as fast Performer is")
    print(f"{'length':>7s}  {'':6s}  {'peer':22s}{'forward':>10s}{'peer':>10s}{'':8s}"
          f"  {'fwd+bwd':>10s}{'peer':>10s}")
    for length in (int(word) for word in options.lengths.split(",")):
        for causal in (False, True):
            compare(options, length, causal)


def package_version():
    from importlib.metadata import version
    return version("performer-pytorch")


if __name__ == "__main__":
    main()
