//! The kernels: a typed launcher for each, the constants of kernels/geometry.h, and the images. Written by build.rs from kernels/.

use super::buffer::{Read, Write};
use super::driver::{Grid, Kernel, Pointer};
use super::{Act, Cuda};
use crate::device::{BRANCHES, Elem};
use crate::error::Result;

/// The kernels of one file, compiled for one architecture and one type of activations.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// The stem of the file.
    pub file: &'static str,
    /// `bf16` or `f32`.
    pub build: &'static str,
    /// `sm_90a`.
    pub architecture: &'static str,
    /// What the driver loads.
    pub cubin: &'static [u8],
}

/// The branches of a linear map, as kernels/lora.cu takes them: its `LoraMap`. Those that are not there are all zeros.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoraMap {
    /// `a[r, k]`.
    pub a: [Pointer; BRANCHES],
    /// `b[n, r]`.
    pub b: [Pointer; BRANCHES],
    /// The gradient of `a`; 0 where nothing is trained.
    pub da: [Pointer; BRANCHES],
    /// The gradient of `b`; 0 where nothing is trained.
    pub db: [Pointer; BRANCHES],
    /// The key of dropout's mask.
    pub key: u64,
    /// First column of the output.
    pub column: [i32; BRANCHES],
    /// Columns of the output.
    pub n: [i32; BRANCHES],
    /// Rank.
    pub r: [i32; BRANCHES],
    /// First column of `z`.
    pub at: [i32; BRANCHES],
    /// The branch's number in dropout's counter.
    pub stream: [u32; BRANCHES],
    /// What the product is multiplied by.
    pub scale: [f32; BRANCHES],
    /// Columns of `z` that branches have.
    pub ranks: i32,
    /// Columns of `z`.
    pub width: i32,
    /// Words of the generator below this drop their element.
    pub dropped: u32,
    /// `1 / (1 - p)`.
    pub kept: f32,
}

const _: () = assert!(BRANCHES == LORA_BRANCHES as usize && size_of::<LoraMap>() == 192);

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
