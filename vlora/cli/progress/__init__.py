"""How far a run is: what it does at the moment, of how much, and for how long yet; the line that says so."""
