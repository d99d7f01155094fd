"""The MATMUL unit around the array: address generators, scales, control."""
