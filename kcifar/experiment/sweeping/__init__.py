"""Many runs of one recipe: several seeds, grids, and configurations that Optuna draws."""
