"""Products that are summed, and linear algebra."""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import linalg

from alignments.case import Case

einsum = torch.einsum

PRODUCTS = [
    Case("matmul", lambda x, y: x @ y, "bnk km", "bn_ __m"),
    Case("matmul", lambda x, y: torch.matmul(x, other=y), "nk abkm", "__n_ ab_m"),
    Case("matmul", lambda x, y: torch.matmul(input=x, other=y), "k bkm", "__ bm"),
    Case("matmul", lambda x, y: torch.bmm(x, mat2=y), "bnk bkm", "bn_ b_m"),
    Case("matmul", lambda x, y: torch.mv(x, y), "nk k", "n _"),
    Case("matmul", lambda x, y: linalg.matmul(x, y), "bnk k", "bn __"),
    Case("reversed_matmul", lambda x, y: y.__rmatmul__(x), "nk km", "n_ _m"),
    Case("add_matmul", lambda z, x, y: torch.addmm(z, x, y, beta=2), "m nk km", "_m n_ _m"),
    Case("add_matmul", lambda z, x, y: torch.addmv(z, mat=x, vec=y), "n nk k", "n n _"),
    Case("add_matmul", torch.baddbmm, "nm bnk bkm", "_nm bn_ b_m"),
    Case("add_outer", torch.addr, "nm n m", "nm n_ _m"),
    Case("add_summed_matmul", torch.addbmm, "nm bnk bkm", "nm n_ _m"),
    Case("outer", torch.outer, "n m", "n_ _m"),
    Case("outer", lambda x, y: x.ger(vec2=y), "n m", "n_ _m"),
    Case("kron", torch.kron, "nm um", "__ __"),
    Case("kron", torch.kron, "bnm un", "bn_ ___", {"u": 1}),
    Case("inner", torch.inner, "bnk mk", "bn_ __m"),
    Case("inner", torch.inner, "bn .", "bn __"),
    Case("tensordot", lambda x, y: torch.tensordot(x, y, 1), "bnk km", "bn_ __m"),
    Case("tensordot", partial(torch.tensordot, dims=([1, -1], [2, 0])), "nkl lmk", "n_ _m"),
    Case("tensordot", lambda x, y: torch.tensordot(x, y, 0), "n m", "n_ _m"),
    Case("chain", lambda *given: linalg.multi_dot(given), "nk kl lm", "n_ __ _m"),
    Case("chain", lambda *given: linalg.multi_dot(given), "k kl lm", "_ _ m"),
    Case("linear", F.linear, "bnk mk m", "bn_ __m __m"),
    Case("linear", lambda x, w: F.linear(x, weight=w), "k mk", "_ m"),
    Case("einsum", lambda x, y: einsum("bij, bkj -> kib", x, y), "bij bkj", "_ib k_b"),
    Case("einsum", lambda x, y: einsum("nk,km", x, y), "nk km", "_n m_"),
    Case("einsum", lambda x, y: einsum("ba,cb", x, y), "ba cb", "a_ _c"),
    Case("einsum", lambda x, y: einsum("n...k,...km->...nm", x, y), "nabk bkm", "abn_ _b_m"),
    Case("einsum", lambda x, y: einsum("...k,k...", x, y), "bnk k", "bn __"),
    Case("einsum", lambda x: einsum("nnb->bn", x), "nnb", "bn"),
    Case("einsum", lambda x, y: einsum(x, [0, 1], y, [1, 2], [0, 2]), "nk km", "n_ _m"),
    Case("einsum", lambda x, y: einsum(x, [..., 1], y, [1, 2], [..., 2]), "bnk km", "bn_ __m"),
    Case("einsum", lambda x, y: einsum("bn,bn->bn", [x, y]), "un bn", "_n bn", {"u": 1}),
    Case("einsum", lambda x, y, z: einsum("bi,bj,ijk->bk", x, y, z), "bi bj ijk", "b_ b_ _k"),
    Case("x1(Pm) x2(Rm) -> (PR)", torch.cdist, "bpm brm", "bp_ b_r"),
    Case("x1(Pm) x2(Rm) -> (PR)", lambda x, y: torch.cdist(x, y, 1.0), "pm brm", "_p_ b_r"),
    Case(
        "input1(i) input2(j) weight(Oij) bias(O) -> (O)",
        F.bilinear,
        "bni bnj oij o",
        "bn_ bn_ __o __o",
    ),
]

