"""Report: measurements as tables, sentences, plots and pages."""
