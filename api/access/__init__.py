"""Who calls and how much they may: keys, rates, uploads at the same time. `api.guard` asks."""
