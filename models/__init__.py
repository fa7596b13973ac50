"""The zoo's weights and cards, one folder per data set; read through ``importlib.resources`` only."""
