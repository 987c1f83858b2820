//! Faults that are planted into copies of real kernels, to see that the simulator's checks catch them. build.rs makes the copies,
//! tests/plants.rs launches them. Where a text below is no longer in its file the build warns and the test fails: the plant has to
//! follow the kernel.

/// A copy of a kernel's file in which one place is another.
pub struct Plant {
    /// Its name; the copy's kernels are launched as `name/kernel`.
    pub name: &'static str,
    /// The kernels' file, a `.cu` of kernels/.
    pub kernels: &'static str,
    /// The file that changes: the same, or a header.
    pub file: &'static str,
    /// What is there.
    pub text: &'static str,
    /// What is put there.
    pub planted: &'static str,
}

/// All of them.
pub const PLANTS: &[Plant] = &[
    // The sum reads other warps' parts before they are written.
    Plant {
        name: "barrier_before_reading",
        kernels: "rmsnorm.cu",
        file: "reduce.cuh",
        text: "    __syncthreads();\n#pragma unroll\n    for (int k = 0; k < N; ++k) {\n        x[k] = partials",
        planted: "#pragma unroll\n    for (int k = 0; k < N; ++k) {\n        x[k] = partials",
    },
    // The next sum's parts are written before all have read this one's.
    Plant {
        name: "barrier_before_writing_again",
        kernels: "logprob.cu",
        file: "reduce.cuh",
        text: "    // The next call writes the partials again.\n    __syncthreads();\n",
        planted: "",
    },
    // The next angles are written while others still turn by these.
    Plant {
        name: "barrier_at_a_loops_end",
        kernels: "rope.cu",
        file: "rope.cu",
        text: "        // The next angles take these ones' place.\n        __syncthreads();\n",
        planted: "",
    },
    // The next tile of keys and values is loaded while others still multiply by this one.
    Plant {
        name: "barrier_before_a_tile",
        kernels: "attention_fwd.cu",
        file: "attention_fwd.cu",
        text: "        __syncthreads();\n        load_tile<D>(keys",
        planted: "        load_tile<D>(keys",
    },
    // Values are multiplied before they have come.
    Plant {
        name: "values_not_waited_for",
        kernels: "attention_fwd_sm90.cu",
        file: "attention_fwd_sm90.cu",
        text: "        mbarrier_wait(&shared.full[at.slot], at.parity);\n        // The next scores",
        planted: "        // The next scores",
    },
    // A stage is filled again while products still read it.
    Plant {
        name: "stage_not_empty",
        kernels: "attention_fwd_sm90.cu",
        file: "attention_fwd_sm90.cu",
        text: "        mbarrier_wait(&shared.empty[at.slot], at.parity ^ 1);\n",
        planted: "",
    },
    // The ring's parity never changes.
    Plant {
        name: "parity_that_stays",
        kernels: "attention_fwd_sm90.cu",
        file: "attention_sm90.cuh",
        text: "        parity ^= slot == 0 ? 1u : 0u;\n",
        planted: "",
    },
    // Values past the end of a sequence meet probabilities of zero as they are.
    Plant {
        name: "values_past_the_end",
        kernels: "attention_fwd_sm90.cu",
        file: "attention_fwd_sm90.cu",
        text: "        if (rows < ATTENTION_SM90_ROWS) {\n            Stages values",
        planted: "        if (rows < 0) {\n            Stages values",
    },
    // A stage of the ring is given back while a product may still read it.
    Plant {
        name: "stage_read_while_filled",
        kernels: "linear_sm90.cu",
        file: "gemm_sm90.cuh",
        text: "                wgmma_wait<1>();\n",
        planted: "                wgmma_wait<2>();\n",
    },
    // A result is put where the one before is still being stored from.
    Plant {
        name: "box_filled_while_stored",
        kernels: "linear_sm90.cu",
        file: "gemm_sm90.cuh",
        text: "        // The box was stored two rounds ago.\n        if (first()) {\n            bulk_wait_read<1>();\n        }\n        meet();\n",
        planted: "",
    },
    // The next tokens are counted while others still place these.
    Plant {
        name: "barrier_before_the_next_tokens",
        kernels: "logprob_sm90.cu",
        file: "logprob_sm90.cu",
        text: "        // The next tokens' numbers take these ones' place.\n        __syncthreads();\n",
        planted: "",
    },
    // Blocks are taken to begin in the order of their numbers.
    Plant {
        name: "turns_by_block_number",
        kernels: "attention_bwd_sm90.cu",
        file: "attention_bwd_sm90.cu",
        text: "lane_of_warp() == 0 ? atomicAdd(turns, 1u) : 0u;",
        planted: "blockIdx.x;",
    },
    // dS of a step is written while the other warpgroup still multiplies by the one before.
    Plant {
        name: "one_tile_of_ds",
        kernels: "attention_bwd_sm90.cu",
        file: "attention_bwd_sm90.cu",
        text: "const int ds_tile = L::DS + i % 2 * L::DS_TILE;",
        planted: "const int ds_tile = L::DS;",
    },
    // Queries are loaded into a stage that is still multiplied by.
    Plant {
        name: "loads_into_a_stage_in_use",
        kernels: "attention_bwd_sm90.cu",
        file: "attention_bwd_sm90.cu",
        text: "            mbarrier_wait(&empty[step.stage], (step.round - 1) & 1);\n",
        planted: "",
    },
    // One element more than there are.
    Plant {
        name: "element_too_far",
        kernels: "rows.cu",
        file: "rows.cu",
        text: "static_cast<int>(n - first));",
        planted: "static_cast<int>(n - first) + 1);",
    },
    // One row more than there are.
    Plant {
        name: "row_too_far",
        kernels: "embed.cu",
        file: "embed.cu",
        text: "    if (i >= t) {\n        return;",
        planted: "    if (i > t) {\n        return;",
    },
    // One place fewer in shared memory than are written.
    Plant {
        name: "shared_array_too_short",
        kernels: "rope.cu",
        file: "rope.cu",
        text: "SHARED(float, cosine, ROPE_ANGLES);",
        planted: "SHARED(float, cosine, ROPE_ANGLES - 1);",
    },
    // Half of the output is not written.
    Plant {
        name: "output_unwritten",
        kernels: "swiglu.cu",
        file: "swiglu.cu",
        text: "    store_piece<WHOLE>(dgate_up + f + j, Piece<act>::of(dup), f - j);\n",
        planted: "",
    },
];
