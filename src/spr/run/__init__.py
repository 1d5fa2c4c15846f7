"""What knows the configuration, the models and the order of the stages."""
