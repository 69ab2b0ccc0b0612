"""Conversions: the functions that give the values of a tensor to Python or to other libraries."""

from ancestral.provenance.rules.op import Op

OPS = (
    Op(
        """
        __bool__ __int__ __float__ __complex__ __index__ __contains__ item tolist is_nonzero equal
        allclose _local_scalar_dense __repr__ q_scale q_zero_point _assert _assert_async
        """,
        escapes=True,
    ),
    # As bytes, and as an address too; to a function of Python.
    Op(
        """
        numpy __array__ __array_wrap__ __dlpack__ __reduce_ex__ storage untyped_storage data_ptr
        const_data_ptr apply_ map_ map2_
        """,
        escapes=True,
    ),
    # How many elements of a sparse tensor are kept shows in the shape of those.
    Op(
        """
        indices values _indices _values _nnz crow_indices col_indices ccol_indices row_indices
        """,
        escapes=True,
    ),
    # What traces symbols computes with plain numbers.
    Op("sym_float sym_int sym_not _sym_sqrt sym_sum", escapes=True),
)
