"""What every room may import; knows no step of the pipeline."""
