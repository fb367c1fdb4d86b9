"""Measure: metrics, intervals, calibration, paired tests, slices, rankings, and the audit for leaks."""
