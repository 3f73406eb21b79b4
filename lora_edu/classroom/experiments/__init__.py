"""What the notebooks run that is no method, figure or widget; each file says what it shows."""
