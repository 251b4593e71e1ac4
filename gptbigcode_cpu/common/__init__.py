"""What every other folder uses: arrays, error texts, progress, and careful reading of files."""
