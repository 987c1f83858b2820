//! Plain matrix products by cuBLASLt. An algorithm is chosen at the first product of a shape and kept, so that steady state asks
//! nothing and equal shapes give equal bits.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use super::driver::{Matmul, Pointer};
use crate::error::{Error, Result};

/// Bytes of cuBLASLt's workspace: what its documentation recommends for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

fn cause(call: &str) -> impl Fn(CublasError) -> Error {
    move |error| Error::Device { what: call.to_string(), cause: error.to_string() }
}

/// What an algorithm depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    extents: [usize; 3],
    strides: [usize; 2],
    transposed: [bool; 2],
    wide: bool,
    bias: bool,
    accumulate: bool,
    /// The largest power of two, up to 256, that divides each address.
    alignments: [u32; 3],
}

impl Shape {
    fn of(product: &Matmul) -> Shape {
        let alignment = |pointer: Pointer| 1 << pointer.trailing_zeros().min(8);
        Shape {
            extents: [product.m, product.n, product.k],
            strides: [product.a.stride, product.b.stride],
            transposed: [product.a.transposed, product.b.transposed],
            wide: product.wide,
            bias: product.bias.is_some(),
            accumulate: product.accumulate,
            alignments: [product.a.pointer, product.b.pointer, product.out].map(alignment),
        }
    }
}

/// The descriptors of a shape and the algorithm chosen for it.
struct Prepared {
    operation: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// A handle of cuBLASLt for one type of activations.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    element: sys::cudaDataType,
    prepared: Mutex<HashMap<Shape, Prepared>>,
}

// SAFETY: cuBLASLt's handles may be used by several threads, and its descriptors are only read once they stand behind the mutex.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

impl Blas {
    /// For activations of bf16, or of f32.
    pub(super) fn new(bf16: bool) -> Result<Blas> {
        let handle = result::create_handle().map_err(cause("cublasLtCreate"))?;
        let element = if bf16 { sys::cudaDataType_t::CUDA_R_16BF } else { sys::cudaDataType_t::CUDA_R_32F };
        Ok(Blas { handle, element, prepared: Mutex::default() })
    }

