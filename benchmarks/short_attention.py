"""Measure forms of attention along time: very many sequences of 2 to 16 tokens, in the ten-view step of ViT-B/16.

    python benchmarks/short_attention.py --output benchmarks/results/short_attention_cuda.json

A flash kernel computes tiles of 64 or 128 tokens, so a sequence of 8 wastes most of a tile. The forms are PyTorch's
kernels; the formula; the formula as sums of products, compiled; and several sequences packed into one of 128 tokens,
where a mask (a tensor, or FlexAttention's) keeps them apart. Each form is compared with the formula in float64, forward
and backward, before it is timed. The limit is the time to read queries, keys and values once and to write the output.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, WIDTH, PACK = 12, 64, 128
Form = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v (R, h, S, d) -> (R, h, S, d)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with two batched matrix products."""
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same with sums of products in float32, which a compiler fuses into few kernels."""
    q, k, v = (x.float() for x in (q * q.shape[-1] ** -0.5, k, v))
    weights = (q.unsqueeze(-2) * k.unsqueeze(-3)).sum(dim=-1).softmax(dim=-1)  # (R, h, S, S)
    return (weights.unsqueeze(-1) * v.unsqueeze(-3)).sum(dim=-2)


def kernel(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's attention with one kernel."""
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v)


def packed(attend: Callable[..., Tensor], mask: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend` over runs of `PACK` tokens, with a mask that keeps their sequences apart."""
    runs, _, length, _ = q.shape
    group = min(PACK // length, runs)
    joined = (
        x.transpose(1, 2).unflatten(0, (-1, group)).flatten(1, 2).transpose(1, 2)  # (R/G, h, G*S, d)
        for x in (q, k, v)
    )
    out = attend(*joined, mask(length, group, q.device))
    return out.transpose(1, 2).unflatten(1, (group, length)).flatten(0, 1).transpose(1, 2)


@cache
def tensor_mask(length: int, group: int, device: torch.device) -> Tensor:
    """True where two tokens of a run belong to the same sequence."""
    number = torch.arange(group * length, device=device) // length
    return number[:, None] == number


@cache
def flex_mask(length: int, group: int, device: torch.device) -> Any:
    """The same for FlexAttention."""
    from torch.nn.attention.flex_attention import create_block_mask

    def same(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i // length == j // length

    return create_block_mask(same, None, None, group * length, group * length, device=str(device))


def forms(compile_them: bool) -> dict[str, Form]:
    """The compared forms by name."""
    found: dict[str, Form] = {"sdpa": F.scaled_dot_product_attention, "formula": formula}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        found[backend.name.removesuffix("_ATTENTION").lower()] = partial(kernel, backend)
    masked = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
    found["packed, mask"] = partial(packed, masked, tensor_mask)
    if compile_them:
        from torch.nn.attention.flex_attention import flex_attention

        flex = torch.compile(flex_attention, dynamic=False)
        found["packed, flex"] = partial(packed, lambda q, k, v, mask: flex(q, k, v, block_mask=mask), flex_mask)
        found["formula, compiled"] = torch.compile(formula, dynamic=False)
        found["products, compiled"] = torch.compile(products, dynamic=False)
    return found


def inputs(rows: int, length: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Output of a layer for queries, keys and values, and its three parts as `Attention` splits them."""
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(rows, length, 3 * HEADS * WIDTH, device=device, dtype=dtype, generator=generator)
    qkv.requires_grad_()
    return qkv, [part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in qkv.chunk(3, dim=-1)]


def error(form: Form, length: int, device: torch.device, dtype: torch.dtype) -> float:
    """Largest relative error of output and gradient to the formula in float64, for 256 sequences."""
    qkv, parts = inputs(256, length, device, dtype)
    exact = qkv.detach().double().requires_grad_()
    expected = formula(*(part.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for part in exact.chunk(3, dim=-1)))
    out = form(*parts)
    (gradient,) = torch.autograd.grad(out.float().square().sum(), qkv)
    (right,) = torch.autograd.grad(expected.square().sum(), exact)
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in ((out, expected), (gradient, right)))


def milliseconds(run: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median time of a call."""
    times = []
    for _ in range(rounds + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def measure(form: Form, rows: int, length: int, device: torch.device, rounds: int) -> dict[str, Any]:
    """Error and time of one form for `rows` sequences of `length` tokens in bfloat16."""
    wrong = error(form, length, device, torch.bfloat16)
    qkv, parts = inputs(rows, length, device, torch.bfloat16)
    gradient = torch.ones_like(parts[0])

    def both() -> None:
        torch.autograd.grad(form(*parts).to(gradient.dtype), qkv, gradient, retain_graph=True)

    with torch.no_grad():
        forward = milliseconds(lambda: form(*parts), device, rounds)
    return {
        "error": float(f"{wrong:.1e}"),
        "forward_ms": round(forward, 3),
        "step_ms": round(milliseconds(both, device, rounds), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--videos", type=int, default=32, help="videos per step: 196 sequences each, of 2 to 16 frames")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true", help="leave out the compiled forms")
    parser.add_argument("--output", type=Path, help="file for the result as JSON")
    args = parser.parse_args()
    device = torch.device(args.device)
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "torch": torch.__version__}
    for length in args.lengths:
        rows = args.videos * 196 // PACK * PACK or PACK
        gigabytes = 4 * rows * length * HEADS * WIDTH * 2 / 1e9
        result[f"{rows} x {length}"] = table = {"limit_gigabytes": round(gigabytes, 3)}
        for name, form in forms(not args.no_compile).items():
            try:
                table[name] = measure(form, rows, length, device, args.rounds)
            except Exception as failure:  # a kernel that this device does not have is one row
                table[name] = {"failed": f"{type(failure).__name__}: {str(failure).splitlines()[0][:120]}"}
            print(f"{rows} x {length}  {name:20} {table[name]}", flush=True)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
