//! The kernels: a typed launcher for each, the constants of kernels/geometry.h, and the images. Written by build.rs from kernels/.

use super::buffer::{Read, Write};
use super::driver::{Grid, Kernel};
use super::{Act, Cuda};
use crate::device::Elem;
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

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
