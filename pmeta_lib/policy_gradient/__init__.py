"""On-policy rivals, as their authors defined them: MAML, ProMP and RL2, a file each, and two controls."""
