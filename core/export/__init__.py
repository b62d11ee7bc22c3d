"""From a student to an ONNX file in low-bit integers, and the proof that it is one."""
