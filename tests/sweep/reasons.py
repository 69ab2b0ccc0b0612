"""Why a function that torch lets a class override is not checked by calling it: explicit data."""

GIVES_NO_TENSOR = "gives no tensor: metadata, or an escape"

REASONS: dict[str, str] = {
    "set_ and module_load put other memory in place, which is not followed": """
        torch.Tensor.set_ torch.Tensor.module_load
    """,
    "tells of the object and its memory, which tracking makes anew or the class overrides": """
        torch.Tensor._base.__get__ torch.Tensor._cdata.__get__ torch.Tensor.__dlpack__
        torch.Tensor.__reduce_ex__ torch.Tensor.__repr__ torch.Tensor._is_view
        torch.Tensor.const_data_ptr torch.Tensor.data_ptr torch.Tensor.__deepcopy__
        torch.Tensor.__setstate__ torch.Tensor.__format__
    """,
    "torch detaches no view in place, and what track() gives is a view": """
        torch.Tensor.detach_
    """,
    "its values are undefined": """
        torch.empty_like
    """,
    "draws, or iterates, without end on perturbed arguments": """
        torch.binomial torch.poisson torch.lobpcg
    """,
    "needs a device that is no CPU": """
        torch.batch_norm_backward_elemt torch.batch_norm_backward_reduce
        torch.batch_norm_elemt torch.batch_norm_gather_stats
        torch.batch_norm_gather_stats_with_counts torch.batch_norm_stats
        torch.miopen_batch_norm torch.miopen_convolution torch.miopen_convolution_add_relu
        torch.miopen_convolution_relu torch.miopen_convolution_transpose
        torch.miopen_depthwise_convolution torch.miopen_rnn torch.Tensor.cuda
        torch.Tensor.ipu torch.Tensor.mtia torch.Tensor.pin_memory
        torch.Tensor.record_stream torch.Tensor.xpu
        torch.Tensor.__cuda_array_interface__.__get__
    """,
    "is of the quantized engine, whose packed weights are no tensors": """
        torch.fbgemm_linear_fp16_weight torch.fbgemm_linear_fp16_weight_fp32_activation
        torch.fbgemm_linear_int8_weight torch.fbgemm_linear_int8_weight_fp32_activation
        torch.fbgemm_linear_quantize_weight torch.fbgemm_pack_gemm_matrix_fp16
        torch.fbgemm_pack_quantized_matrix torch.quantized_gru_cell
        torch.quantized_lstm_cell torch.quantized_rnn_relu_cell
        torch.quantized_rnn_tanh_cell
    """,
    "computes with the symbols of a tracer": """
        torch.sym_ite torch.sym_max torch.sym_min
    """,
    "torch has no kernel for the CPU, or for the tensors that it takes": """
        torch.indices_copy torch.Tensor._nested_tensor_size
        torch.Tensor._nested_tensor_storage_offsets torch.Tensor._nested_tensor_strides
    """,
    "is of autograd, which sees tracked tensors as any other: hooks and gradients": """
        torch.Tensor.backward torch.Tensor.register_hook
        torch.Tensor.register_post_accumulate_grad_hook torch.Tensor.retain_grad
    """,
    "hands values to a function of Python: an escape, which other tests check": """
        torch.Tensor.apply_ torch.Tensor.map2_ torch.Tensor.map_
    """,
    "is a context, and takes no tensor": """
        torch.autocast
    """,
    "is of tensors with named dimensions, which newer versions of torch do not have": """
        torch.Tensor._update_names torch.Tensor.align_as
    """,
    GIVES_NO_TENSOR: """
        torch.Tensor.has_names torch.Tensor.names.__get__
        torch.sym_not torch.sym_sqrt torch.get_device torch.is_conj torch.is_distributed
        torch.is_inference torch.is_neg torch.is_nonzero torch.is_same_size torch.numel
        torch.Tensor.__complex__ torch.Tensor.__contains__ torch.Tensor.__dlpack_device__
        torch.Tensor.__len__ torch.Tensor.__long__ torch.Tensor.__nonzero__
        torch.Tensor._clear_non_serializable_cached_data torch.Tensor._dimI
        torch.Tensor._dimV torch.Tensor._nnz torch.Tensor.dense_dim torch.Tensor.dim_order
        torch.Tensor.element_size torch.Tensor.get_device torch.Tensor.is_coalesced
        torch.Tensor.is_complex torch.Tensor.is_conj torch.Tensor.is_contiguous
        torch.Tensor.is_distributed torch.Tensor.is_inference torch.Tensor.is_neg
        torch.Tensor.is_nonzero torch.Tensor.is_pinned torch.Tensor.is_same_size
        torch.Tensor.is_set_to torch.Tensor.is_shared torch.Tensor.is_signed
        torch.Tensor.ndimension torch.Tensor.nelement torch.Tensor.numpy
        torch.Tensor.sparse_dim torch.Tensor.storage torch.Tensor.storage_offset
        torch.Tensor.storage_type torch.Tensor.tolist torch.Tensor.untyped_storage
        torch.Tensor._backward_hooks.__get__ torch.Tensor._grad.__get__
        torch.Tensor._grad_fn.__get__ torch.Tensor._post_accumulate_grad_hooks.__get__
        torch.Tensor._version.__get__ torch.Tensor.device.__get__
        torch.Tensor.dtype.__get__ torch.Tensor.grad.__get__
        torch.Tensor.grad_dtype.__get__ torch.Tensor.grad_fn.__get__
        torch.Tensor._has_grad_dtype_override.__get__
        torch.Tensor.is_cpu.__get__ torch.Tensor.is_cuda.__get__
        torch.Tensor.is_ipu.__get__ torch.Tensor.is_leaf.__get__
        torch.Tensor.is_maia.__get__ torch.Tensor.is_meta.__get__
        torch.Tensor.is_mkldnn.__get__ torch.Tensor.is_mps.__get__
        torch.Tensor.is_mtia.__get__ torch.Tensor.is_nested.__get__
        torch.Tensor.is_quantized.__get__ torch.Tensor.is_sparse.__get__
        torch.Tensor.is_sparse_csr.__get__ torch.Tensor.is_vulkan.__get__
        torch.Tensor.is_xla.__get__ torch.Tensor.is_xpu.__get__
        torch.Tensor.size torch.Tensor.dim torch.Tensor.numel
        torch.Tensor.itemsize.__get__ torch.Tensor.name.__get__ torch.Tensor.nbytes.__get__
        torch.Tensor.ndim.__get__ torch.Tensor.output_nr.__get__
        torch.Tensor.requires_grad.__get__ torch.Tensor.retains_grad.__get__
        torch.Tensor.shape.__get__ torch.Tensor.volatile.__get__ torch.q_per_channel_axis
        torch.q_scale torch.q_zero_point
        torch.Tensor.q_per_channel_axis torch.Tensor.q_scale torch.Tensor.q_zero_point
        torch.Tensor.qscheme torch.Tensor.__array__
    """,
}
"""The names under each reason; those of torch.nn.functional begin with F."""

NOT_IN_ALL = frozenset(
    "torch.Tensor._has_grad_dtype_override.__get__ torch.Tensor._update_names "
    "torch.Tensor.align_as torch.Tensor.const_data_ptr torch.Tensor.has_names "
    "torch.Tensor.names.__get__".split()
)
"""Those names that some version of torch does not have."""
