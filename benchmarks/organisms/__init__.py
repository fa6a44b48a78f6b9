"""Model organisms beside tinymath: small models whose skill is latent, each in its own way and architecture.

``python -m benchmarks.organisms train NAME`` trains one from scratch; ``problems`` writes the problems of all.
"""

from benchmarks.organisms import cups, ledger, ranks
from benchmarks.organisms.organism import Organism

ORGANISMS: dict[str, Organism] = {
    organism.name: organism for organism in (ledger.ORGANISM, cups.ORGANISM, ranks.ORGANISM)
}
