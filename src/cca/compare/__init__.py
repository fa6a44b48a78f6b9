"""Which circuit, which objective: arms on the same traces and pivots, judged at matched gain and at their best step."""
