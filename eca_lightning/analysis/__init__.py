"""What a network costs, and what it has learnt."""
