"""Training the reference model: real text in, facts and a checkpoint out."""
