"""On-policy rivals, as their authors defined them: MAML (with two controls), ProMP and RL2, a file each."""
