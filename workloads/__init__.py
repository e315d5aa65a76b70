"""The reference workloads: a mixture-of-experts model that trains and generates. Emits facts, never a score.

moe/ is the model, training/ and inference/ run it from outside, probes/ measure the roofline, recorder.py marks
where the time goes, main.py is the process that the command line starts. Only this package imports torch.
"""
