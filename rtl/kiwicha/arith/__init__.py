"""FP32 and integer arithmetic with a stated latency."""
