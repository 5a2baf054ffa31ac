"""How trainers that others wrote publish through hardpoint: TRL, ms-swift, verl, each by its own extension points."""
