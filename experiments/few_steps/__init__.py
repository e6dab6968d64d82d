"""The few-step frontier without training: samplers at equal evaluations, by pathwise error and by distribution."""