MATRICES = [
    *(
        Case("A(mn)", call, "abmm", "ab__")
        for call in (linalg.inv, torch.linalg.pinv, linalg.qr, torch.lu, linalg.matrix_exp)
    ),
    *(
        Case("A(mn)", call, "abmm", "ab")
        for call in (linalg.det, torch.logdet, linalg.cond, linalg.matrix_rank)
    ),
    *(
        Case("A(mn)", call, "amm", "a_")
        for call in (linalg.eigvals, linalg.eigvalsh, linalg.svdvals)
    ),
    Case("A(mn)", lambda x: linalg.svd(x, full_matrices=False), "abmn", "ab__"),
    Case("A(mn)", lambda x: linalg.eigh(x)[0], "amm", "a_"),
    Case("of_determinant", lambda x: torch.slogdet(x), "bmm", "b"),
    Case("A(mn)", lambda x: linalg.matrix_power(x, 3), "bmm", "b__"),
    Case("A(mn)", lambda x: torch.cholesky_inverse(x), "bmm", "b__"),
    Case("A(mn)", lambda x: linalg.lu_factor(x), "bmm", "b__"),
    Case("LU(mn) pivots(k)", lambda x: torch.lu_unpack(x, _pivots(x))[1], "bmm", "b__"),
    Case("solve", linalg.solve, "abmm bmk", "ab__ _b_k", {"k": 2}),
    Case("solve", linalg.solve, "abmm abm", "ab_ ab_"),
    Case("solve", linalg.solve, "abmm m", "ab_ ___"),
    Case("solve", lambda x, y: linalg.solve(x, y, left=False), "bmm bkm", "b__ bk_"),
    Case("solve", lambda x, y: linalg.solve_triangular(x, y, upper=True), "abmm bmk", "ab__ _b_k"),
    Case("B(mK) A(mm) -> (mK)", torch.cholesky_solve, "bmk bmm", "b_k b__"),
    Case("B(mk) A(mm)", torch.triangular_solve, "bmk bmm", "b__ b__"),
    Case(
        "B(mK) LU(mm) pivots(m) -> (mK)",
        lambda x, a: torch.lu_solve(x, a, _pivots(a)),
        "bmk bmm",
        "b_k b__",
    ),
    Case(
        "LU(mm) pivots(m) B(mk)",
        lambda x, y: linalg.lu_solve(x, _pivots(x), y),
        "bmm bmk",
        "b__ b__",
    ),
    Case(
        "LD(mm) pivots(m) B(mk)",
        lambda x, y: linalg.ldl_solve(x, _pivots(x), y),
        "bmm bmk",
        "b__ b__",
    ),
    Case("input(mn) tau(k)", linalg.householder_product, "bmm bm", "b__ b__"),
    Case("input(mn) tau(k) other(mn)", torch.ormqr, "bmm bm bmn", "b__ b__ b__"),
    Case("x(N) -> (N.)", linalg.vander, "bn", "bn_"),
    Case("input(l)", lambda x: torch.stft(x, 4, return_complex=True), "bt", "b__", {"t": 4}),
    Case(
        "input(ft)",
        lambda x: torch.istft(torch.view_as_complex(x), 4),
        "bftc",
        "b_",
        {"c": 2, "f": 3, "t": 4},
    ),
]


def _pivots(x: torch.Tensor) -> torch.Tensor:
    """Return the pivots of a factorization in which no row changes its place."""
    size = x.shape[-1]
    return torch.arange(1, size + 1, dtype=torch.int32).expand(x.shape[:-1]).contiguous()


def _fourier() -> list[Case]:
    fft = torch.fft
    rows = [
        Case("mixed along argument 2, (-1,) by default", f, "bn", "b_") for f in (fft.fft, fft.rfft)
    ]
    rows += [
        Case("mixed along argument 2, (-1,) by default", lambda x: fft.ihfft(x, dim=0), "bn", "_n"),
        Case("mixed along argument 2, (-2, -1) by default", fft.fft2, "bnm", "b__"),
        Case("mixed along argument 2, (-2, -1) by default", fft.irfft2, "bnm", "b__"),
        Case("fourier", lambda x: fft.fftn(x, dim=(0, 2)), "bnm", "_n_"),
        Case("fourier", lambda x: fft.rfftn(x, (3, 3)), "bnm", "b__"),
        Case("shifted", lambda x: fft.fftshift(x, 1), "bn", "b_"),
        Case("shifted", lambda x: fft.ifftshift(x, dim=(0,)), "bn", "_n"),
    ]
    return rows


FOURIER = _fourier()
