// Launch constants that kernels and their launchers share. build.rs turns each line into a Rust `pub const NAME: u32`, so a
// value is integer literals and names above it under + - * only.

// What kind of argument was out of range, in fault[0]; 0 is none.
#define FAULT_GATHER_ROWS 1
#define FAULT_SCATTER_ROWS 2
#define FAULT_EMBED_FWD 3
#define FAULT_EMBED_BWD 4
#define FAULT_ROPE_CACHED_SLOT 5
#define FAULT_ROPE_CACHED_POSITION 6
#define FAULT_DECODE_SLOT 7
#define FAULT_DECODE_LENGTH 8
#define FAULT_TARGET 9
#define FAULT_ADVANCE_SLOT 10

// The slot of a row that belongs to no sequence.
#define NO_SLOT 4294967295

// ---- rows.cu: warps of a block, bytes of a row that a warp copies; the types of `cast` ----
#define ROWS_WARPS 8
#define ROWS_THREADS ROWS_WARPS * 32
#define ROWS_BYTES 2048
#define CAST_F32 0
#define CAST_F64 1
#define CAST_F16 2
#define CAST_BF16 3

// ---- flat kernels of rows.cu, losses.cu, optim.cu: elements of a block, 8 a thread ----
#define ELEMENTWISE_THREADS 256
#define ELEMENTWISE_SPAN ELEMENTWISE_THREADS * 8

// ---- embed.cu: a warp takes so many columns of a token; backward, a block takes so many of an id ----
#define EMBED_WARPS 8
#define EMBED_THREADS EMBED_WARPS * 32
#define EMBED_COLUMNS 1024
#define EMBED_BWD_THREADS 128
#define EMBED_BWD_COLUMNS EMBED_BWD_THREADS * 8

// ---- rmsnorm.cu: a block takes a row ----
#define RMSNORM_THREADS 128

// ---- sums over rows (rmsnorm_dweight, scalar_head_dweight): columns that a block owns ----
#define COLUMN_SUM_THREADS 512
#define COLUMN_SUM_COLUMNS 32

// ---- rope.cu: a block takes a token, so many angles at a time ----
#define ROPE_THREADS 128
#define ROPE_ANGLES 128

// ---- cursor.cu: rows of a block ----
#define ADVANCE_THREADS 128

// ---- swiglu.cu: columns of a row that a block takes, 8 a thread ----
#define SWIGLU_THREADS 256
#define SWIGLU_COLUMNS SWIGLU_THREADS * 8

// ---- losses.cu: one block sums statistics; gae takes a sequence a block, tokens of a chunk 4 a thread ----
#define LOSS_THREADS 512
#define GAE_THREADS 256

// ---- optim.cu ----
#define SUM_SQUARES_THREADS 256

// ---- scalar_head.cu: tokens of a block, a warp each; columns of a row that a block of backward takes, 8 a thread ----
#define SCALAR_HEAD_WARPS 8
#define SCALAR_HEAD_THREADS SCALAR_HEAD_WARPS * 32
#define SCALAR_HEAD_COLUMNS SCALAR_HEAD_THREADS * 8

// ---- sample.cu: a block takes a row of logits ----
#define SAMPLE_THREADS 512

// ---- attention_fwd.cu, attention_bwd.cu: a tile is ATTENTION_ROWS rows of the kernel's width and a padding of 8 elements; dynamic
// shared memory is _ACTS elements of act, and _FLOATS floats after them ----
#define ATTENTION_THREADS 128
#define ATTENTION_ROWS 64
#define ATTENTION_PAD 8
#define ATTENTION_FWD_D64_ACTS 3 * ATTENTION_ROWS * 72
#define ATTENTION_FWD_D128_ACTS 3 * ATTENTION_ROWS * 136
#define ATTENTION_BWD_D64_ACTS 4 * ATTENTION_ROWS * 72
#define ATTENTION_BWD_D128_ACTS 4 * ATTENTION_ROWS * 136
#define ATTENTION_BWD_DKV_FLOATS 2 * ATTENTION_ROWS
// Rows of a head that a block of attention_delta takes, 8 threads a row.
#define ATTENTION_DELTA_ROWS 32
#define ATTENTION_DELTA_THREADS ATTENTION_DELTA_ROWS * 8

// ---- attention_*_sm90.cu: a tile is ATTENTION_SM90_ROWS rows of a head, 16 KiB for each 64 columns ----
#define ATTENTION_SM90_ROWS 128
#define ATTENTION_SM90_BOX_BYTES ATTENTION_SM90_ROWS * 128

