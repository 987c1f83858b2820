//! NCCL's library, found at run time. Bound here and not by cudarc, which looks for `libnccl.so`: that name comes with NCCL's headers
//! only, the library itself is called `libnccl.so.2`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A communicator of NCCL's.
pub(super) type Handle = *mut c_void;

/// What names a group of ranks that is about to connect.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId {
    pub(super) bytes: [c_char; 128],
}

/// How a communicator is made. NCCL adds fields from version to version and reads as many as `version` had: these are 2.18's.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    /// Of 2.25, in what was padding before it.
    traffic_class: c_int,
}

impl Config {
    /// NCCL's defaults, but for calls that do not block.
    pub(super) fn non_blocking() -> Config {
        let unset = c_int::MIN;
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: unset,
            min_ctas: unset,
            max_ctas: unset,
            net_name: ptr::null(),
            split_share: unset,
            traffic_class: unset,
        }
    }
}

/// Results of calls.
pub(super) const SUCCESS: c_int = 0;
pub(super) const SYSTEM_ERROR: c_int = 2;
pub(super) const REMOTE_ERROR: c_int = 6;
pub(super) const IN_PROGRESS: c_int = 7;

/// Types of elements, and the sum.
pub(super) const UINT8: c_int = 1;
pub(super) const FLOAT32: c_int = 7;
pub(super) const SUM: c_int = 0;

/// The earliest version whose communicators can be aborted from several threads at once.
const OLDEST: c_int = 21_900;

type Raw = *const c_void;
type RawMut = *mut c_void;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($ty:ty),*) $(-> $ret:ty)?;)*) => {
        /// NCCL's functions, by their names without the prefix.
        pub(super) struct Library {
            $(pub(super) $field: unsafe extern "C" fn($($ty),*) $(-> $ret)?,)*
            // Last: what the functions are in.
            _library: libloading::Library,
        }

        impl Library {
            fn load() -> std::result::Result<Library, String> {
                // SAFETY: what NCCL runs when it is loaded has no preconditions.
                let found = ["libnccl.so.2", "libnccl.so"].into_iter().find_map(|name| unsafe { libloading::Library::new(name) }.ok());
                let library = found.ok_or_else(|| {
                    "libnccl.so.2 is not on this machine (or not in LD_LIBRARY_PATH); more than one GPU needs it".to_string()
                })?;
                // SAFETY: the types are those of nccl.h.
                $(let $field = *unsafe { library.get($symbol.as_bytes()) }.map_err(|error| format!("libnccl.so.2: {error}"))?;)*
                Ok(Library { $($field,)* _library: library })
            }

            /// One of these functions, for tests.
            #[cfg(test)]
            pub(super) fn of($($field: unsafe extern "C" fn($($ty),*) $(-> $ret)?),*) -> Library {
                Library { $($field,)* _library: libloading::os::unix::Library::this().into() }
            }
        }
    };
}

functions! {
    get_version = "ncclGetVersion": fn(*mut c_int) -> c_int;
    get_unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> c_int;
    comm_init_rank_config = "ncclCommInitRankConfig": fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int;
    comm_finalize = "ncclCommFinalize": fn(Handle) -> c_int;
    comm_destroy = "ncclCommDestroy": fn(Handle) -> c_int;
    comm_abort = "ncclCommAbort": fn(Handle) -> c_int;
    comm_get_async_error = "ncclCommGetAsyncError": fn(Handle, *mut c_int) -> c_int;
    get_error_string = "ncclGetErrorString": fn(c_int) -> *const c_char;
    get_last_error = "ncclGetLastError": fn(Handle) -> *const c_char;
    group_start = "ncclGroupStart": fn() -> c_int;
    group_end = "ncclGroupEnd": fn() -> c_int;
    reduce = "ncclReduce": fn(Raw, RawMut, usize, c_int, c_int, c_int, Handle, RawMut) -> c_int;
    broadcast = "ncclBroadcast": fn(Raw, RawMut, usize, c_int, c_int, Handle, RawMut) -> c_int;
    reduce_scatter = "ncclReduceScatter": fn(Raw, RawMut, usize, c_int, c_int, Handle, RawMut) -> c_int;
    all_gather = "ncclAllGather": fn(Raw, RawMut, usize, c_int, Handle, RawMut) -> c_int;
}

/// `2.27.3` of 22703.
fn written(version: c_int) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

impl Library {
    /// The library, loaded at the first call.
    pub(super) fn get() -> Result<&'static Library> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        let library = LIBRARY.get_or_init(Library::load).as_ref().map_err(|why| Error::Machine(why.clone()))?;
        let version = library.version()?;
        if version < OLDEST {
            let what = format!("libnccl.so.2 is NCCL {}, and {} or later is needed", written(version), written(OLDEST));
            return Err(Error::Machine(what));
        }
        Ok(library)
    }

    fn version(&self) -> Result<c_int> {
        let mut version = 0;
        // SAFETY: the call only writes the number.
        match unsafe { (self.get_version)(&raw mut version) } {
            SUCCESS => Ok(version),
            code => Err(self.error("ncclGetVersion", code)),
        }
    }

    /// What NCCL says about a call that failed.
    pub(super) fn error(&self, call: &str, code: c_int) -> Error {
        // SAFETY: NCCL's texts are NUL-terminated and live as long as the library; the communicator is not looked at.
        let (what, last) = unsafe { (text((self.get_error_string)(code)), text((self.get_last_error)(ptr::null_mut()))) };
        let cause = if last.is_empty() { what } else { format!("{what}: {last}") };
        Error::Device { what: call.into(), cause }
    }
}

/// # Safety
/// `from` is null or a NUL-terminated text that nobody changes meanwhile.
unsafe fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: the caller promises it.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().trim().to_string()
}

/// NCCL's version, or why there is none that can be used.
pub fn version() -> Result<String> {
    Library::get()?.version().map(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_nccl_counts_them() {
        assert_eq!([22_703, 21_900, 23_203].map(written), ["2.27.3", "2.19.0", "2.32.3"]);
    }

    #[test]
    fn the_configuration_has_the_layout_of_nccl_h() {
        use std::mem::offset_of;
        let offsets = [offset_of!(Config, magic), offset_of!(Config, blocking), offset_of!(Config, net_name)];
        assert_eq!((offsets, offset_of!(Config, split_share), size_of::<Config>()), ([8, 16, 32], 40, 48));
        assert_eq!(size_of::<UniqueId>(), 128);
    }

    #[test]
    fn a_machine_without_nccl_is_told_so_and_one_with_it_its_version() {
        match version() {
            Ok(version) => assert!(version.starts_with("2."), "{version}"),
            Err(error) => assert!(error.to_string().starts_with("libnccl.so.2 is "), "{error}"),
        }
    }
}
