"""On-policy rivals, as their authors defined them: MAML (and two controls), ProMP and RL2, a file each."""
