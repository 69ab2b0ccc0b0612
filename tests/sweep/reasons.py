"""Why a function that torch lets a class override is not checked by calling it: explicit data."""

REASONS: dict[str, str] = {
    "set_ and module_load put other memory in place, which is not followed": """
        torch.Tensor.set_ torch.Tensor.module_load
    """,
    "tells of the object and its memory, which tracking makes anew": """
        torch.Tensor._base.__get__ torch.Tensor._cdata.__get__ torch.Tensor.__dlpack__
        torch.Tensor.__reduce_ex__ torch.Tensor.__repr__ torch.Tensor._is_view
        torch.Tensor.const_data_ptr torch.Tensor.data_ptr torch.Tensor.detach_
    """,
    "its values are undefined": """
        torch.empty_like
    """,
    "draws, or iterates, without end on perturbed arguments": """
        torch.binomial torch.poisson
        torch.lobpcg
    """,
    "takes no generic arguments, and no op of the database calls it": """
        torch.sym_ite torch.sym_max torch.sym_min torch.addbmm torch.addmv
        torch.affine_grid_generator torch.as_strided_copy torch.as_strided_scatter
        torch.baddbmm torch.batch_norm_backward_elemt torch.batch_norm_backward_reduce
        torch.batch_norm_elemt torch.batch_norm_gather_stats
        torch.batch_norm_gather_stats_with_counts torch.batch_norm_stats
        torch.batch_norm_update_stats F.bilinear torch.bincount torch.bitwise_left_shift
        torch.bmm torch.ccol_indices_copy torch.cholesky torch.choose_qparams_optimized
        F.conv2d F.conv3d F.conv_tbc F.conv_transpose2d F.conv_transpose3d torch.convolution
        torch.ctc_loss torch.embedding_bag torch.fake_quantize_per_channel_affine
        torch.fake_quantize_per_tensor_affine torch.fbgemm_linear_fp16_weight
        torch.fbgemm_linear_fp16_weight_fp32_activation torch.fbgemm_linear_int8_weight
        torch.fbgemm_linear_int8_weight_fp32_activation torch.fbgemm_linear_quantize_weight
        torch.fbgemm_pack_gemm_matrix_fp16 torch.fbgemm_pack_quantized_matrix
        torch.fused_moving_avg_obs_fake_quant torch.grid_sampler torch.grid_sampler_2d
        torch.grid_sampler_3d torch.gru torch.gru_cell torch.index_reduce torch.indices_copy
        torch.int_repr torch.functional.istft torch.lstm torch.lstm_cell torch.lu_solve
        torch.lu_unpack torch.miopen_batch_norm torch.miopen_convolution
        torch.miopen_convolution_add_relu torch.miopen_convolution_relu
        torch.miopen_convolution_transpose torch.miopen_depthwise_convolution
        torch.miopen_rnn torch.native_batch_norm torch.native_group_norm
        torch.native_layer_norm torch.nonzero_static torch.ormqr torch.permute
        torch.permute_copy torch.put torch.q_per_channel_axis torch.q_per_channel_scales
        torch.q_per_channel_zero_points torch.q_scale torch.q_zero_point
        torch.quantize_per_channel torch.quantize_per_tensor
        torch.quantize_per_tensor_dynamic torch.quantized_batch_norm
        torch.quantized_gru_cell torch.quantized_lstm_cell torch.quantized_max_pool1d
        torch.quantized_max_pool2d torch.quantized_max_pool3d torch.quantized_rnn_relu_cell
        torch.quantized_rnn_tanh_cell torch.renorm torch.rnn_relu torch.rnn_relu_cell
        torch.rnn_tanh torch.rnn_tanh_cell torch.row_indices_copy torch.sspaddmm
        torch.scatter_reduce torch.select_scatter torch.split_with_sizes
        torch.split_with_sizes_copy torch.functional.stft torch.unflatten
        torch.unsafe_split_with_sizes torch.view_as_complex torch.view_as_complex_copy
        F.affine_grid F.ctc_loss F.embedding_bag F.fold F.fractional_max_pool2d
        F.fractional_max_pool2d_with_indices F.fractional_max_pool3d
        F.fractional_max_pool3d_with_indices F.grid_sample F.lp_pool1d F.lp_pool2d
        F.lp_pool3d F.max_unpool1d F.max_unpool2d F.max_unpool3d
        F.multi_head_attention_forward F.multilabel_margin_loss torch.Tensor.__array_wrap__
        torch.Tensor.__deepcopy__ torch.Tensor.__format__ torch.Tensor.__index__
        torch.Tensor.__setstate__ torch.Tensor._autocast_to_full_precision
        torch.Tensor._autocast_to_reduced_precision torch.Tensor._coalesced_
        torch.Tensor._nested_tensor_size torch.Tensor._nested_tensor_storage_offsets
        torch.Tensor._nested_tensor_strides torch.Tensor._sparse_mask_projection
        torch.Tensor.addbmm torch.Tensor.addbmm_ torch.Tensor.addmv torch.Tensor.addmv_
        torch.Tensor.apply_ torch.Tensor.as_strided torch.Tensor.as_strided_
        torch.Tensor.as_strided_scatter torch.Tensor.backward torch.Tensor.baddbmm
        torch.Tensor.baddbmm_ torch.Tensor.bincount torch.Tensor.bmm
        torch.Tensor.ccol_indices torch.Tensor.cholesky torch.Tensor.cuda
        torch.Tensor.index_reduce torch.Tensor.index_reduce_ torch.Tensor.int_repr
        torch.Tensor.ipu torch.Tensor.istft torch.Tensor.lu_solve torch.Tensor.map2_
        torch.Tensor.map_ torch.Tensor.mtia torch.Tensor.nonzero_static torch.Tensor.ormqr
        torch.Tensor.pin_memory torch.Tensor.put torch.Tensor.put_
        torch.Tensor.q_per_channel_axis torch.Tensor.q_per_channel_scales
        torch.Tensor.q_per_channel_zero_points torch.Tensor.q_scale
        torch.Tensor.q_zero_point torch.Tensor.qscheme torch.Tensor.record_stream
        torch.Tensor.register_hook torch.Tensor.register_post_accumulate_grad_hook
        torch.Tensor.renorm torch.Tensor.renorm_ torch.Tensor.resize
        torch.Tensor.resize_as_sparse_ torch.Tensor.retain_grad torch.Tensor.row_indices
        torch.Tensor.scatter_reduce torch.Tensor.scatter_reduce_ torch.Tensor.select_scatter
        torch.Tensor.sparse_mask torch.Tensor.sparse_resize_
        torch.Tensor.sparse_resize_and_clear_ torch.Tensor.split_with_sizes
        torch.Tensor.sspaddmm torch.Tensor.stft torch.Tensor.to_mkldnn
        torch.Tensor.unsafe_split_with_sizes torch.Tensor.xpu
        torch.Tensor.__cuda_array_interface__.__get__ torch.linalg.cholesky
        torch.linalg.ldl_solve torch.linalg.lu_solve torch.linalg.solve_triangular
        torch.linalg.tensorinv
    """,
    "gives no tensor: metadata, or an escape, which other tests check": """
        torch.sym_float F._sym_int torch.sym_not torch.sym_sqrt torch.allclose torch.equal
        torch.get_device torch.is_complex torch.is_conj torch.is_distributed
        torch.is_floating_point torch.is_inference torch.is_neg torch.is_nonzero
        torch.is_same_size torch.is_signed torch.numel torch.polar torch.Tensor.__bool__
        torch.Tensor.__complex__ torch.Tensor.__contains__ torch.Tensor.__dlpack_device__
        torch.Tensor.__float__ torch.Tensor.__int__ torch.Tensor.__len__
        torch.Tensor.__long__ torch.Tensor.__nonzero__
        torch.Tensor._clear_non_serializable_cached_data torch.Tensor._dimI
        torch.Tensor._dimV torch.Tensor._nnz torch.Tensor.allclose torch.Tensor.dense_dim
        torch.Tensor.dim torch.Tensor.dim_order torch.Tensor.element_size torch.Tensor.equal
        torch.Tensor.get_device torch.Tensor.is_coalesced torch.Tensor.is_complex
        torch.Tensor.is_conj torch.Tensor.is_contiguous torch.Tensor.is_distributed
        torch.Tensor.is_floating_point torch.Tensor.is_inference torch.Tensor.is_neg
        torch.Tensor.is_nonzero torch.Tensor.is_pinned torch.Tensor.is_same_size
        torch.Tensor.is_set_to torch.Tensor.is_shared torch.Tensor.is_signed
        torch.Tensor.item torch.Tensor.ndimension torch.Tensor.nelement torch.Tensor.numel
        torch.Tensor.numpy torch.Tensor.size torch.Tensor.sparse_dim torch.Tensor.storage
        torch.Tensor.storage_offset torch.Tensor.storage_type torch.Tensor.tolist
        torch.Tensor.untyped_storage torch.Tensor._backward_hooks.__get__
        torch.Tensor._grad.__get__ torch.Tensor._grad_fn.__get__
        torch.Tensor._post_accumulate_grad_hooks.__get__ torch.Tensor._version.__get__
        torch.Tensor.device.__get__ torch.Tensor.dtype.__get__ torch.Tensor.grad.__get__
        torch.Tensor.grad_dtype.__get__ torch.Tensor.grad_fn.__get__
        torch.Tensor.is_cpu.__get__ torch.Tensor.is_cuda.__get__ torch.Tensor.is_ipu.__get__
        torch.Tensor.is_leaf.__get__ torch.Tensor.is_maia.__get__
        torch.Tensor.is_meta.__get__ torch.Tensor.is_mkldnn.__get__
        torch.Tensor.is_mps.__get__ torch.Tensor.is_mtia.__get__
        torch.Tensor.is_nested.__get__ torch.Tensor.is_quantized.__get__
        torch.Tensor.is_sparse.__get__ torch.Tensor.is_sparse_csr.__get__
        torch.Tensor.is_vulkan.__get__ torch.Tensor.is_xla.__get__
        torch.Tensor.is_xpu.__get__ torch.Tensor.itemsize.__get__
        torch.Tensor.layout.__get__ torch.Tensor.name.__get__ torch.Tensor.nbytes.__get__
        torch.Tensor.ndim.__get__ torch.Tensor.output_nr.__get__
        torch.Tensor.requires_grad.__get__ torch.Tensor.retains_grad.__get__
        torch.Tensor.shape.__get__ torch.Tensor.volatile.__get__
    """,
    "depends on no value, as perturbing shows": """
        torch.embedding torch.ones_like torch.zeros_like
    """,
}
"""The names under each reason; those of torch.nn.functional begin with F."""
