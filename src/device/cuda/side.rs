//! A stream beside the one that computes: what runs in it, collectives for one, runs while the GPU computes. Each side waits for the
//! other only where it is told to.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::gpu::cause;
use crate::error::Result;

/// A second stream of a GPU.
pub(crate) struct Side {
    compute: Arc<CudaStream>,
    stream: Arc<CudaStream>,
    /// How far the GPU had been told to compute when this stream last followed it.
    launched: CudaEvent,
    /// How far this stream had been filled when the GPU was last told to wait for it.
    filled: CudaEvent,
}

impl Side {
    pub(super) fn new(context: &Arc<CudaContext>, compute: &Arc<CudaStream>) -> Result<Side> {
        let event = || context.new_event(None).map_err(cause("cuEventCreate"));
        let stream = context.new_stream().map_err(cause("cuStreamCreate"))?;
        Ok(Side { compute: compute.clone(), stream, launched: event()?, filled: event()? })
    }

    /// Makes the GPU the one that this thread's calls mean, for libraries that ask for the current one.
    pub(crate) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(cause("cuCtxSetCurrent"))
    }

    /// The stream, as libraries want it.
    pub(crate) fn raw(&self) -> *mut c_void {
        self.stream.cu_stream().cast()
    }

    /// What is put into this stream from here on comes after everything that was launched before.
    pub(crate) fn follow(&self) -> Result<()> {
        self.launched.record(&self.compute).map_err(cause("cuEventRecord"))?;
        self.stream.wait(&self.launched).map_err(cause("cuStreamWaitEvent"))
    }

    /// What is launched from here on comes after everything that was put into this stream before.
    pub(crate) fn rejoin(&self) -> Result<()> {
        self.filled.record(&self.stream).map_err(cause("cuEventRecord"))?;
        self.compute.wait(&self.filled).map_err(cause("cuStreamWaitEvent"))
    }
}
