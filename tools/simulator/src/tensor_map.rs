//! Tensor maps: what cuTensorMapEncodeTiled makes of a tensor in device memory, with the same conditions. The driver's 128 bytes are
//! opaque; these are the simulator's own.

/// What the elements of a tensor are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Two bytes.
    Bf16,
    /// Four bytes; the only one that reductions add.
    F32,
}

/// The swizzle of tiles in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swizzle {
    /// Rows one after another.
    None,
    /// 16-byte pieces change places within 32 bytes.
    B32,
    /// 16-byte pieces change places within 64 bytes.
    B64,
    /// 16-byte pieces change places within 128 bytes.
    B128,
}

/// A tensor and the box that one copy moves. Extents are innermost first; there are two or three.
#[derive(Debug, Clone, Copy)]
pub struct Tiled<'a> {
    /// What the elements are.
    pub element: Element,
    /// The tensor's first element: a multiple of 16.
    pub base: *mut u8,
    /// Elements along each dimension.
    pub extents: &'a [u64],
    /// Bytes from one to the next along each dimension but the innermost: multiples of 16.
    pub strides: &'a [u64],
    /// Elements of the box along each dimension: up to 256.
    pub tile: &'a [u32],
    /// How the box lies in shared memory.
    pub swizzle: Swizzle,
}

/// A kernel's `CUtensorMap` argument. Elements of a box outside of the tensor are read as zero and not written.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct TensorMap {
    mark: u64,
    pub(crate) base: usize,
    pub(crate) extents: [u64; 3],
    pub(crate) strides: [u64; 3],
    pub(crate) tile: [u32; 3],
    pub(crate) rank: u32,
    pub(crate) bytes: u32,
    pub(crate) span: u32,
    pub(crate) float: u32,
    unused: [u32; 5],
}

const MARK: u64 = 0x5449_4c45_444d_4150;
const _: () = assert!(size_of::<TensorMap>() == 128, "CUtensorMap has 128 bytes");

impl Swizzle {
    /// Bytes within which pieces change places; 16, a piece, where they do not.
    pub(crate) fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }
}

impl TensorMap {
    /// The map of a tensor. Error: what the driver would refuse, with what was expected and found.
    pub fn new(tensor: &Tiled<'_>) -> Result<Self, String> {
        let Tiled { element, base, extents, strides, tile, swizzle } = *tensor;
        let bytes = if element == Element::F32 { 4 } else { 2 };
        let rank = extents.len();
        if !(2..=3).contains(&rank) || strides.len() != rank - 1 || tile.len() != rank {
            let found = (rank, strides.len(), tile.len());
            return Err(format!("expected 2 or 3 extents, one stride fewer and as many of the box, found {found:?}"));
        }
        if !(base as usize).is_multiple_of(16) {
            return Err(format!("expected a base that is a multiple of 16, found {base:p}"));
        }
        if let Some(extent) = extents.iter().find(|extent| !(1..=1 << 32).contains(*extent)) {
            return Err(format!("expected extents of 1 to 2^32, found {extent}"));
        }
        if let Some(stride) = strides.iter().find(|stride| !stride.is_multiple_of(16) || **stride >= 1 << 40) {
            return Err(format!("expected strides that are multiples of 16 below 2^40, found {stride}"));
        }
        if let Some(side) = tile.iter().find(|side| !(1..=256).contains(*side)) {
            return Err(format!("expected a box of 1 to 256 elements a side, found {side}"));
        }
        let (row, span) = (tile[0] * bytes, swizzle.span());
        // The driver also takes shorter rows with a swizzle; how they lie in shared memory is not modelled.
        if !row.is_multiple_of(16) || (swizzle != Swizzle::None && row != span) {
            return Err(format!(
                "expected rows of the box of 16-byte pieces, with a swizzle of its {span} bytes, found {row} bytes"
            ));
        }
        let mut map = TensorMap {
            mark: MARK,
            base: base as usize,
            extents: [1; 3],
            strides: [0; 3],
            tile: [1; 3],
            rank: rank as u32,
            bytes,
            span,
            float: u32::from(element == Element::F32),
            unused: [0; 5],
        };
        map.extents[..rank].copy_from_slice(extents);
        map.tile[..rank].copy_from_slice(tile);
        map.strides[0] = u64::from(bytes);
        map.strides[1..rank].copy_from_slice(strides);
        Ok(map)
    }

    /// Whether this is a map at all.
    pub(crate) fn valid(&self) -> bool {
        self.mark == MARK
    }

    /// Bytes of the box.
    pub(crate) fn box_bytes(&self) -> usize {
        self.tile.iter().product::<u32>() as usize * self.bytes as usize
    }
}

/// Where an address of shared memory lies under a swizzle of `span` bytes: its 16-byte piece's number within the span is xor-ed with
/// the address bits from 7 on.
pub(crate) fn swizzled(address: usize, span: u32) -> usize {
    address ^ (address >> 7 & (span as usize / 16 - 1)) << 4
}
