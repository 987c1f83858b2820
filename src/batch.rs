//! Packing without padding: tokens, positions, bounds, in an order given by a seed.
