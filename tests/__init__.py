"""Tests. A package, so that child processes import it and not one called tests that a dependency installs."""
