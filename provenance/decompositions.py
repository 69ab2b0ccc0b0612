"""Rules of linear algebra and of the Fourier transforms: what comes before a matrix is a batch.

>>> from torch import ones
>>> [dims for _, dims in solve((5, 2), (ones(5, 2, 2), ones(5, 2)), {}) or ()]
[(0, -1), (0, -1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import Shape
from ancestral.provenance.operands import NOWHERE, Args, Kwargs, Pair, Rule, argument, rank_of
from ancestral.provenance.scans import Mixed
from ancestral.provenance.signatures import Signature

_OF_MATRICES = Signature("A(mm) B(mK) -> (mK)")
_OF_VECTORS = Signature("A(mm) B(m)")
_FROM_THE_RIGHT = Signature("A(mm) B(Km) -> (Km)")


def solve(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Systems of linear equations: the right-hand sides stay apart.

    These are vectors where they have one dimension less than the matrices, and their batch.
    """
    a, b = argument(args, kwargs, 0, "A"), argument(args, kwargs, 1, "B")
    is_left = argument(args, kwargs, NOWHERE, "left", default=True)
    is_alike = tuple(b.shape) == tuple(a.shape[:-1])
    if rank_of(b) == 1 or (is_alike and rank_of(b) == len(shape)):
        return _OF_VECTORS(shape, (a, b), {})
    return (_OF_MATRICES if is_left else _FROM_THE_RIGHT)(shape, (a, b), {})


def fourier(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Transforms along all dimensions, unless some are named or a length is given for the last."""
    x, sizes = args[0], argument(args, kwargs, 1, "s")
    dims = argument(args, kwargs, 2, "dim")
    if dims is None:
        count = rank_of(x) if sizes is None else len(sizes)
        dims = tuple(range(-count, 0))
    return Mixed(1)(shape, (x, dims), {})


def shifted(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """All dimensions are shifted, unless some are named: fftshift."""
    dims = argument(args, kwargs, 1, "dim", default=tuple(range(rank_of(args[0]))))
    return Mixed(1)(shape, (args[0], dims), {})


TABLE: dict[Rule, str] = {
    solve: "linalg.solve linalg.solve_ex linalg.solve_triangular",
    Signature("A(mn)"): """
        cholesky cholesky_inverse det eig geqrf inverse logdet lu matrix_exp matrix_power
        matrix_rank pinverse qr slogdet svd linalg.cholesky linalg.cholesky_ex linalg.cond
        linalg.det linalg.eig linalg.eigh linalg.eigvals linalg.eigvalsh linalg.inv linalg.inv_ex
        linalg.ldl_factor linalg.ldl_factor_ex linalg.lu linalg.lu_factor linalg.lu_factor_ex
        linalg.matrix_exp linalg.matrix_power linalg.matrix_rank linalg.pinv linalg.qr
        linalg.slogdet linalg.svd linalg.svdvals
    """,
    Signature("LU(mn) pivots(k)"): "lu_unpack",
    Signature("B(mK) A(mm) -> (mK)"): "cholesky_solve",
    Signature("B(mk) A(mm)"): "triangular_solve",
    Signature("B(mK) LU(mm) pivots(m) -> (mK)"): "torch.lu_solve Tensor.lu_solve",
    Signature("LU(mm) pivots(m) B(mk)"): "linalg.lu_solve",
    Signature("LD(mm) pivots(m) B(mk)"): "linalg.ldl_solve",
    Signature("input(mn) tau(k)"): "orgqr linalg.householder_product",
    Signature("input(mn) tau(k) other(mn)"): "ormqr",
    Signature("x(N) -> (N.)"): "linalg.vander vander",
    Signature("input(l)"): "stft",
    Signature("input(ft)"): "istft",
    Mixed(2, (-1,)): "fft.fft fft.ifft fft.rfft fft.irfft fft.hfft fft.ihfft",
    Mixed(2, (-2, -1)): "fft.fft2 fft.ifft2 fft.rfft2 fft.irfft2 fft.hfft2 fft.ihfft2",
    fourier: "fft.fftn fft.ifftn fft.rfftn fft.irfftn fft.hfftn fft.ihfftn",
    shifted: "fft.fftshift fft.ifftshift",
}
