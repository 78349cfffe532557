"""On-policy rivals, as their authors defined them: MAML, ProMP and RL2, with two controls in `controls`; a file each."""
