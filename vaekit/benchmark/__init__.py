"""Speed measurements, recorded together with the machine and the versions used."""
