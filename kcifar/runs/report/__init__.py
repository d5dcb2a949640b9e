"""The report of one run, or of several compared, as one HTML file that needs no network."""