    /// Launches the product into `stream`, with [`WORKSPACE`] bytes at `workspace`.
    pub(super) fn matmul(&self, product: &Matmul, workspace: Pointer, stream: sys::cudaStream_t) -> Result<()> {
        let shape = Shape::of(product);
        let mut prepared = self.prepared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Prepared { operation, layouts: [a, b, out], algorithm } = match prepared.entry(shape) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(self.prepare(&shape, product.bias)?),
        };
        let (scale, keep) = (product.scale, if product.accumulate { 1.0f32 } else { 0.0 });
        if let Some(bias) = product.bias {
            set(*operation, sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let at = |pointer: Pointer| pointer as *const c_void;
        // SAFETY: descriptors and handle live as long as `self`; the caller's pointers cover the extents.
        unsafe {
            result::matmul(
                self.handle,
                *operation,
                (&raw const scale).cast(),
                (&raw const keep).cast(),
                at(product.b.pointer),
                *a,
                at(product.a.pointer),
                *b,
                at(product.out),
                *out,
                product.out as *mut c_void,
                *out,
                algorithm,
                workspace as *mut c_void,
                WORKSPACE,
                stream,
            )
        }
        .map_err(|error| {
            let what = format!("cublasLtMatmul of [{}, {}] over {}", product.m, product.n, product.k);
            cause(&what)(error)
        })
    }

    /// cuBLASLt is column-major: a row-major matrix is its own transpose there, so `out^T = b^T a^T` is what it is asked for.
    fn prepare(&self, shape: &Shape, bias: Option<Pointer>) -> Result<Prepared> {
        use sys::cublasLtMatmulDescAttributes_t as Desc;
        let [m, n, k] = shape.extents;
        let operation = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F)
            .map_err(cause("cublasLtMatmulDescCreate"))?;
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        let transpose = |transposed: bool| i32::from(transposed);
        set(operation, Desc::CUBLASLT_MATMUL_DESC_TRANSA, &transpose(shape.transposed[1]))?;
        set(operation, Desc::CUBLASLT_MATMUL_DESC_TRANSB, &transpose(shape.transposed[0]))?;
        if let Some(bias) = bias {
            // The pointer, too, before an algorithm is asked for: what it is aligned to may decide.
            set(operation, Desc::CUBLASLT_MATMUL_DESC_EPILOGUE, &(sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32))?;
            set(operation, Desc::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        }
        let layout = |element, rows: usize, columns: usize, stride: usize| {
            let layout = result::create_matrix_layout(element, rows as u64, columns as u64, stride as i64);
            layout.map_err(cause("cublasLtMatrixLayoutCreate"))
        };
        let stored = |rows, columns, transposed| if transposed { (columns, rows) } else { (rows, columns) };
        let (b_rows, b_columns) = stored(n, k, shape.transposed[1]);
        let (a_rows, a_columns) = stored(k, m, shape.transposed[0]);
        let out = if shape.wide { sys::cudaDataType_t::CUDA_R_32F } else { self.element };
        let layouts = [
            layout(self.element, b_rows, b_columns, shape.strides[1])?,
            layout(self.element, a_rows, a_columns, shape.strides[0])?,
            layout(out, n, m, n)?,
        ];
        let algorithm = self.choose(operation, layouts, shape)?;
        Ok(Prepared { operation, layouts, algorithm })
    }

    /// The first of cuBLASLt's own proposals that needs no more than the workspace and reduces in a fixed order.
    fn choose(
        &self,
        operation: sys::cublasLtMatmulDesc_t,
        [a, b, out]: [sys::cublasLtMatrixLayout_t; 3],
        shape: &Shape,
    ) -> Result<sys::cublasLtMatmulAlgo_t> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Pref;
        let preference = result::create_matmul_pref().map_err(cause("cublasLtMatmulPreferenceCreate"))?;
        // Splits of k that add in place do so in the order they happen to finish.
        let in_order = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        let [a_alignment, b_alignment, out_alignment] = shape.alignments;
        let narrow = [
            (Pref::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, in_order),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b_alignment),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a_alignment),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, out_alignment),
            (Pref::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, out_alignment),
        ];
        let workspace = WORKSPACE as u64;
        // SAFETY: the preference lives until it is destroyed below, and each attribute has the type that its documentation gives.
        unsafe {
            let set = |attribute, value: *const c_void, bytes| {
                result::set_matmul_pref_attribute(preference, attribute, value, bytes)
                    .map_err(cause("cublasLtMatmulPreferenceSetAttribute"))
            };
            set(Pref::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), size_of::<u64>())?;
            for (attribute, value) in &narrow {
                set(*attribute, ptr::from_ref(value).cast(), size_of::<u32>())?;
            }
            let found = result::get_matmul_algo_heuristic(self.handle, operation, a, b, out, out, preference);
            result::destroy_matmul_pref(preference).map_err(cause("cublasLtMatmulPreferenceDestroy"))?;
            let found = found.map_err(|error| {
                let [m, n, k] = shape.extents;
                cause(&format!("cublasLtMatmulAlgoGetHeuristic for [{m}, {n}] over {k}"))(error)
            })?;
            Ok(found.algo)
        }
    }
}

fn set<T>(operation: sys::cublasLtMatmulDesc_t, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<()> {
    // SAFETY: the descriptor is alive, and `value` has the type of the attribute.
    let done = unsafe { result::set_matmul_desc_attribute(operation, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
    done.map_err(cause("cublasLtMatmulDescSetAttribute"))
}

impl Drop for Blas {
    fn drop(&mut self) {
        let prepared = self.prepared.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: each was created by `prepare` and is destroyed once. A failure here leaves nothing to be done about it.
        unsafe {
            for Prepared { operation, layouts, .. } in prepared.values() {
                for layout in layouts {
                    let _ = result::destroy_matrix_layout(*layout);
                }
                let _ = result::destroy_matmul_desc(*operation);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
