"""Tests of modelnet."""
