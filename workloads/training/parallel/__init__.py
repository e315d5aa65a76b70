"""Training on several devices. The model knows nothing of it: modules are swapped and schedules hooked in from here.

Read in this order: processes and layout (who works with whom), communication (what is measured), exchange and
expert_parallel (experts on several ranks), data_parallel (gradients), stages, actions and schedules (the pipeline),
dualpipev (communication behind computation), pipeline (all of it together).
"""