// ---- attention_fwd_sm90.cu: dynamic shared memory is tiles for queries, for output and for the ring of keys and values; the list of
// tiles has so many numbers for each, behind the counter; attention_fwd_sm90_order gives a warp to a sequence ----
#define ATTENTION_FWD_SM90_THREADS 384
#define ATTENTION_FWD_SM90_STAGES 5
#define ATTENTION_FWD_SM90_D64_BYTES 2 * ATTENTION_SM90_BOX_BYTES + ATTENTION_FWD_SM90_STAGES * ATTENTION_SM90_BOX_BYTES
#define ATTENTION_FWD_SM90_D128_BYTES 4 * ATTENTION_SM90_BOX_BYTES + 2 * ATTENTION_FWD_SM90_STAGES * ATTENTION_SM90_BOX_BYTES
#define ATTENTION_FWD_SM90_ENTRY 3
#define ATTENTION_FWD_SM90_ORDER_WARPS 8
#define ATTENTION_FWD_SM90_ORDER_THREADS ATTENTION_FWD_SM90_ORDER_WARPS * 32
// ---- attention_bwd_sm90.cu: stages of queries and dout; dynamic shared memory is keys and values, the stages, dS twice, dQ, lse and delta of
// each stage ----
#define ATTENTION_BWD_SM90_THREADS 384
#define ATTENTION_BWD_SM90_KEYS 128
#define ATTENTION_BWD_SM90_STAGES 3
#define ATTENTION_BWD_SM90_D64_BYTES 2 * 16384 + ATTENTION_BWD_SM90_STAGES * 16384 + 2 * 16384 + 16384 + ATTENTION_BWD_SM90_STAGES * 512 + 128
#define ATTENTION_BWD_SM90_D128_BYTES 4 * 16384 + ATTENTION_BWD_SM90_STAGES * 32768 + 2 * 16384 + 32768 + ATTENTION_BWD_SM90_STAGES * 512 + 128

// ---- decode.cu: query heads that share one reading of the cache; keys that make a split worth a block ----
#define DECODE_THREADS 128
#define DECODE_HEADS 8
#define DECODE_SPLIT_KEYS 256
#define DECODE_COMBINE_THREADS 128

// ---- lora.cu: branches of a map; tokens of a block that multiplies by a; the tile of a block that adds to rows; ranks, columns of dout
// and columns of x that a block sums over tokens, whose number is a multiple of a batch, and the blocks that there should be of them;
// columns of a block that sums a bias's gradient ----
#define LORA_THREADS 256
#define LORA_BRANCHES 3
#define LORA_ROWS 16
#define LORA_TILE_TOKENS 64
#define LORA_TILE_COLUMNS 128
#define LORA_RANKS 16
#define LORA_DOUT_COLUMNS 512
#define LORA_X_COLUMNS 256
#define LORA_BATCH 64
#define LORA_BLOCKS 264
#define LORA_SUM_COLUMNS 32

// ---- logprob.cu: a block takes a row, or columns of a row, 8 a thread ----
#define LOGPROB_THREADS 256
#define LOGPROB_COLUMNS LOGPROB_THREADS * 8

// ---- gemm_sm90.cuh and what runs on it: a tile of GEMM_M rows and GEMM_N or GEMM_NARROW columns, GEMM_K of k a stage; bytes of dynamic shared memory
// for the ring of stages, for what is on its way out, for barriers; rows of tiles that are taken side by side ----
#define GEMM_THREADS 384
#define GEMM_M 128
#define GEMM_N 256
#define GEMM_NARROW 64
#define GEMM_K 64
#define GEMM_RING 4 * 49152
#define GEMM_STAGING 4 * 8192
#define GEMM_BARRIERS 128
#define GEMM_SHARED GEMM_RING + GEMM_STAGING + GEMM_BARRIERS
#define GEMM_BAND 16

// ---- logprob_sm90.cu: tiles of the vocabulary between two states of a row; rows of a block that joins states, a warp each ----
#define LOGPROB_RANGE 4
#define LOGPROB_FINISH_ROWS 8
#define LOGPROB_FINISH_THREADS LOGPROB_FINISH_ROWS * 32
#define LOGPROB_ROWS_THREADS 1024
#define LOGPROB_GATHER_THREADS 128
