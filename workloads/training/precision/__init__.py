"""FP8 mixed precision and low-precision communication, after DeepSeek-V3 (arXiv 2412.19437, section 3.3).

Precision comes from outside: `convert.py` swaps modules of a finished model, the model knows nothing of it.
Read in this order: blocks (number format), gemm (multiplication), linear (autograd), convert, dispatch (messages).
"""
