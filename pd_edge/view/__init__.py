"""Clouds with their boxes, ground truth and scores along a time line: as one HTML file, or in Rerun."""
